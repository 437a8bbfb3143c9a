"""The procedural face data set: drawn, labelled clips, aligned with the runtime's own detector."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ...runtime.faces.alignment import TEMPLATE_SIZE, align, similarity
from ...runtime.faces.detection import FaceDetector
from ...runtime.labels import EXPRESSIONS
from ...runtime.procedural import Identity
from ...runtime.procedural.expressions import ExpressionCurve, render_clip
from ...runtime.procedural.units import describe_course
from ..preparation.processes import run_in_processes
from . import WINDOW

_SECONDS, _RATE = 2.0, 8.0  # of a clip, and its frames per second

HELD_OUT = 1_000_000
"""Numbers of test identities start here; those of training identities start at 0."""
UNLABELLED = 2 * HELD_OUT
"""Numbers of identities for distillation without labels start here, so that they share nobody with the other sets."""


class ProceduralClips:
    """Rendered, detected and aligned clips: every expression once by every identity.

    identities: numbers of the people; a number always gives the same person and clips.
    workers: processes that draw; with 1, clips are drawn in this process.
    progress: called after each identity with the number of identities done.

    Frames are RGB uint8 [T,128,128,3]; `intensity` float32 [N,T] is that of the expression in each frame. `captions`,
    by clip name, describe which action units move and how, without using the label. `landmarks`, by clip name, are
    float32 [T,68,2], as `trace_face` defines them, relative to the frame's size (0..1).
    """

    classes = EXPRESSIONS
    jitter = 0.0
    shares: NDArray[np.float32] | None = None

    def __init__(
        self, identities: Sequence[int], workers: int = 1, progress: Callable[[int], object] = lambda _: None
    ) -> None:
        clips: list[NDArray[np.uint8]] = []
        intensities: list[NDArray[np.float32]] = []
        captions: list[str] = []
        landmarks: list[NDArray[np.float32]] = []
        drawn = run_in_processes(_perform, identities, workers, chunk=4)
        for done, (frames, intensity, told, traced) in enumerate(drawn, 1):
            clips.append(frames)
            captions.extend(told)
            landmarks.extend(traced)
            intensities.append(intensity)
            progress(done)
        self._frames = np.concatenate(clips)
        self.fingerprint = hashlib.sha256(self._frames.data).hexdigest()
        self.intensity = np.concatenate(intensities)
        self.names = [f"{number}/{label}" for number in identities for label in EXPRESSIONS]
        self.captions = dict(zip(self.names, captions, strict=True))
        self.landmarks = dict(zip(self.names, landmarks, strict=True))
        self.groups: list[str | None] = [str(number) for number in identities for _ in EXPRESSIONS]
        self.seconds: list[float | None] = [_SECONDS] * len(self.names)
        self.labels: NDArray[np.int64] = np.tile(np.arange(len(EXPRESSIONS)), len(identities))

    def __len__(self) -> int:
        return len(self.labels)

    def frames(self, index: int, rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        clip: NDArray[np.uint8] = self._frames[index]
        return clip

    def numbered(
        self, index: int, rng: np.random.Generator | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return self.frames(index), np.arange(WINDOW)

    def every_frame(self, index: int) -> Iterator[NDArray[np.uint8]]:
        return iter(self.frames(index))

    def has_frames(self, index: int, count: int) -> bool:
        return count == WINDOW


def _perform(number: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], list[str], NDArray[np.float32]]:
    """Draw one person's expressions: frames [C,T,128,128,3], intensities [C,T], C captions, landmarks [C,T,68,2]."""
    detector = FaceDetector()
    rng = np.random.default_rng([number, 7])
    identity = Identity.sample(rng)
    frames = np.empty((len(EXPRESSIONS), WINDOW, TEMPLATE_SIZE, TEMPLATE_SIZE, 3), np.uint8)
    intensities = np.empty((len(EXPRESSIONS), WINDOW), np.float32)
    captions, landmarks = [], np.empty((len(EXPRESSIONS), WINDOW, 68, 2), np.float32)
    for index, label in enumerate(EXPRESSIONS):
        curve = ExpressionCurve.sample(label, _SECONDS, rng)
        captions.append(describe_course([curve.at(t)[0] for t in curve.times(_RATE)]))
        images, drawings, intensities[index], traces = render_clip(curve, identity, rng, _RATE)
        for t, (image, drawn, traced) in enumerate(zip(images, drawings, traces, strict=True)):
            faces = detector.detect(image)
            # In the few frames where YuNet finds no face, use the landmarks of the drawing.
            points = faces[0].landmarks if faces else drawn
            frames[index, t] = align(image, points, TEMPLATE_SIZE)
            moved = cv2.transform(traced[None], similarity(points, TEMPLATE_SIZE))[0]
            landmarks[index, t] = (moved + 0.5) / TEMPLATE_SIZE  # pixel centres have integer coordinates
    return frames, intensities, captions, landmarks

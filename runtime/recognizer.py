"""The loop: source → face → track → feature → window → prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .alignment import align
from .bundle import DEMO, Bundle
from .engines import Engine, open_graph
from .engines.choice import choose, precision_for
from .errors import DferError
from .faces import FaceDetector
from .machine import default_threads
from .predictions import Prediction
from .sources import Frame, Source, open_source
from .stages import Stopwatch
from .tracks import Box, Track, Tracker
from .windows import FeatureWindow

_LONGEST_BLIND = 0.2
"""Seconds after which faces are looked for even where no frame is sampled, so that slow sampling keeps ids stable."""


@dataclass(frozen=True)
class VisibleFace:
    """A face in a frame: its track, where it is by now, and what was last read from it."""

    track_id: int
    box: Box
    prediction: Prediction | None


@dataclass(frozen=True)
class Step:
    """One frame of the source, the predictions made at it (none unless it was sampled), and all faces in view."""

    frame: Frame
    predictions: tuple[Prediction, ...]
    faces: tuple[VisibleFace, ...]


class Recognizer:
    """Expressions from video with the engines of a bundle. Use as a context manager.

    bundle: folder of an exported model; None takes the demo bundle that ships with the package.
    provider: one of `engines.PROVIDERS`; "auto" takes what is fastest here (see `engines.choice.choose`).
    window: seconds of video behind each prediction. fps: frames per second that are sampled and encoded.
    max_faces: how many faces are read, largest first; None for all.
    precision: which of the bundle's graphs; "auto" takes what the bundle recommends for the provider, else FP32.
    threads: of the CPU for one run of an engine; None for all physical cores this process may use.
    warn: told, in one line, about trouble that is not an error.

    Raises DferError for a bad bundle, an absent provider or impossible settings.
    """

    def __init__(
        self,
        bundle: str | Path | None = None,
        *,
        provider: str = "auto",
        window: float = 2.0,
        fps: float = 8.0,
        max_faces: int | None = None,
        precision: str = "auto",
        threads: int | None = None,
        warn: Callable[[str], object] = lambda _: None,
    ) -> None:
        if not (0 < window <= 60 and 0 < fps <= 240 and window * fps >= 2):
            raise DferError(
                f"--window {window:g} --fps {fps:g}: a window must hold at least two sampled frames (and at most 60 s)"
            )
        self.bundle = Bundle.open(DEMO if bundle is None else bundle)
        if precision not in ("auto", *self.bundle.manifest.precisions):
            held = ", ".join(self.bundle.manifest.precisions)
            raise DferError(f"bundle {self.bundle.path} has no {precision} graphs; it has {held}")
        self.window, self.fps, self.max_faces, self.warn = window, fps, max_faces, warn
        self.threads = default_threads(0) if threads is None else threads
        self.stopwatch = Stopwatch()
        self.detector = FaceDetector()
        self.precision, self.encoder, self.head = self._open_engines(provider, precision)
        self._try_engines()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the probabilities, in their order."""
        return self.bundle.manifest.classes

    @property
    def provider(self) -> str:
        """What really runs the encoder."""
        return self.encoder.provider

    def stream(self, place: str | int | Path) -> Iterator[Prediction]:
        """Predictions for a camera number, file, folder or URL, as they are made."""
        with open_source(place, image_rate=self.fps, warn=self.warn) as source:
            for step in self.steps(source):
                yield from step.predictions

    def steps(self, source: Source) -> Iterator[Step]:
        """Every frame of an open source with what was seen in it; memory does not grow with its length."""
        fps = self.fps
        if source.rate is not None and source.rate < fps:
            fps = source.rate
            self.warn(f"{source.name}: has {fps:g} frames per second; --fps {self.fps:g} is lowered to that")
            if self.window * fps < 2:
                raise DferError(
                    f"{source.name}: {self.window:g} s hold fewer than two of its frames; a longer --window is needed"
                )
        view = _View(self, source.name, 1 / fps)
        for frame in source:
            self.stopwatch.add("decode", frame.decode)
            yield view.advance(frame)

    def _open_engines(self, provider: str, precision: str) -> tuple[str, Engine, Engine]:
        """The precision that runs, and both engines."""
        if provider == "auto":
            provider, recommended = choose(self.bundle, self.threads, self.warn)
        else:
            recommended = precision_for(self.bundle, provider)
        if precision == "auto":
            precision = recommended
        encoder, head = self.bundle.manifest.graphs(precision, provider)
        opened = open_graph(self.bundle, head, provider, self.threads, self.warn)
        return precision, open_graph(self.bundle, encoder, provider, self.threads, self.warn), opened

    def _try_engines(self) -> None:
        """Run both graphs once, which also warms them up; raises DferError when they are not what the manifest says."""
        manifest = self.bundle.manifest
        size, window, width, classes = manifest.preprocessing.size, manifest.window, manifest.width, len(self.classes)
        features = self.encode(np.zeros((2, size, size, 3), np.uint8))
        probabilities = self.classify(np.zeros((2, window, width), np.float32))
        if features.shape != (2, width) or probabilities.shape != (2, classes):
            raise DferError(
                f"bundle {self.bundle.path}: the graphs give {features.shape[1:]} and {probabilities.shape[1:]} per "
                f"row, the manifest says ({width},) and ({classes},); export it again"
            )

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features [N,D] of aligned RGB crops uint8 [N,H,W,3]."""
        (features,) = self.encoder.run({"frames": crops}).values()
        return features

    def classify(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities [N,C] of windows of features [N,T,D]."""
        (probabilities,) = self.head.run({"features": windows}).values()
        return probabilities

    def close(self) -> None:
        self.encoder.close()
        self.head.close()

    def __enter__(self) -> Recognizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _View:
    """What is remembered about one source: tracks, their feature windows and latest predictions."""

    def __init__(self, recognizer: Recognizer, source: str, step: float) -> None:
        self._recognizer, self._source, self._step = recognizer, source, step
        self._tracker = Tracker(patience=max(1.0, 2.25 * step))
        self._windows: dict[int, FeatureWindow] = {}
        self._latest: dict[int, Prediction] = {}
        self._sampled = -1  # number of the last sampling period that got its frame
        self._looked = -1.0  # time of the last detection

    def advance(self, frame: Frame) -> Step:
        period = int((frame.time + 1e-3) / self._step)  # time stamps may be rounded to milliseconds
        sampled = period > self._sampled
        predictions: tuple[Prediction, ...] = ()
        if sampled or frame.time - self._looked >= _LONGEST_BLIND:
            tracks = self._find(frame)
            self._looked = frame.time
            if sampled:
                self._sampled = period
                predictions = self._predict(frame, tracks)
        return Step(frame, predictions, self._visible(frame.time))

    def _find(self, frame: Frame) -> list[Track]:
        recognizer = self._recognizer
        with recognizer.stopwatch.time("detect"):
            faces = recognizer.detector.detect(frame.image)
        with recognizer.stopwatch.time("track"):
            tracks = self._tracker.update(faces, frame.time)
            alive = {track.id for track in self._tracker.tracks}
            for ended in self._windows.keys() - alive:
                del self._windows[ended]
                del self._latest[ended]
        return tracks[: recognizer.max_faces]  # largest first; cut here, for a face left out keeps its id

    def _predict(self, frame: Frame, tracks: list[Track]) -> tuple[Prediction, ...]:
        """Encode each face of this frame, once and in one batch; read all windows that now end here."""
        if not tracks:
            return ()
        recognizer = self._recognizer
        manifest = recognizer.bundle.manifest
        with recognizer.stopwatch.time("align"):
            size = manifest.preprocessing.size
            crops = np.stack([align(frame.image, track.face.landmarks, size) for track in tracks])
        with recognizer.stopwatch.time("encode"):
            features = recognizer.encode(crops)
        with recognizer.stopwatch.time("head"):
            for track, feature in zip(tracks, features, strict=True):
                if track.id not in self._windows:
                    self._windows[track.id] = FeatureWindow(manifest.window, recognizer.window, self._step)
                self._windows[track.id].push(frame.time, feature)
            windows = [self._windows[track.id] for track in tracks]
            probabilities = recognizer.classify(np.stack([window.stack() for window in windows]))
        for track, window, row in zip(tracks, windows, probabilities, strict=True):
            self._latest[track.id] = Prediction(
                source=self._source,
                frame=frame.index,
                time=frame.time,
                track_id=track.id,
                box=track.face.box,
                probabilities=row,
                classes=recognizer.classes,
                state="warming" if window.warming else "steady",
            )
        return tuple(self._latest[track.id] for track in tracks)

    def _visible(self, time: float) -> tuple[VisibleFace, ...]:
        """The tracks seen at the last detection, carried along to `time`."""
        return tuple(
            VisibleFace(track.id, track.box_at(time), self._latest.get(track.id))
            for track in self._tracker.tracks
            if track.time >= self._looked
        )

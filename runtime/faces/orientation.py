"""Face orientation: ceiling cameras and turned phones give rotated faces, which detectors locate only poorly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ParameterError
from ..sources.frames import Frame, Source
from ..sources.rotation import RotatedSource
from .detection import Face, FaceDetector

TURNS = (0, 90, 180, 270)
"""Degrees clockwise by which an image can be rotated."""

_ROTATIONS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
_SAMPLES = 6  # faces that vote
_MARGIN = 0.02
"""Least lead, in mean score, of another orientation: about half of the least that real faces had, 0.035, since the same
face lies on the other side where it is turned."""
_SIDE = 160  # side in pixels of the square around a face that is examined
_CLEAR, _EVERY = 0.7, 6  # score of a clear face; examine every so many images
_MOST_EMPTY = 240  # images without a face after which to stop looking for rotated ones


def turn(image: NDArray[np.uint8], degrees: int) -> NDArray[np.uint8]:
    """Rotate an image [H,W,3] clockwise by one of `TURNS`."""
    return image if degrees == 0 else np.asarray(cv2.rotate(image, _ROTATIONS[degrees]), np.uint8)


class OrientationVote:
    """Finds the orientation, of four, in which the detector scores the first faces of a stream highest.

    The detector also finds upside-down faces, with lower scores and landmarks placed as in upright ones.
    """

    def __init__(self) -> None:
        self._close: FaceDetector | None = None  # created when needed, in most streams once or never
        self._far: FaceDetector | None = None
        self._scores: list[list[float]] = []
        self._empty = 0  # images without a face

    def add(self, image: NDArray[np.uint8], faces: Sequence[Face]) -> None:
        """Let the largest face of an RGB image [H,W,3] vote; without a face, look for a rotated one now and then."""
        if self.decided:
            return
        if not faces:
            if self._empty % _EVERY == 0 and self._empty < _MOST_EMPTY:
                self._far = self._far or FaceDetector(min_score=_CLEAR, min_face=40)
                scores = _scores(self._far, image)
                if max(scores) > 0:
                    self._scores.append(scores)
            self._empty += 1
            return
        x, y, width, height = max(faces, key=lambda face: face.size).box
        half = max(width, height)
        left, top = max(0, round(x + width / 2 - half)), max(0, round(y + height / 2 - half))
        part = image[top : top + round(2 * half), left : left + round(2 * half)]
        if part.size:
            square = np.asarray(cv2.resize(part, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.uint8)
            self._close = self._close or FaceDetector(min_score=0.3)
            self._scores.append(_scores(self._close, square))

    @property
    def decided(self) -> bool:
        """Whether enough faces have voted; one is enough if it is clearly upright."""
        if not self._scores:
            return False
        upright, *others = np.mean(self._scores, axis=0)
        return len(self._scores) >= _SAMPLES or bool(upright - max(others) > _MARGIN)

    @property
    def degrees(self) -> int:
        """Degrees clockwise by which to rotate images to make faces upright, as far as is known."""
        if not self._scores:
            return 0
        means = np.mean(self._scores, axis=0)
        best = int(means.argmax())
        return TURNS[best] if means[best] - means[0] > _MARGIN else 0


class AutoTurn:
    """Rotates images to make faces upright, as decided by the first image with a clear face; photographs one by one.

    told: called with the degrees, unless 0, and the frame that showed it: once, but for each photograph.
    """

    def __init__(self, told: Callable[[int, Frame], object]) -> None:
        self._told = told
        self._detector: FaceDetector | None = None  # created by the reader thread
        self._degrees: int | None = None
        self._seen = 0

    @property
    def degrees(self) -> int:
        """Degrees clockwise by which images are rotated now."""
        return self._degrees or 0

    def __call__(self, frame: Frame) -> NDArray[np.uint8]:
        if frame.photo:
            self._degrees, self._seen = None, 0
        if self._degrees is None:
            if self._seen % _EVERY == 0:
                self._look(frame)
            self._seen += 1
        return turn(frame.image, self.degrees)

    def _look(self, frame: Frame) -> None:
        self._detector = self._detector or FaceDetector(min_score=_CLEAR)
        scores = _scores(self._detector, frame.image)
        if max(scores) > 0:
            best = int(np.argmax(scores))
            self._degrees = TURNS[best] if scores[best] - scores[0] > _MARGIN else 0
            if self._degrees:
                self._told(self._degrees, frame)


def rotated(source: Source, rotate: int | Literal["auto"], warn: Callable[[str], object]) -> Source:
    """Return the source with its images rotated clockwise by one of `TURNS`, or by `AutoTurn`, which is told to `warn`.

    Raises ParameterError for any other rotation.
    """

    def tell(degrees: int, frame: Frame) -> None:
        turned = f"{frame.file} is" if frame.photo else "pictures are"
        warn(f"{source.name}: faces are turned; {turned} turned by {degrees} degrees")

    if rotate == "auto":
        automatic = AutoTurn(tell)
        return RotatedSource(source, automatic, lambda: automatic.degrees)
    if rotate not in TURNS:
        raise ParameterError("rotate", f"{rotate!r} is not one of {', '.join(map(str, TURNS))} or auto")
    return RotatedSource(source, lambda frame: turn(frame.image, rotate), lambda: rotate)


def _scores(detector: FaceDetector, image: NDArray[np.uint8]) -> list[float]:
    """Return the best face score of an image in each of the four orientations."""
    found = (detector.detect(turn(image, degrees)) for degrees in TURNS)
    return [max((face.score for face in faces), default=0.0) for faces in found]

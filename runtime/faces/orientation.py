"""Which way up faces are: cameras hang from ceilings, phones are turned, and detectors find such faces half-right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ..sources.frames import Frame
from .detection import Face, FaceDetector

TURNS = (0, 90, 180, 270)
"""Degrees clockwise by which a picture can be turned."""

_ROTATIONS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
_SAMPLES = 6  # faces that vote
_MARGIN = 0.04  # mean score by which another way up must lead; an upright face leads by 0.08 and more
_SIDE = 160  # pixels of the square around a face that is looked at
_CLEAR, _EVERY = 0.7, 6  # score of a clear face; pictures from one look for it to the next
_MOST_EMPTY = 240  # pictures without a face after which turned ones are no longer looked for


def turn(image: NDArray[np.uint8], degrees: int) -> NDArray[np.uint8]:
    """A picture [H,W,3] turned clockwise by one of `TURNS`."""
    return image if degrees == 0 else np.asarray(cv2.rotate(image, _ROTATIONS[degrees]), np.uint8)


class OrientationVote:
    """Asks of the first faces of a stream in which of four orientations the detector finds them best.

    It finds faces that stand on their heads, too, with lower scores and landmarks where they would be in upright ones.
    """

    def __init__(self) -> None:
        self._close: FaceDetector | None = None  # made when they are needed, which in most streams is once or never
        self._far: FaceDetector | None = None
        self._scores: list[list[float]] = []
        self._empty = 0  # pictures without a face

    def add(self, image: NDArray[np.uint8], faces: Sequence[Face]) -> None:
        """Let the largest face of an RGB image [H,W,3] vote; if it has none, look for a turned one now and then."""
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
        """Whether enough faces have voted: of one that is clearly upright, one is enough."""
        if not self._scores:
            return False
        upright, *others = np.mean(self._scores, axis=0)
        return len(self._scores) >= _SAMPLES or bool(upright - max(others) > _MARGIN)

    @property
    def degrees(self) -> int:
        """How far clockwise pictures must be turned for faces to be upright, as far as is known."""
        if not self._scores:
            return 0
        means = np.mean(self._scores, axis=0)
        best = int(means.argmax())
        return TURNS[best] if means[best] - means[0] > _MARGIN else 0


class AutoTurn:
    """Turns pictures so that faces are upright, as the first picture with a clear face shows; photographs one by one.

    told: hears of the degrees, unless they are 0, and in which frame that was seen: once, but of each photograph.
    """

    def __init__(self, told: Callable[[int, Frame], object]) -> None:
        self._told = told
        self._detector: FaceDetector | None = None  # made by the thread that reads
        self._degrees: int | None = None
        self._seen = 0

    def __call__(self, frame: Frame) -> NDArray[np.uint8]:
        if frame.photo:
            self._degrees, self._seen = None, 0
        if self._degrees is None:
            if self._seen % _EVERY == 0:
                self._look(frame)
            self._seen += 1
        return turn(frame.image, self._degrees or 0)

    def _look(self, frame: Frame) -> None:
        self._detector = self._detector or FaceDetector(min_score=_CLEAR)
        scores = _scores(self._detector, frame.image)
        if max(scores) > 0:
            best = int(np.argmax(scores))
            self._degrees = TURNS[best] if scores[best] - scores[0] > _MARGIN else 0
            if self._degrees:
                self._told(self._degrees, frame)


def _scores(detector: FaceDetector, image: NDArray[np.uint8]) -> list[float]:
    """The best score of a face in a picture in each of the four orientations."""
    found = (detector.detect(turn(image, degrees)) for degrees in TURNS)
    return [max((face.score for face in faces), default=0.0) for faces in found]

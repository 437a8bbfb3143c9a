"""Finds out why no face was found: black images, faces that are too small, or nobody there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..faces.detection import FaceDetector
from ..predictions import Step

_BLACK = 24  # an image whose brightest value, 0..255, is lower counts as black
_SMALLEST = 12  # pixels; smaller faces show no expression


class Absence:
    """A sink that, until the first face, examines frames 1, 2, 4, 8, … of each source, and so only a few.

    min_face: side of the smallest face that is classified, pixels.
    """

    def __init__(self, min_face: int) -> None:
        self._min_face = min_face
        self._frames: dict[str, int] = {}
        self._found = False
        self._looked = self._black = 0
        self._largest = 0.0  # side of a face that was too small, pixels
        self._detector: FaceDetector | None = None

    def write(self, step: Step) -> None:
        self._found = self._found or bool(step.faces)
        count = self._frames[step.source] = self._frames.get(step.source, 0) + 1
        if not self._found and count & (count - 1) == 0:
            self._look(step.frame.image)

    def _look(self, image: NDArray[np.uint8]) -> None:
        self._looked += 1
        if image[::4, ::4].max() < _BLACK:
            self._black += 1
        elif self._min_face > _SMALLEST:
            if self._detector is None:
                self._detector = FaceDetector(max_side=1280, min_face=_SMALLEST)
            sides = [min(face.box[2:]) for face in self._detector.detect(image)]
            self._largest = max([self._largest, *(side for side in sides if side < self._min_face)])

    @property
    def reason(self) -> str:
        """A sentence for a run in which no face was classified."""
        if not self._frames:
            return "no face was found: there was no picture"
        if self._found:
            return "no face was read: none was seen from the front when it was looked at"
        if self._black == self._looked:
            return (
                "no face was found: the pictures are black; is the lens covered, or the video one that cannot be "
                "decoded here?"
            )
        if self._largest:
            return (
                f"no face was found: they are smaller than --min-face {self._min_face}; the largest of "
                f"{self._looked} pictures looked at again is {self._largest:.0f} pixels"
            )
        frames = sum(self._frames.values())
        small = f", not even one smaller than --min-face {self._min_face}" if self._min_face > _SMALLEST else ""
        return f"no face was found in {frames} pictures{small}; if they lie on their side: --rotate auto"

    def close(self) -> None:
        """Do nothing: no resources are held."""

    discard = close

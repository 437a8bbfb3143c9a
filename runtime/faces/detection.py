"""Face detection with YuNet: scales images to a suitable size and refines small faces in close-ups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from . import scaling
from .yunet import YuNet

_FINDABLE = 20  # face width, in pixels of YuNet's input, that it finds reliably (at 16, half of them)
_SHARP = 50  # width there at which its landmarks are as good as they get
_AROUND = 0.5  # margin of a close-up on each side, relative to the box's longer side
_CLOSE_UP = 160  # side of a close-up in pixels, in which the face is then about 80 wide
_SAME = 0.3  # least intersection over union of a face found in a close-up with the original box

Box = tuple[float, float, float, float]
"""x, y (top left corner, may lie outside the image), width, height, in pixels."""


@dataclass(frozen=True)
class Face:
    """A face found in an image, in that image's pixels.

    landmarks: float32 [5,2], eyes, nose tip, mouth corners, left to right as seen in the image.
    score: detector's confidence, 0..1.
    """

    box: Box
    landmarks: NDArray[np.float32]
    score: float

    @property
    def size(self) -> float:
        """Square root of the box's area, pixels."""
        return math.sqrt(self.box[2] * self.box[3])

    @property
    def nose(self) -> float:
        """Position of the nose tip along the line between the eyes: 0 at the left eye, 1 at the right one."""
        (x, y), (right, down), (tip, height) = self.landmarks[:3].tolist()
        across, drop = right - x, down - y
        return float((across * (tip - x) + drop * (height - y)) / max(across**2 + drop**2, 1e-9))

    @property
    def frontal(self) -> bool:
        """Whether the five landmarks are meaningful: the nose tip lies between the eyes, along their line.

        In profile one eye is hidden; the detector places it beside the other, and a crop aligned by such points is too
        large and shows half a cheek. This holds for 1 % of 2,117 press photographs, all of them visibly profiles, and
        for none of 688 frames of four videos (there the nose stays between 0.31 and 0.64 of the way).
        """
        return 0 < self.nose < 1


@dataclass(frozen=True)
class GivenFace(Face):
    """A face supplied by the user: its box is kept as it is.

    id: the track it belongs to; None to let the tracker decide.
    """

    id: int | None = None


class FaceDetector:
    """YuNet, on suitably scaled images. May be used from several threads.

    min_score: detections with lower scores are dropped. max_side: larger images are shrunk to it first.
    min_face: shorter side, in pixels of the image, of the smallest box to return. The image is shrunk until such a face
    is 20 px, about the least that YuNet finds reliably; faces that are small there get their landmarks from a close-up.
    Time falls with the square: 40 takes a quarter of the time of 0, which finds all that `max_side` leaves visible.

    Raises DferError when the weights are missing or are not the file we know.
    """

    def __init__(self, min_score: float = 0.7, max_side: int = 640, min_face: float = 0) -> None:
        self._net, self._min_score = YuNet(), min_score
        self._max_side, self._min_face = max_side, min_face

    def detect(self, image: NDArray[np.uint8], known: Sequence[Face] = ()) -> list[Face]:
        """Return the faces of an RGB image [H,W,3], largest first.

        known: faces of a moment ago. If all were large, half the width and height suffice for them, in a quarter of the
        time, and new faces are found from twice the usual size up. If fewer are found, the full size is searched.
        """
        height, width = image.shape[:2]
        shrink = min(1.0, self._max_side / max(height, width), _FINDABLE / max(self._min_face, 1e-9))
        if known and min(face.size for face in known) * shrink / 2 >= _SHARP:
            faces = self._search(image, shrink / 2)
            if len(faces) >= len(known):
                return faces
        return self._search(image, shrink)

    def _search(self, image: NDArray[np.uint8], shrink: float) -> list[Face]:
        height, width = image.shape[:2]
        small = image
        if shrink < 1:
            small = scaling.shrink(image, max(1, round(width * shrink)), max(1, round(height * shrink)))
        faces = []
        for row in self._net.find(small, self._min_score):
            face = _face(row, width / small.shape[1], height / small.shape[0])
            *_, w, h = face.box
            if not (np.isfinite(row).all() and 0 < w <= 2 * width and 0 < h <= 2 * height):
                continue  # YuNet returns such boxes for images one pixel high
            if min(w, h) < self._min_face:
                continue
            if self._min_face and face.size * shrink < _SHARP:
                landmarks = self.refine_landmarks(image, face.box)
                face = face if landmarks is None else replace(face, landmarks=landmarks)
            faces.append(face)
        return sorted(faces, key=lambda face: face.size, reverse=True)

    def refine_landmarks(self, image: NDArray[np.uint8], box: Box) -> NDArray[np.float32] | None:
        """Return landmarks [5,2] of the face that best matches a box of an RGB image, from a close-up; None if there is
        none."""
        x, y, width, height = box
        side = max(width, height) * (1 + 2 * _AROUND)
        left, top = x + width / 2 - side / 2, y + height / 2 - side / 2
        part = _cut_square(image, left, top, side, _CLOSE_UP)
        best, overlap = None, _SAME
        for row in self._net.find(part, min(self._min_score, 0.5)):
            face = _face(row, side / _CLOSE_UP, side / _CLOSE_UP)
            u, v, w, h = face.box
            shared = intersection_over_union((u + left, v + top, w, h), box)
            if shared >= overlap:
                best, overlap = (face.landmarks + np.array([left, top])).astype(np.float32), shared
        return best


def _face(row: NDArray[np.float32], across: float, down: float) -> Face:
    """Convert a row of YuNet's output, scaling x by `across` and y by `down`."""
    scale = np.array([across, down], np.float32)
    x, y, width, height = (row[:4].reshape(2, 2) * scale).ravel().tolist()
    return Face((x, y, width, height), row[4:14].reshape(5, 2) * scale, float(row[14]))


def _cut_square(image: NDArray[np.uint8], left: float, top: float, side: float, size: int) -> NDArray[np.uint8]:
    """Cut a square out of an image and resize it to `size` pixels; outside the image, the edge is repeated.

    When it shrinks it is averaged, not sampled: the part is first cut out and shrunk.
    """
    x0, y0 = max(0, math.floor(left)), max(0, math.floor(top))
    x1, y1 = min(image.shape[1], math.ceil(left + side)), min(image.shape[0], math.ceil(top + side))
    part, zoom = image[y0:y1, x0:x1], size / side
    if zoom < 1:
        part = scaling.shrink(part, max(1, round(part.shape[1] * zoom)), max(1, round(part.shape[0] * zoom)))
    across, down = (x1 - x0) / part.shape[1], (y1 - y0) / part.shape[0]
    matrix = np.array([[zoom * across, 0, (x0 - left) * zoom], [0, zoom * down, (y0 - top) * zoom]])
    return np.asarray(cv2.warpAffine(part, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def intersection(a: Box, b: Box) -> float:
    """Return the area that two boxes share."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def intersection_over_union(a: Box, b: Box) -> float:
    """Return the intersection of two boxes over their union; 0 for empty boxes."""
    shared = intersection(a, b)
    return shared / max(a[2] * a[3] + b[2] * b[3] - shared, 1e-9)

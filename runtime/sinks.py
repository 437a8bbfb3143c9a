"""The kinds of result files: CSV, JSONL, an annotated video."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from .errors import DferError
from .predictions import Prediction


class CsvSink:
    """One line per prediction; complete lines reach the disk at once, so a killed run leaves a valid file.

    Columns: source, frame, time_s, track, x, y, w, h, label, confidence, one per class, state.
    """

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        self._file = path.open("w", newline="", encoding="utf-8", buffering=1)
        self._writer = csv.writer(self._file, lineterminator="\n")
        columns = ("source", "frame", "time_s", "track", "x", "y", "w", "h", "label", "confidence")
        self._writer.writerow([*columns, *classes, "state"])

    def write(self, prediction: Prediction) -> None:
        self._writer.writerow(
            [
                prediction.source,
                prediction.frame,
                f"{prediction.time:.4f}",
                prediction.track_id,
                *(f"{value:.1f}" for value in prediction.box),
                prediction.label,
                f"{prediction.confidence:.4f}",
                *(f"{value:.4f}" for value in prediction.probabilities),
                prediction.state,
            ]
        )

    def close(self) -> None:
        self._file.close()


class JsonlSink:
    """The same columns as CsvSink's, one JSON object per line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def write(self, prediction: Prediction) -> None:
        x, y, w, h = (round(value, 1) for value in prediction.box)
        row = {
            "source": prediction.source,
            "frame": prediction.frame,
            "time_s": round(prediction.time, 4),
            "track": prediction.track_id,
            "x": x,
            "y": y,
            "w": w,
            "h": h,
            "label": prediction.label,
            "confidence": round(prediction.confidence, 4),
            **{
                name: round(float(value), 4)
                for name, value in zip(prediction.classes, prediction.probabilities, strict=True)
            },
            "state": prediction.state,
        }
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class VideoSink:
    """An MP4 (MPEG-4 part 2) of RGB frames; it gets its name when it is complete.

    Raises DferError when OpenCV cannot encode to `path`.
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        import cv2

        self._path = path
        self._partial = path.with_name(f".{path.name}.part.mp4")
        self._size = size
        self._writer = cv2.VideoWriter(str(self._partial), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        if not self._writer.isOpened():
            raise DferError(f"{path}: OpenCV cannot write a {size[0]}×{size[1]} video at {rate:g} frames/s here")

    def write(self, image: NDArray[np.uint8]) -> None:
        """Add a frame [H,W,3]; frames of another size (a folder of mixed images) are scaled to the first's."""
        import cv2

        if image.shape[1::-1] != self._size:
            image = np.asarray(cv2.resize(image, self._size), dtype=np.uint8)
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._writer.release()
        self._partial.replace(self._path)

    def discard(self) -> None:
        self._writer.release()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> VideoSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

"""The kinds of result files: CSV, JSONL, an annotated video."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DferError
from .predictions import Prediction

_LARGEST_SIDE, _SMALLEST_SIDE = 4096, 2  # pixels; MPEG-4 ends at 8191, players before


class CsvSink:
    """One line per prediction; complete lines reach the disk at once, so a killed run leaves a valid file.

    Columns: source, frame, time_s, track, x, y, w, h, label, confidence, one per class, state.
    """

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        self._path, self._rows = path, 0
        self._file = path.open("w", newline="", encoding="utf-8", buffering=1)
        self._writer = csv.writer(self._file, lineterminator="\n")
        columns = ("source", "frame", "time_s", "track", "x", "y", "w", "h", "label", "confidence")
        self._writer.writerow([*columns, *classes, "state"])

    def write(self, prediction: Prediction) -> None:
        self._rows += 1
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

    def discard(self) -> None:
        """Close; the file goes unless it holds a row."""
        self._file.close()
        if not self._rows:
            self._path.unlink(missing_ok=True)


class JsonlSink:
    """The same columns as CsvSink's, one JSON object per line."""

    def __init__(self, path: Path) -> None:
        self._path, self._rows = path, 0
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def write(self, prediction: Prediction) -> None:
        self._rows += 1
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

    def discard(self) -> None:
        """Close; the file goes unless it holds a row."""
        self._file.close()
        if not self._rows:
            self._path.unlink(missing_ok=True)


class VideoSink:
    """An MP4 (MPEG-4 part 2) of RGB frames at their media times; it gets its name when it is complete.

    rate: frames per second; a frame is repeated or left out where the source's times are not even, so that the video
    lasts as long as what it shows. size: width and height of the frames, pixels; more than 4096 are scaled down.
    Raises DferError when OpenCV cannot encode to `path`.
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        import cv2

        self._path = path
        self._partial = path.with_name(f".{path.name}.part.mp4")
        shrink = min(1.0, _LARGEST_SIDE / max(size))
        self._size = max(_SMALLEST_SIDE, round(size[0] * shrink)), max(_SMALLEST_SIDE, round(size[1] * shrink))
        self._written = 0
        self._shown: Any = None  # the frame that lasts until the next
        for self._rate in (rate, max(1.0, float(round(rate)))):  # MPEG-4 cannot express every odd rate
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._partial), codec, self._rate, self._size)
            if self._writer.isOpened():
                return
        self.discard()
        raise DferError(f"{path}: OpenCV cannot write a {size[0]}×{size[1]} video at {rate:g} frames/s there")

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Show a frame [H,W,3] from `time` (seconds, rising) on; frames of another size are scaled to the first's."""
        import cv2

        if image.shape[1::-1] != self._size:
            image = np.asarray(cv2.resize(image, self._size), dtype=np.uint8)
        place = round(time * self._rate)
        while self._shown is not None and self._written < place:
            self._writer.write(self._shown)
            self._written += 1
        self._shown = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if self._written <= place:
            self._writer.write(self._shown)
            self._written += 1

    def close(self) -> None:
        self._writer.release()
        self._partial.replace(self._path)

    def discard(self) -> None:
        self._writer.release()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> VideoSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

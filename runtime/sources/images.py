"""Images as a source: a folder, a numbered sequence, a single one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic, perf_counter

import cv2
import numpy as np

from ..errors import DferError
from .frames import Frame, Source, Warn


class ImageFolder(Source):
    """Images in the order given, `rate` of them to a second. One that cannot be read keeps its number and its time.

    Raises DferError when none can be read.
    """

    def __init__(self, paths: list[Path], name: str, rate: float, warn: Warn) -> None:
        self.name, self.rate, self.count = name, rate, len(paths)
        self.warn = warn
        self._paths, self._step = paths, 1 / rate
        self._closed = False
        if all(cv2.imread(str(path)) is None for path in paths):  # ends at the first good one
            raise DferError(f"{paths[0]}: not an image that OpenCV can read" + (", nor the others" * (len(paths) > 1)))

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            if self._closed:
                return
            start = perf_counter()
            image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
            if image is None:
                self.warn(f"{path}: not an image that OpenCV can read; left out")
                continue
            took = perf_counter() - start
            yield Frame(np.asarray(image, dtype=np.uint8), index, index * self._step, took, monotonic())

    def close(self) -> None:
        self._closed = True

"""Batches of views of single faces, with a teacher's features of the same views."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data import Batch, ClipSet
from ..data.batches import Sampler, Sampling, shards
from ..data.features import Extraction, FeatureSet, stored_view

_AHEAD = 2  # batches that are prepared in advance


class TaughtBatches:
    """Augmented views of faces, recreated from their seeds, with their stored features.

    crops: all faces, as single frames. features: of them, [V,N,1,D], computed with `extraction`; its rows are the faces
    to draw, and its labels the teacher's predictions, by which batches are balanced. size: of the views, pixels.
    workers: threads that make views. progress: called after each random batch.
    """

    pixels: ClassVar[bool] = True

    def __init__(
        self,
        crops: ClipSet,
        features: FeatureSet,
        extraction: Extraction,
        size: int,
        workers: int,
        sampling: Sampling,
        progress: Callable[[], object] = lambda: None,
    ) -> None:
        self._crops, self._features, self._extraction, self._size = crops, features, extraction, size
        self._workers, self._sampling, self._progress = workers, sampling, progress
        self._sampler = Sampler([features.labels], [1.0], sampling)
        self.frequency, self.steps = self._sampler.frequency, self._sampler.steps

    def random(self, rng: np.random.Generator) -> Iterator[Batch]:
        with ThreadPoolExecutor(self._workers) as pool:
            ahead: deque[tuple[list[Future[NDArray[np.uint8]]], NDArray[np.int64], NDArray[np.int64]]] = deque()
            for step in range(self.steps + _AHEAD):
                if step < self.steps:
                    ((_, drawn),) = self._sampler.indices(rng)
                    views = rng.integers(0, self._features.features.shape[0], len(drawn))
                    pixels = [pool.submit(self._view, *one) for one in zip(drawn, views, strict=True)]
                    ahead.append((pixels, drawn, views))
                if step >= _AHEAD:
                    pixels, drawn, views = ahead.popleft()
                    yield self._batch([one.result() for one in pixels], drawn, views)
                    self._progress()

    def in_order(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(self._workers) as pool:
            for part in shards(len(self._features.labels), self._sampling.batch, self._sampling):
                rows = np.arange(part.start, part.stop)
                views = np.zeros_like(rows)
                yield self._batch(list(pool.map(self._view, rows, views)), rows, views)

    def _view(self, row: int, view: int) -> NDArray[np.uint8]:
        crop = int(self._features.rows[row])
        (pixels,) = stored_view(self._crops, crop, int(view), self._size, self._extraction)
        return np.asarray(pixels, np.uint8)

    def _batch(self, pixels: list[NDArray[np.uint8]], rows: NDArray[np.int64], views: NDArray[np.int64]) -> Batch:
        taught = self._features.features[views, self._features.rows[rows], 0].astype(np.float32)
        names = [self._features.names[row] for row in rows]
        labels: Tensor = torch.from_numpy(self._features.labels[rows])
        return Batch(torch.from_numpy(np.stack(pixels)), labels, names, taught=torch.from_numpy(taught))

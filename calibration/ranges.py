"""Activation ranges for INT8: maximum, percentile, and minimum divergence (TensorRT's entropy calibration)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..runtime.storage import atomic_write
from .graphs import Array, observe

KINDS = ("max", "percentile", "entropy")
PERCENTILE = 99.99
BINS = 2048
LEVELS = 128
"""Number of magnitudes in symmetric INT8."""
SAMPLE = 1 << 16
"""Values per tensor and batch, or a few times as many, that enter its histogram; maxima use all values."""


class Histogram:
    """Counts of |x| in bins of equal width, which doubles whenever a larger value is added."""

    def __init__(self) -> None:
        self.limit, self.largest = 0.0, 0.0
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)

    def add(self, values: Array) -> None:
        """Add the values of an array."""
        magnitudes = np.abs(values).ravel()
        top = float(magnitudes.max(initial=0.0))
        self.largest = max(self.largest, top)
        self.limit = self.limit or top
        while self.limit and self.limit < top:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)])
            self.limit *= 2
        if self.limit:
            sample = magnitudes[:: _stride(magnitudes.size)]
            bins = np.minimum(sample * np.float32(BINS / self.limit), BINS - 1).astype(np.int64)
            self.counts += np.bincount(bins, minlength=BINS)

    def range(self, kind: str) -> float:
        """Return the largest |x| to represent, by one of `KINDS`."""
        if kind == "max" or not self.limit:
            return self.largest
        if kind == "percentile":
            share = np.cumsum(self.counts) / self.counts.sum()
            edge = int(np.searchsorted(share, PERCENTILE / 100)) + 1
        else:
            edge = self._least_divergent()
        return min(edge * self.limit / BINS, self.largest)

    def _least_divergent(self) -> int:
        """Return the number of bins whose clipped and quantised distribution has the lowest KL divergence."""
        counts = self.counts.astype(np.float64)
        last = int(np.flatnonzero(counts)[-1]) + 1
        candidates = range(LEVELS, last + 1, max(1, LEVELS // 8))
        divergences = {edge: _divergence(counts, edge) for edge in candidates}
        return min(divergences, key=divergences.__getitem__, default=last)


def _stride(size: int) -> int:
    """Return the step between sampled values. It is coprime to `size`, else some channels would never be sampled."""
    return next(step for step in range(-(-size // SAMPLE), 0, -1) if math.gcd(step, size) == 1)


def _divergence(counts: NDArray[np.float64], edge: int) -> float:
    """Return the KL divergence of the histogram clipped at `edge` from its quantisation to `LEVELS` steps."""
    wanted = counts[:edge].copy()
    wanted[-1] += counts[edge:].sum()
    steps = np.arange(edge) * LEVELS // edge  # each is spread over its non-empty bins
    filled = wanted > 0
    sums = np.bincount(steps, weights=counts[:edge], minlength=LEVELS)
    sizes = np.maximum(np.bincount(steps, weights=filled, minlength=LEVELS), 1)
    found = np.where(filled, np.maximum((sums / sizes)[steps], 1e-9), 0.0)
    wanted, found = wanted[filled] / wanted.sum(), found[filled] / found.sum()
    return float((wanted * np.log(wanted / found)).sum())


Ranges = Mapping[str, Mapping[str, float]]
"""The largest |x| to represent, by kind of range and tensor."""


def measure_ranges(
    graph: bytes,
    frames: NDArray[np.uint8],
    tensors: Sequence[str],
    cache: Path | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> Ranges:
    """Measure ranges of tensors of a graph over crops uint8 [N,H,W,3].

    cache: file of earlier ranges; used if its key matches this graph, these frames and tensors, else written anew.
    progress: called with the number of frames of each batch.
    """
    digest = hashlib.sha256(graph)
    digest.update(np.ascontiguousarray(frames).tobytes())
    digest.update(json.dumps([list(tensors), PERCENTILE, BINS, SAMPLE, "every channel"]).encode())
    key = digest.hexdigest()
    cached = _read(cache, key) if cache else None
    if cached is not None:
        return cached
    histograms = {name: Histogram() for name in tensors}
    for values in observe(graph, frames, tensors, progress):
        for name, histogram in histograms.items():
            histogram.add(values[name])
    kinds = {kind: {name: histogram.range(kind) for name, histogram in histograms.items()} for kind in KINDS}
    if cache:
        with atomic_write(cache) as aside:
            aside.write_text(json.dumps({"key": key, "kinds": kinds}), encoding="utf-8")
    return kinds


def measure_channels(graph: bytes, frames: NDArray[np.uint8], tensors: Sequence[str]) -> dict[str, Array]:
    """Return the largest |x| of every channel (last axis) of tensors of a graph."""
    found: dict[str, Array] = {}
    for values in observe(graph, frames, tensors):
        for name in tensors:
            maxima = np.abs(values[name]).reshape(-1, values[name].shape[-1]).max(axis=0)
            found[name] = np.maximum(found.get(name, maxima), maxima)
    return found


def _read(cache: Path, key: str) -> Ranges | None:
    """Return the ranges in the file if they have this key; None otherwise, or if it cannot be read."""
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
        kinds: Ranges = content["kinds"]
        return kinds if content["key"] == key and set(kinds) == set(KINDS) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None

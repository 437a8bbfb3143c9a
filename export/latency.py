"""How fast each precision is on each provider of this machine, and whether it still agrees with PyTorch there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.engines import Engine, open_engine
from ..runtime.errors import DferError
from .parity import Parity, ReferenceOutputs

BATCHES = (1, 8)
TURNS, BURST = 8, 5
ENOUGH, LONGEST = 6.0, 0.5
"""Seconds after which no further turn is begun, from the second on; and no further run of a burst."""


@dataclass(frozen=True)
class Measurement:
    """A precision on a provider: agreement with PyTorch, and milliseconds per run by batch size, medians."""

    parity: Parity
    latency: Mapping[int, float]

    def to_json(self) -> dict[str, Any]:
        latency = {str(batch): round(milliseconds, 3) for batch, milliseconds in self.latency.items()}
        return {"parity": self.parity.to_json(), "latency_ms": latency}


def measure_provider(
    provider: str, graphs: Mapping[str, bytes], head: bytes, reference: ReferenceOutputs
) -> dict[str, Measurement]:
    """Each precision's encoder on one provider; those that do not load or run there are left out.

    "bf16" is the graph it is given, computed in BF16.
    """
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        parities: dict[str, Parity] = {}
        try:
            classifying = stack.enter_context(open_engine(head, provider))
        except DferError:
            return {}  # installed, but it does not start on this machine
        for precision, graph in graphs.items():
            try:
                engine = stack.enter_context(open_engine(graph, provider, precision=precision))
                parities[precision] = reference.compare(engine, classifying)
            except DferError:
                continue
            engines[precision] = engine
        latencies = measure_latency(engines, reference.frames.shape[1])
    return {precision: Measurement(parities[precision], latencies[precision]) for precision in engines}


def measure_latency(engines: Mapping[str, Engine], size: int) -> dict[str, dict[int, float]]:
    """Median milliseconds of encoder runs on crops of `size` pixels, by engine and batch size, warm and interleaved.

    The engines take turns of some runs in a row, so that drift hits all alike, yet each finds its own weights in the
    caches, as it does where it runs alone.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in engines}
    for batch in BATCHES:
        crops = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        times: dict[str, list[float]] = {name: [] for name in engines}
        begun = perf_counter()
        for turn in range(TURNS):
            for name, engine in engines.items():
                times[name] += _burst(engine, crops)
            if turn >= 1 and perf_counter() - begun > ENOUGH:
                break
        for name, values in times.items():
            found[name][batch] = median(values)
    return found


def _burst(engine: Engine, crops: NDArray[np.uint8]) -> list[float]:
    """Milliseconds of runs in a row; one more before them warms up."""
    times: list[float] = []
    begun = perf_counter()
    while len(times) < 2 or (len(times) <= BURST and perf_counter() - begun < LONGEST):
        start = perf_counter()
        engine.run({"frames": crops})
        times.append(1000 * (perf_counter() - start))
    return times[1:]


def recommend(measurements: Mapping[str, Mapping[str, Measurement]], strictness: str) -> dict[str, str]:
    """Per provider, the fastest precision at batch 1 that passes its gate there; providers where none does are absent.

    measurements: by provider and precision.
    """
    chosen = {}
    for provider, by_precision in measurements.items():
        passing = [name for name, found in by_precision.items() if found.parity.passes(name, strictness)]
        if passing:
            chosen[provider] = min(passing, key=lambda name: by_precision[name].latency[1])
    return chosen

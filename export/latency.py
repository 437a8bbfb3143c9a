"""How fast each precision is on each provider of this machine, and whether it still agrees with PyTorch there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from ..runtime.engines import Engine, open_engine
from ..runtime.errors import DferError
from .parity import Parity, Trial

BATCHES = (1, 8)
ROUNDS = 30
ENOUGH = 6.0
"""Seconds after which no further round is begun, from the third on."""


@dataclass(frozen=True)
class Measurement:
    """A precision on a provider: agreement with PyTorch, and milliseconds per run by batch size, medians."""

    parity: Parity
    latency: Mapping[int, float]

    def to_json(self) -> dict[str, Any]:
        latency = {str(batch): round(milliseconds, 3) for batch, milliseconds in self.latency.items()}
        return {"parity": self.parity.to_json(), "latency_ms": latency}


def measure_provider(provider: str, graphs: Mapping[str, bytes], head: bytes, trial: Trial) -> dict[str, Measurement]:
    """Each precision's encoder on one provider; those that do not load or run there are left out.

    Runs of different precisions take turns, so that whatever else the machine does hits all alike.
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
                engine = stack.enter_context(open_engine(graph, provider))
                parities[precision] = trial.compare(engine, classifying)
            except DferError:
                continue
            engines[precision] = engine
        latencies = measure_latency(engines, trial.frames.shape[1])
    return {precision: Measurement(parities[precision], latencies[precision]) for precision in engines}


def measure_latency(engines: Mapping[str, Engine], size: int) -> dict[str, dict[int, float]]:
    """Median milliseconds of encoder runs on crops of `size` pixels, by engine and batch size, warm and interleaved."""
    found: dict[str, dict[int, float]] = {name: {} for name in engines}
    for batch in BATCHES:
        crops = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        times: dict[str, list[float]] = {name: [] for name in engines}
        begun = perf_counter()
        for done in range(1 + ROUNDS):
            for name, engine in engines.items():
                start = perf_counter()
                engine.run({"frames": crops})
                times[name].append(1000 * (perf_counter() - start))
            if done >= 3 and perf_counter() - begun > ENOUGH:
                break
        for name, values in times.items():
            found[name][batch] = median(values[1:])  # the first run warms up
    return found


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

"""Measure latency and parity of each precision on each provider of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.engines import Engine, find_backend, open_engine
from ..runtime.errors import DferError, ParameterError
from .parity import Parity, ReferenceOutputs

BATCHES = (1, 8)
ROUNDS, RUNS = 8, 5
ROUNDS_SECONDS, RUNS_SECONDS = 6.0, 0.5
"""Seconds after which no further round (after two) starts, and no further run within a round."""


@dataclass(frozen=True)
class Measurement:
    """A precision on a provider: agreement with PyTorch, and median milliseconds per run by batch size."""

    parity: Parity
    latency: Mapping[int, float]

    def to_json(self, precision: str, strictness: str) -> dict[str, Any]:
        """Return values for the manifest, and whether the precision passes its gate, unless the gate is off."""
        latency = {str(batch): round(milliseconds, 3) for batch, milliseconds in self.latency.items()}
        passes = {} if strictness == "off" else {"passes": bool(self.parity.passes(precision, strictness))}
        return {"parity": self.parity.to_json(), **passes, "latency_ms": latency}


def measure_provider(
    provider: str,
    graphs: Mapping[str, bytes],
    heads: Mapping[str, bytes],
    reference: ReferenceOutputs,
    warn: Callable[[str], object],
) -> dict[str, Measurement]:
    """Measure each precision that the provider offers here; warn of those that then do not load or run.

    graphs, heads: ONNX by precision; that of "bf16" is computed in BF16. reference: frames and PyTorch's outputs.
    """
    failed: dict[str, list[str]] = {}
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        parities: dict[str, Parity] = {}
        for precision, graph in graphs.items():
            if not find_backend(provider).runs(precision):
                continue
            try:
                engine = stack.enter_context(open_engine(graph, provider, precision=precision))
                with open_engine(heads[precision], provider) as head:
                    parities[precision] = reference.compare(engine, head)
            except DferError as error:
                why = error.problem if isinstance(error, ParameterError) else str(error)
                failed.setdefault(why, []).append(precision)
                continue
            engines[precision] = engine
        latencies = measure_latency(engines, reference.frames.shape[1])
    for why, precisions in failed.items():
        warn(f"{provider} could not be measured in {', '.join(precisions)}: {why}")
    return {precision: Measurement(parities[precision], latencies[precision]) for precision in engines}


def measure_latency(engines: Mapping[str, Engine], size: int) -> dict[str, dict[int, float]]:
    """Return median milliseconds per run on crops of `size` pixels, by engine and batch size, after a warm-up.

    The engines take turns, with several runs each: drift affects all alike, and each has its weights in the caches, as
    when it runs alone.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in engines}
    for batch in BATCHES:
        crops = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        times: dict[str, list[float]] = {name: [] for name in engines}
        start = perf_counter()
        for turn in range(ROUNDS):
            for name, engine in engines.items():
                times[name] += _time_runs(engine, crops)
            if turn >= 1 and perf_counter() - start > ROUNDS_SECONDS:
                break
        for name, values in times.items():
            found[name][batch] = median(values)
    return found


def _time_runs(engine: Engine, crops: NDArray[np.uint8]) -> list[float]:
    """Return milliseconds of consecutive runs, without the first."""
    times: list[float] = []
    begin = perf_counter()
    while len(times) < 2 or (len(times) <= RUNS and perf_counter() - begin < RUNS_SECONDS):
        start = perf_counter()
        engine.run({"frames": crops})
        times.append(1000 * (perf_counter() - start))
    return times[1:]


def recommend(measurements: Mapping[str, Mapping[str, Measurement]], strictness: str) -> dict[str, str]:
    """Return, by provider, the fastest precision at batch 1 that passes its gate there; omit providers without any.

    measurements: by provider and precision. strictness: of the gate; with "off" none is known to pass.
    """
    if strictness == "off":
        return {}
    chosen = {}
    for provider, by_precision in measurements.items():
        passing = [name for name, found in by_precision.items() if found.parity.passes(name, strictness)]
        if passing:
            chosen[provider] = min(passing, key=lambda name: by_precision[name].latency[1])
    return chosen


def slower(measurements: Mapping[str, Mapping[str, Measurement]]) -> list[str]:
    """Return a line for each provider on which INT8 is not the fastest."""
    lines = []
    for provider, by_precision in measurements.items():
        if "int8" in by_precision:
            others = {name: found.latency[1] for name, found in by_precision.items() if name != "int8"}
            faster = [name for name, value in others.items() if value <= by_precision["int8"].latency[1]]
            if faster:
                lines.append(f"on {provider}, int8 is slower than {' and '.join(faster)}")
    return lines

"""The provider "auto": which of the providers present here runs a bundle fastest, found in a trial and remembered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..errors import BundleError, DferError, ParameterError
from ..machine import cache_folder, cpu_model, gpus, versions
from ..storage import atomic_write
from . import Engine, find_backend, open_graph, present_providers

Warn = Callable[[str], object]

_SECONDS = 2.0  # of the trial, all candidates together, loading and warming up not counted
_WARM_UP, _ROUNDS = 3, 5  # runs of each: before the trial, and at least in it
_KEPT = 64  # choices; the oldest go


def choose(
    bundle: Bundle, threads: int | None = None, warn: Warn = lambda _: None, precision: str = "auto"
) -> tuple[str, str]:
    """The provider that runs the bundle's encoder fastest on this machine at batch 1, and the precision it does it in.

    precision: that was asked for by name, so that only those compete that run it; "auto" for what is recommended.
    Where several providers are present they run it in turns for two seconds, and the choice is kept in
    `cache_folder()`/choices.json until the bundle, the machine, a version or an argument changes.
    Building TensorRT engines, where that is present, comes on top once; `warn` is told, and of providers that fail.

    Raises DferError when none works.
    """

    def run_by(provider: str) -> tuple[str, str]:
        return provider, precision_for(bundle, provider) if precision == "auto" else precision

    candidates = present_providers()
    if precision != "auto":  # where none can, the CPU says why
        candidates = [name for name in candidates if _can_run(bundle, precision, name)] or ["cpu"]
    if len(candidates) == 1:
        return run_by(candidates[0])
    key = _key(bundle, candidates, threads, precision)
    known = _read_choices()
    remembered = known.pop(key, {}).get("provider")
    if remembered in candidates:
        return run_by(remembered)
    timings = compare_providers(bundle, candidates, threads, warn, precision)
    provider = min(timings, key=lambda name: timings[name])
    entry = {"provider": provider, "milliseconds": {name: round(time, 3) for name, time in timings.items()}}
    try:
        _write_choices(dict([*known.items(), (key, entry)][-_KEPT:]))
    except (OSError, DferError) as error:
        warn(f"the choice of {provider} cannot be kept, so each start will try all providers again: {error}")
    return run_by(provider)


def precision_for(bundle: Bundle, provider: str, warn: Warn = lambda _: None) -> str:
    """The precision to run a bundle in, where none is asked for: the fastest that passes its gate, as far as is known.

    It is what the bundle recommends for the backend, which was measured at export. Native TensorRT cannot be, since its
    engines are built from a bundle: it goes by what was measured for ONNX Runtime's backend on the same library.
    Where nothing was measured, as for a GPU where the export had none, it is the first of the backend's own order that
    passed its gate at export: on TensorRT FP16, then INT8, whose graphs compute in FP32 what is not quantised. What was
    exported with the gate off has passed none.

    FP32, else the first it holds, where that leaves nothing, or this machine does not run what is recommended.
    """
    manifest, backend = bundle.manifest, find_backend(provider)
    fallback = "fp32" if "fp32" in manifest.precisions else next(iter(manifest.precisions))
    measured = backend.measured_as or provider
    recommended = manifest.recommended.get(measured)
    if recommended is None:
        if any(measured in entry.get("providers", {}) for entry in manifest.precisions.values()):
            return fallback  # no precision passes there
        return next((name for name in backend.precisions if _passes(bundle, name, provider)), fallback)
    if not backend.runs(recommended):
        warn(f"{provider} does not run {recommended} here, which the bundle recommends for it; {fallback} is run")
        return fallback
    return recommended


def check_precision(bundle: Bundle, precision: str, provider: str, warn: Warn) -> str:
    """The requested precision; warns if it failed its gate on this provider at export."""
    found = bundle.manifest.precisions.get(precision, {}).get("providers", {}).get(provider)
    if isinstance(found, dict) and found.get("passes") is False:
        warn(
            f"{precision} of this bundle failed its gate on {provider} when it was exported: it reads faces otherwise "
            "than the model does; leave out the precision for one that passed"
        )
    return precision


def _passes(bundle: Bundle, precision: str, provider: str) -> bool:
    """Whether a bundle holds a precision for a provider, which passed its gate at export, and the provider runs it."""
    gate = bundle.manifest.precisions.get(precision, {}).get("gate", "off")
    return gate != "off" and _can_run(bundle, precision, provider)


def _can_run(bundle: Bundle, precision: str, provider: str) -> bool:
    """Whether a bundle holds a precision for a provider, which runs it on this machine."""
    graphs = bundle.manifest.encoders(precision) if precision in bundle.manifest.precisions else {}
    return not {provider, "default"}.isdisjoint(graphs) and find_backend(provider).runs(precision)


def compare_providers(
    bundle: Bundle,
    candidates: list[str],
    threads: int | None = None,
    warn: Warn = lambda _: None,
    precision: str = "auto",
) -> dict[str, float]:
    """Median milliseconds of one encoder run at batch 1, by provider; those that do not work are told and left out.

    precision: "auto" for what the bundle recommends for each. Runs take turns, so that whatever else the machine does
    hits all alike. Raises DferError when none works, and BundleError for damaged graphs.
    """
    size = bundle.manifest.preprocessing.size
    crop = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    failures: dict[str, str] = {}
    times: dict[str, list[float]] = {}
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for provider in candidates:
            try:
                engine = stack.enter_context(_open(bundle, provider, threads, warn, precision))
                for _ in range(_WARM_UP):
                    engine.run({"frames": crop})
            except BundleError:
                raise  # it would be no better with another
            except DferError as error:
                failures[provider] = error.problem if isinstance(error, ParameterError) else str(error)
                continue
            engines[provider], times[provider] = engine, []
        begun = perf_counter()
        while engines and (perf_counter() - begun < _SECONDS or len(next(iter(times.values()))) < _ROUNDS):
            for provider, engine in engines.items():
                start = perf_counter()
                engine.run({"frames": crop})
                times[provider].append(1000 * (perf_counter() - start))
    if not times:
        why = "; ".join(f"{name}: {failure}" for name, failure in failures.items())
        raise DferError(f"no provider runs bundle {bundle.path}; {why}")
    for provider, failure in failures.items():
        warn(f"provider auto leaves out {provider}: {failure}")
    return {provider: median(spent) for provider, spent in times.items()}


def _open(bundle: Bundle, provider: str, threads: int | None, warn: Warn, precision: str) -> Engine:
    """The encoder, after the head has run once: a provider has to take both."""
    manifest = bundle.manifest
    if precision == "auto":
        precision = precision_for(bundle, provider, warn)
    encoder, head = manifest.graphs(precision, provider)
    with open_graph(bundle, head, provider, threads, warn) as engine:
        engine.run({"features": np.zeros((1, manifest.window, manifest.width), np.float32)})
    return open_graph(bundle, encoder, provider, threads, warn, precision)


def _key(bundle: Bundle, candidates: list[str], threads: int | None, precision: str) -> str:
    """Digest of everything that the choice depends on; the manifest seals what the bundle holds."""
    parts = [bundle.digest, candidates, threads, precision, cpu_model(), gpus(), versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read_choices() -> dict[str, Any]:
    """Choices by key, oldest first; none where the file is absent or is not one that this module wrote."""
    try:
        content = json.loads((cache_folder() / "choices.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    choices = content.get("choices") if isinstance(content, dict) else None
    entries = choices.items() if isinstance(choices, dict) else ()
    return {key: entry for key, entry in entries if isinstance(entry, dict) and isinstance(entry.get("provider"), str)}


def _write_choices(choices: dict[str, Any]) -> None:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "choices.json") as aside:
        aside.write_text(json.dumps({"choices": choices}, indent=2), encoding="utf-8")

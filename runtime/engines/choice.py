"""The provider "auto": a short benchmark finds which available provider runs a bundle fastest; the result is cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import BundleError, DferError, ParameterError
from ..machine import cache_folder, cpu_model, gpus, versions
from ..storage import atomic_write, locked
from . import Engine, find_backend, open_graph, present_providers

Warn = Callable[[str], object]

_SECONDS = 2.0  # of the benchmark, for all candidates together, without loading and warm-up
_WARM_UP, _ROUNDS = 3, 5  # runs per candidate: before the benchmark, and at least during it
_FILE = "choices.json"  # in the cache folder
_KEPT = 64  # choices; the oldest are dropped


def open_engines(
    bundle: Bundle, provider: str, precision: str, threads: int | None, warn: Warn, stack: ExitStack
) -> tuple[str, Engine, Engine]:
    """Return the precision in use, the encoder and the head, which `stack` closes, with "auto" as in `resolve`.

    If the provider that "auto" chose, perhaps at an earlier start, does not run both, all are tried again, with a
    warning.
    """

    def open_both(chosen: str, running: str) -> tuple[str, Engine, Engine]:
        encoder, head = bundle.manifest.graphs(running, chosen)
        with ExitStack() as opened:
            one = opened.enter_context(open_graph(bundle, head, chosen, threads, warn))
            other = opened.enter_context(open_graph(bundle, encoder, chosen, threads, warn, running))
            if provider == "auto":
                _run_head(bundle, one)
                other.run({"frames": _crop(bundle)})
            stack.push(opened.pop_all())
        return running, other, one

    chosen, running = resolve(bundle, provider, precision, threads, warn)
    try:
        return open_both(chosen, running)
    except BundleError:
        raise
    except DferError as error:
        if provider != "auto" or len(present_providers()) == 1:
            raise
        warn(f"provider auto tries all again, since {chosen}, its last choice, does not run: {error}")
        return open_both(*resolve(bundle, provider, precision, threads, warn, anew=True))


def choose(
    bundle: Bundle,
    threads: int | None = None,
    warn: Warn = lambda _: None,
    precision: str = "auto",
    anew: bool = False,
) -> tuple[str, str]:
    """Return the provider that runs the bundle's encoder fastest on this machine at batch 1, and its precision.

    precision: restricts the candidates to providers that support it; "auto" for the recommended one of each. If several
    providers are available, they run in turns for two seconds, and the choice is cached in
    `cache_folder()`/choices.json until the bundle, the machine, a version or an argument changes. If TensorRT is
    available, building its engines takes additional time once; `warn` reports that and, each time, those that failed.
    anew: try all even if the choice is cached.

    Raises DferError when none works.
    """

    def run_by(provider: str) -> tuple[str, str]:
        return provider, precision_for(bundle, provider, warn) if precision == "auto" else precision

    candidates = present_providers()
    if precision != "auto":  # if none can, the CPU's error says why
        candidates = [name for name in candidates if _can_run(bundle, precision, name)] or ["cpu"]
    if len(candidates) == 1:
        return run_by(candidates[0])
    key = _key(bundle, candidates, threads, precision)
    remembered = _read_choices().get(key, {})
    if remembered.get("provider") in candidates and not anew:
        for name, failure in remembered.get("failures", {}).items():
            again = f"as when it was tried; to try again, delete {cache_folder() / _FILE}"
            warn(f"provider auto leaves out {name}: {failure} ({again})")
        return run_by(remembered["provider"])
    timings, failures = compare_providers(bundle, candidates, threads, warn, precision)
    for name, failure in failures.items():
        warn(f"provider auto leaves out {name}: {failure}")
    provider = min(timings, key=lambda name: timings[name])
    milliseconds = {name: round(time, 3) for name, time in timings.items()}
    entry = {"provider": provider, "milliseconds": milliseconds, "failures": failures}
    try:
        _keep_choice(key, entry)
    except (OSError, DferError) as error:
        warn(f"the choice of {provider} cannot be kept, so each start will try all providers again: {error}")
    return run_by(provider)


def resolve(
    bundle: Bundle,
    provider: str,
    precision: str,
    threads: int | None = None,
    warn: Warn = lambda _: None,
    anew: bool = False,
) -> tuple[str, str]:
    """Return the provider and the precision that run here, with "auto" replaced by what `choose` and `precision_for`
    return; `warn` is called if the precision failed its gate. anew: as for `choose`.

    Raises DferError when no provider works.
    """
    if provider == "auto":
        provider, recommended = choose(bundle, threads, warn, precision, anew)
    else:
        recommended = precision_for(bundle, provider, warn)
    return provider, recommended if precision == "auto" else check_precision(bundle, precision, provider, warn)


def precision_for(bundle: Bundle, provider: str, warn: Warn = lambda _: None) -> str:
    """Return the precision to run a bundle in if none is requested: the fastest that passes its gate, as far as known.

    It is what the bundle recommends for the backend, as measured at export. Native TensorRT builds its engines from a
    finished bundle, so it cannot be measured then; the figures of ONNX Runtime's backend on the same library are used
    instead. If nothing was measured, as for a GPU that the exporting machine lacked, it is the first in the backend's
    order that passed its gate at export: on TensorRT FP16, then INT8, whose graphs compute in FP32 what is not
    quantised. A precision exported with the gate off has not passed.

    If that leaves nothing, or this machine does not support the recommended one: FP32, else the first in the bundle.
    """
    manifest, backend = bundle.manifest, find_backend(provider)
    fallback = "fp32" if "fp32" in manifest.precisions else next(iter(manifest.precisions))
    measured = backend.measured_as or provider
    recommended = manifest.recommended.get(measured)
    if recommended is None:
        if any(measured in entry.get("providers", {}) for entry in manifest.precisions.values()):
            return fallback  # measured, but none passed
        return next((name for name in backend.precisions if _passes(bundle, name, provider)), fallback)
    if not backend.runs(recommended):
        warn(f"{provider} does not run {recommended} here, which the bundle recommends for it; {fallback} is run")
        return fallback
    return recommended


def check_precision(bundle: Bundle, precision: str, provider: str, warn: Warn) -> str:
    """Return the requested precision; warn if it failed its gate on this provider at export."""
    found = bundle.manifest.precisions.get(precision, {}).get("providers", {}).get(provider)
    if isinstance(found, dict) and found.get("passes") is False:
        warn(
            f"{precision} of this bundle failed its gate on {provider} when it was exported: it reads faces otherwise "
            "than the model does; leave out the precision for one that passed"
        )
    return precision


def _passes(bundle: Bundle, precision: str, provider: str) -> bool:
    """Return whether a bundle has a precision for a provider that supports it, and it passed its gate at export."""
    gate = bundle.manifest.precisions.get(precision, {}).get("gate", "off")
    return gate != "off" and _can_run(bundle, precision, provider)


def _can_run(bundle: Bundle, precision: str, provider: str) -> bool:
    """Return whether a bundle has a precision for a provider, and the provider supports it on this machine."""
    graphs = bundle.manifest.encoders(precision) if precision in bundle.manifest.precisions else {}
    return not {provider, "default"}.isdisjoint(graphs) and find_backend(provider).runs(precision)


def compare_providers(
    bundle: Bundle,
    candidates: list[str],
    threads: int | None = None,
    warn: Warn = lambda _: None,
    precision: str = "auto",
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the median milliseconds of one encoder run at batch 1, by provider, and why the others failed.

    precision: "auto" for what the bundle recommends for each. Runs take turns, so that other load on the machine
    affects all alike. Raises DferError when none works, and BundleError for damaged graphs.
    """
    crop = _crop(bundle)
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
                raise  # it would fail on the others, too
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
    return {provider: median(spent) for provider, spent in times.items()}, failures


def _open(bundle: Bundle, provider: str, threads: int | None, warn: Warn, precision: str) -> Engine:
    """Open the encoder after running the head once, since a provider must support both."""
    manifest = bundle.manifest
    if precision == "auto":
        precision = precision_for(bundle, provider)  # what there is to warn of only matters once it is chosen
    encoder, head = manifest.graphs(precision, provider)
    with open_graph(bundle, head, provider, threads, warn) as engine:
        _run_head(bundle, engine)
    return open_graph(bundle, encoder, provider, threads, warn, precision)


def _run_head(bundle: Bundle, engine: Engine) -> None:
    engine.run({"features": np.zeros((1, bundle.manifest.window, bundle.manifest.width), np.float32)})


def _crop(bundle: Bundle) -> NDArray[np.uint8]:
    size = bundle.manifest.preprocessing.size
    return np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)


def _key(bundle: Bundle, candidates: list[str], threads: int | None, precision: str) -> str:
    """Return a digest of everything the choice depends on; the manifest's digest covers the bundle's content."""
    parts = [bundle.digest, candidates, threads, precision, cpu_model(), gpus(), versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read_choices() -> dict[str, Any]:
    """Return choices by key, oldest first; none if the file is missing or was not written by this module."""
    try:
        content = json.loads((cache_folder() / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    choices = content.get("choices") if isinstance(content, dict) else None
    entries = choices.items() if isinstance(choices, dict) else ()
    return {
        key: entry
        for key, entry in entries
        if isinstance(entry, dict)
        and isinstance(entry.get("provider"), str)
        and isinstance(entry.get("failures", {}), dict)
    }


def _keep_choice(key: str, entry: dict[str, Any]) -> None:
    """Write a choice beside those that others have made meanwhile."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f"{_FILE}.lock"):
        known = {other: choice for other, choice in _read_choices().items() if other != key}
        with atomic_write(folder / _FILE) as aside:
            kept = dict([*known.items(), (key, entry)][-_KEPT:])
            aside.write_text(json.dumps({"choices": kept}, indent=2), encoding="utf-8")

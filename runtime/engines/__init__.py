"""Engines: loaded, runnable graphs. One module per family of backends, and one registry for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ParameterError
from . import native, ort, triton
from .backend import LARGEST_BATCH, PRECISIONS, Backend, Engine, Report

if TYPE_CHECKING:
    from ..bundle import Bundle
    from .backend import Array as Array

__all__ = [
    "BACKENDS",
    "LARGEST_BATCH",
    "PRECISIONS",
    "Backend",
    "Engine",
    "find_backend",
    "open_engine",
    "open_graph",
    "present_providers",
]

BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (*ort.BACKENDS, *native.BACKENDS)}
"""By the names that `--provider` accepts. `BACKENDS["mine"] = Mine("mine", …)` is all that a new one needs to be run,
tried by "auto", measured at export, listed by `--help`, and started by `dfer-doctor`, in a separate process if
importing its class's module registers it."""


def find_backend(provider: str) -> Backend:
    """Return the backend of a name, or of a model's address on a server; ParameterError if there is none."""
    if provider in BACKENDS:
        return BACKENDS[provider]
    if provider.partition("://")[0] in triton.SCHEMES:
        return triton.backend_at(provider)
    raise ParameterError("provider", f"{provider} is unknown; one of {', '.join(BACKENDS)}, or triton://HOST/MODEL")


def present_providers() -> list[str]:
    """Return the names of the backends that are installed and have a device here; whether they start is only known when
    they are opened."""
    return [name for name, backend in BACKENDS.items() if backend.is_present() and backend.has_device()]


def open_engine(graph: bytes, provider: str, threads: int | None = None, precision: str = "fp32") -> Engine:
    """Load an ONNX graph on a backend.

    threads: CPU threads that one run may use, None for the backend's default; ignored by GPUs.
    precision: of the graph; "bf16" for an FP32 graph to be computed in BF16.
    Raises DferError when the backend is missing, does not support the precision, would silently fall back to another,
    or only runs graphs of a bundle.
    """
    return _usable(provider, precision).load(graph, precision, threads)


def open_graph(
    bundle: Bundle,
    graph: str,
    provider: str,
    threads: int | None = None,
    report: Report = lambda _: None,
    precision: str = "fp32",
) -> Engine:
    """Load the graph `graph` ("head.fp32.onnx") of a bundle on any backend. See `open_engine`.

    report: called with one line about slow steps, such as building engines.
    """
    return _usable(provider, precision).open(bundle, graph, precision, threads, report)


def _usable(provider: str, precision: str) -> Backend:
    backend = find_backend(provider)
    if not backend.is_present():
        raise ParameterError("provider", f"{provider} is not installed; {backend.install}")
    if not backend.runs(precision):
        can = " or ".join(name for name, other in BACKENDS.items() if precision in other.precisions)
        where = ", on a CPU with BF16 instructions (avx512_bf16, amx_bf16)" if precision == "bf16" else ""
        raise ParameterError(
            "precision", f"{provider} does not run {precision} here; ask for another, or for provider {can}{where}"
        )
    return backend

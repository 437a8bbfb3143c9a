"""Build engines at export: for this machine's GPU, or with TensorRT-RTX for other GPUs, without needing one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..runtime.engines.backend import Report
from ..runtime.engines.building import Progress, check_target
from ..runtime.engines.native import stored_engine, target_here
from ..runtime.engines.trt_library import PRODUCTS, is_installed, load_trt
from ..runtime.errors import DferError, ParameterError

if TYPE_CHECKING:
    from ..runtime.bundle import Bundle

CHOICES = ("auto", *PRODUCTS, "none")
"""The engines that can be chosen."""


@dataclass(frozen=True)
class EngineBuild:
    """One engine of a bundle: its graph, TensorRT product, GPU target and size in bytes.

    seconds: build time; None if it was built before. refused: with "auto", why it could not be built.
    """

    graph: str
    product: str
    version: str
    target: str
    size: int = 0
    seconds: float | None = None
    refused: str = ""


def check_engines(engine: str, targets: Sequence[str]) -> list[str]:
    """Return `targets` in lower case; raise what `build_engines` raises for a choice that works for no bundle."""
    if engine not in CHOICES:
        raise ParameterError("engine", f"{engine!r} is none of {', '.join(CHOICES)}")
    wanted = [check_target(target) for target in targets]
    if wanted and engine in ("none", "tensorrt"):
        raise ParameterError("targets", f"only TensorRT-RTX builds for other GPUs, not the engine {engine!r}")
    if wanted:
        load_trt("tensorrt-rtx")
    elif engine in PRODUCTS:
        target_here(load_trt(engine))
    return wanted


def build_engines(
    bundle: Bundle,
    graphs: Sequence[str],
    engine: str = "auto",
    targets: Sequence[str] = (),
    report: Report = lambda _: None,
    progress: Progress = lambda *_: None,
) -> list[EngineBuild]:
    """Build engines of `graphs`, ONNX files of the bundle, into this user's cache; return a row for each.

    engine: one of CHOICES. A named product must be installed and build every graph; "auto" uses all installed
        products, and reports failures in the rows; "none" does nothing.
    targets: compute capabilities for TensorRT-RTX ("sm86"), no GPU needed; empty for the GPU of this machine.
    Raises ParameterError for an unknown engine, or targets with an engine that cannot build for them; DferError for an
    unknown target, and a named product that is not installed or fails to build.
    """
    wanted = check_engines(engine, targets)
    if engine == "none":
        return []
    products = list(filter(is_installed, PRODUCTS)) if engine == "auto" else [engine]
    if wanted:  # only TensorRT-RTX builds for other GPUs
        products = ["tensorrt-rtx"]
    rows = []
    for product in products:
        library = load_trt(product)
        try:
            places = wanted or [target_here(library)]
        except DferError as error:
            if engine != "auto":
                raise
            report(f"no engines for {library.title}: {error}")
            continue
        for target in places:
            for graph in graphs:
                row = EngineBuild(graph, product, library.version, target)
                try:
                    data, seconds = stored_engine(bundle, graph, library, target, report, progress)
                    row = EngineBuild(graph, product, library.version, target, len(data), seconds)
                except DferError as error:
                    if engine != "auto":
                        raise
                    row = EngineBuild(graph, product, library.version, target, refused=str(error))
                rows.append(row)
    return rows

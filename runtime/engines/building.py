"""ONNX → engine: one builder for TensorRT and TensorRT-RTX. Bytes in, bytes out; `store.py` handles files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from ..errors import DferError
from .backend import LARGEST_BATCH, TYPICAL_BATCH
from .trt_library import TrtLibrary

TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Compute capabilities that TensorRT-RTX builds for, with or without a GPU here. No sm90, no Jetson."""

Progress = Callable[[str, int, int], object]
"""Called with (phase, steps done, total steps); phases nest, and each counts its own steps."""


@dataclass(frozen=True)
class BuiltEngine:
    """data: the serialised engine. timing_cache: reused by later builds (TensorRT-RTX: None). seconds: build time."""

    data: bytes
    timing_cache: bytes | None
    seconds: float


def check_target(target: str) -> str:
    """Return `target` in lower case; DferError if TensorRT-RTX does not build for it."""
    if target.lower() not in TARGETS:
        raise DferError(f"TensorRT-RTX does not build for {target}; it does for {', '.join(TARGETS)}")
    return target.lower()


def parse_network(library: TrtLibrary, graph: bytes, name: str) -> tuple[Any, Any]:
    """Return builder and strongly typed network for an ONNX graph; needs no GPU with TensorRT-RTX.

    The graph determines the precision of each layer; there are no precision flags.
    Raises DferError with the parser's first error and the graph's `name`.
    """
    trt = library.module
    library.errors.clear()
    builder = trt.Builder(library.logger)
    if builder is None:
        raise DferError(f"{library.title} does not start: {library.first_error()}")
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # the only way from TensorRT 11 on
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse(graph):
        reason = parser.get_error(0).desc() if parser.num_errors else library.first_error()
        library.errors.clear()
        raise DferError(
            f"{library.title} cannot read {name}: {' '.join(reason.split())[:300]}; export the bundle again"
        )
    return builder, network


def build_engine(
    library: TrtLibrary,
    graph: bytes,
    name: str,
    target: str | None = None,
    timing_cache: bytes = b"",
    progress: Progress = lambda *_: None,
) -> BuiltEngine:
    """Build `graph`, an ONNX file whose first axes are the batch, for up to LARGEST_BATCH; `name` is for messages.

    target: one of TARGETS for TensorRT-RTX; None for TensorRT, which builds for this machine's GPU.
    timing_cache: from an earlier build by the same version for the same GPU.
    progress: may raise, even KeyboardInterrupt; the build then stops and the exception is re-raised here.
    FP32 products may be computed in TF32, as in ONNX Runtime's CUDA provider.
    Raises DferError when the graph cannot be read or built.
    """
    trt = library.module
    builder, network = parse_network(library, graph, name)
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, network))
    if library.product == "tensorrt-rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, check_target(target or "no target").upper()), 0)
    elif target is not None:
        raise DferError(f"{library.title} builds only for the GPU it runs on; leave the target {target} out")
    times_kernels = library.product == "tensorrt"  # TensorRT-RTX measures nothing during a build
    if times_kernels:
        config.set_timing_cache(config.create_timing_cache(timing_cache), False)
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    start = perf_counter()
    engine = builder.build_serialized_network(network, config)
    if monitor.raised is not None:
        raise monitor.raised
    if engine is None:
        where = f" for {target}" if target else ""
        raise DferError(f"{library.title} cannot build {name}{where}: {library.first_error()}")
    seconds = perf_counter() - start
    measured = bytes(config.get_timing_cache().serialize()) if times_kernels else None
    return BuiltEngine(bytes(engine), measured, seconds)


def _profile(builder: Any, network: Any) -> Any:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        row = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (1, *row), (TYPICAL_BATCH, *row), (LARGEST_BATCH, *row))
    return profile


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base class depends on the loaded module
        """Reports progress. Keeps what `progress` raises, since it must not pass through the builder's C++ frames."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.raised: BaseException | None = None
            self.totals: dict[str, int] = {}

        def tell(self, phase: str, done: int) -> bool:
            if self.raised is None:
                try:
                    progress(phase, done, self.totals.get(phase, done))
                except BaseException as error:  # re-raised by build_engine
                    self.raised = error
            return self.raised is None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.totals[phase_name] = num_steps
            self.tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self.tell(phase_name, step + 1)

        def phase_finish(self, phase_name: str) -> None:
            self.totals.pop(phase_name, None)

    return Monitor()

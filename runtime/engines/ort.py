"""Graphs on ONNX Runtime, and its backends: built-in execution providers and plug-ins."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import DferError, EngineError, ParameterError, first_line
from ..machine import cpu_model, instructions
from ..timing import call_within
from .backend import LARGEST_BATCH, TYPICAL_BATCH, Backend, Engine, Report, run_in_parts
from .compiled import CompiledGraph, folder_for

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..bundle import Bundle
    from .backend import Array

_CPU = "CPUExecutionProvider"
_BUSY_WAIT = "12"  # microseconds
PATIENCE = 600.0
"""Seconds that a CPU may take to load a graph and to run it for the first time: it may be from an untrusted source."""


class OrtEngine(Engine):
    """A graph on ONNX Runtime. open_session: returns a session for batches of one row (1), or of any size (None).

    largest: rows of the largest batch, larger inputs are run in parts; None for no limit. patience: seconds that the
    first run of a session may take; None for no limit. alone: whether single rows have their own session, opened first;
    the one for any batch is then opened when several rows come.
    """

    def __init__(
        self,
        open_session: Callable[[int | None], Any],
        provider: str,
        largest: int | None = None,
        patience: float | None = None,
        alone: bool = False,
    ) -> None:
        self.provider = provider
        self._open_session, self._largest, self._patience, self._alone = open_session, largest, patience, alone
        first = 1 if alone else None
        self._sessions = {first: open_session(first)}
        self._tried: set[int | None] = set()
        self._outputs = [output.name for output in self._sessions[first].get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        if not self._sessions:
            raise DferError("the engine was closed")
        rows = len(next(iter(inputs.values())))
        if self._largest is not None and rows > self._largest:
            return run_in_parts(self.run, inputs, self._largest)
        batch = 1 if rows == 1 and self._alone else None
        if batch not in self._sessions:
            self._sessions[batch] = self._open_session(batch)
        session = self._sessions[batch]
        try:
            untried = self._patience is not None and batch not in self._tried
            results = self._try(session, inputs) if untried else session.run(self._outputs, dict(inputs))
        except TimeoutError as error:
            raise EngineError(f"the graph {error} to run once: too large for this machine, or made to hang") from error
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            raise EngineError(f"ONNX Runtime cannot run the graph: {first_line(error)}") from error
        self._tried.add(batch)
        return dict(zip(self._outputs, results, strict=True))

    def _try(self, session: Any, inputs: Mapping[str, Array]) -> list[NDArray[np.float32]]:
        """Run for the first time, within the time limit."""
        import onnxruntime as ort

        options = ort.RunOptions()
        try:
            run = functools.partial(session.run, self._outputs, dict(inputs), options)
            return call_within(self._patience or 0, run)
        except BaseException:
            options.terminate = True  # takes effect after the current operator
            raise

    def on_cpu(self) -> list[str]:
        """Return the operators of the graph that a plug-in leaves to the CPU, if that was recorded."""
        (session, *_) = self._sessions.values()
        parts = session.get_provider_graph_assignment_info()
        return sorted({node.op_type for part in parts if part.ep_name == _CPU for node in part.get_nodes()})

    def close(self) -> None:
        self._sessions.clear()


@dataclass(frozen=True)
class OnnxGraph:
    """A graph that is read on demand; never, if its compiled form is cached. size: bytes. digest: sha256."""

    size: int
    digest: str
    read: Callable[[], bytes]


def _no_options(graph: OnnxGraph, precision: str, threads: int | None) -> dict[str, str]:
    return {}


@dataclass(frozen=True, kw_only=True)
class OrtBackend(Backend):
    """An execution provider of ONNX Runtime.

    execution_provider: ONNX Runtime's name for it. beside: providers for the nodes it does not support; not the CPU.
    plugin: the Python module of a plug-in, which works with plain onnxruntime.
    options: returns the provider's options for a graph, a precision and the number of CPU threads.
    largest: rows of the largest supported batch, 1 for fixed shapes. repair: advice if it does not start.
    on_cpu: operators that a plug-in may leave to the CPU; those it does leave are reported.
    one_thread_below: graph size in bytes below which one thread is faster than several, which must be woken.
    alone_below: graph size in bytes below which single rows have a session compiled for them, which runs faster.
    keeps_compiled: whether a plug-in can save its compiled graph, which loads in a fifth of the time.
    """

    execution_provider: str
    beside: tuple[str, ...] = ()
    plugin: str | None = None
    options: Callable[[OnnxGraph, str, int | None], dict[str, str]] = _no_options
    largest: int | None = None
    repair: str = "reinstall it"
    alone_below: int = 0
    keeps_compiled: bool = False
    one_thread_below: int = 0
    on_cpu: tuple[str, ...] = ()

    def is_present(self) -> bool:
        if self.plugin is not None:
            return importlib.util.find_spec(self.plugin) is not None
        import onnxruntime as ort

        return self.execution_provider in ort.get_available_providers()

    def has_device(self) -> bool:
        if self.plugin is None:
            return True
        try:
            return bool(self._plugin_devices())
        except Exception:  # ONNX Runtime's exceptions share no public base class; opening an engine reports it
            return True

    def runs(self, precision: str) -> bool:
        if precision != "bf16" or not super().runs(precision):
            return super().runs(precision)
        try:
            devices = self._plugin_devices() if self.is_present() else []
        except Exception:  # as above
            return True
        return any("BF16" in one.ep_metadata.get("OPTIMIZATION_CAPABILITIES", "").split() for one in devices[:1])

    def load(self, graph: bytes, precision: str = "fp32", threads: int | None = None) -> Engine:
        return self._load(OnnxGraph(len(graph), hashlib.sha256(graph).hexdigest(), lambda: graph), precision, threads)

    def open(self, bundle: Bundle, graph: str, precision: str, threads: int | None, report: Report) -> Engine:
        source = OnnxGraph(bundle.size(graph), bundle.digests[graph], partial(bundle.read, graph))
        engine = self._load(source, precision, threads)
        if self.on_cpu and (left := engine.on_cpu()):
            engine.remark = f"{self.name} leaves {', '.join(left)} of {graph} to the CPU"
        return engine

    def _load(self, graph: OnnxGraph, precision: str, threads: int | None) -> OrtEngine:
        if threads is not None and graph.size < self.one_thread_below:
            threads = 1
        patience = PATIENCE if self.device == "cpu" else None  # building engines for GPUs and NPUs has no time limit
        alone = self.largest == 1 or graph.size < self.alone_below

        def open_session(batch: int | None) -> Any:
            load = partial(self._session, graph, precision, threads, batch)
            try:
                session = load() if patience is None else call_within(patience, load)
            except DferError:
                raise
            except TimeoutError as error:
                raise DferError(f"the graph {error} to load: too large for this machine, or made to hang") from error
            except Exception as error:  # ONNX Runtime's exceptions share no public base class
                if "creating execution provider" in str(error):
                    raise self._not_started() from error
                raise DferError(f"ONNX Runtime cannot load the graph: {first_line(error)}") from error
            if session.get_providers()[0] != self.execution_provider:  # it fell back silently
                raise self._not_started()
            return session

        engine = OrtEngine(open_session, self.name, self.largest, patience, alone)
        engine.threads = threads
        if self.on_cpu and (more := sorted(set(engine.on_cpu()) - set(self.on_cpu))):
            raise ParameterError("provider", f"{self.name} would leave {', '.join(more)} to the CPU; ask for cpu")
        return engine

    def _not_started(self) -> ParameterError:
        words = f"ONNX Runtime could not start {self.name} and would run on the CPU; {self.repair}, or ask for cpu"
        return ParameterError("provider", words)

    def _session(self, graph: OnnxGraph, precision: str, threads: int | None, batch: int | None) -> Any:
        """Open a session for any batch, or for one of `batch` rows."""
        import onnxruntime as ort

        def open_session(source: bytes | str, write_to: Path | None = None) -> Any:
            session = self._session_options(graph, precision, threads, batch)
            if self.plugin is None:
                provider = self.execution_provider, self.options(graph, precision, threads)
                return ort.InferenceSession(source, session, providers=[provider, *self.beside])
            if write_to is not None:
                session.add_session_config_entry("ep.context_enable", "1")
                session.add_session_config_entry("ep.context_file_path", str(write_to))
            return ort.InferenceSession(source, session, enable_fallback=0)  # falling back prints and uses the CPU

        folder = folder_for(self.name, self._compiled_key(graph, precision)) if self.keeps_compiled else None
        if folder is None:
            return open_session(graph.read())
        kept = CompiledGraph(folder, "any" if batch is None else str(batch))
        # ONNX Runtime's exceptions share no public base class. A cached graph that does not load is compiled again.
        if kept.is_whole():
            with suppress(Exception):
                return open_session(str(kept.file))
        try:
            with kept.written() as file:
                return open_session(graph.read(), file)
        except Exception:  # fails again if the graph is at fault; works if only the disk was full
            return open_session(graph.read())

    def _compiled_key(self, graph: OnnxGraph, precision: str) -> str:
        """Return the cache key of a compiled graph: graph, precision, plug-in version and CPU."""
        from importlib.metadata import version

        made_of = f"{graph.digest} {version(str(self.plugin).replace('_', '-'))} {cpu_model()} {instructions()}"
        return f"{hashlib.sha256(made_of.encode()).hexdigest()[:32]}-{precision}"

    def _session_options(self, graph: OnnxGraph, precision: str, threads: int | None, batch: int | None) -> Any:
        import onnxruntime as ort

        session = ort.SessionOptions()
        session.log_severity_level = 4  # errors are raised; the rest is noise on the user's terminal
        # Sleeping threads are woken several hundred times per run. Spinning between operators saves a quarter of the
        # time; spinning longer would take cores from other programs.
        session.add_session_config_entry("session.intra_op.spin_duration_us", _BUSY_WAIT)
        # Without VNNI or AMX, the default x86 INT8 kernels overflow when large weights meet large activations. The
        # precise kernels are up to three times slower than those for VNNI and AMX, so they are only used without these.
        if not {"VNNI", "AMX"} & set(instructions()):
            session.add_session_config_entry("session.x64quantprecision", "1")
        if threads is not None:
            session.intra_op_num_threads = threads
        if batch is not None:
            session.add_free_dimension_override_by_name("batch", batch)
        if self.plugin is not None:
            if not (devices := self._plugin_devices()):
                words = f"{self.name} finds no {self.device.upper()} of a maker that it runs on; ask for cpu"
                raise ParameterError("provider", words)
            session.add_provider_for_devices(devices[:1], self.options(graph, precision, threads))
            if self.on_cpu:
                session.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            else:
                session.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # all of it, or an error
        return session

    def _plugin_devices(self) -> list[Any]:
        """Return the devices a plug-in can run on here; the first is used."""
        import onnxruntime as ort

        _register_plugin(str(self.plugin))
        # The GPU may be a software adapter on the CPU, if the user allows it ($ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER).
        kinds = {self.device.upper(), "CPU"} if self.on_cpu else {self.device.upper()}
        found = [one for one in ort.get_ep_devices() if one.ep_name == self.execution_provider]
        return [one for one in found if one.device.type.name in kinds]


@functools.cache  # registering twice is an error
def _register_plugin(module: str) -> None:
    import onnxruntime as ort

    ort.register_execution_provider_library(module, importlib.import_module(module).get_library_path())


def _openvino_options(graph: OnnxGraph, precision: str, threads: int | None, device: str = "CPU") -> dict[str, str]:
    # By default it computes FP32 graphs in BF16 or FP16 if the device supports it; do so only on request.
    half = device == "NPU" or (device == "GPU" and precision == "fp16")  # an NPU has nothing else
    hint = {"INFERENCE_PRECISION_HINT": "f16" if half else "bf16" if precision == "bf16" else "f32"}
    limit = {} if threads is None or device != "CPU" else {"INFERENCE_NUM_THREADS": threads}
    return {"load_config": json.dumps({device: hint | limit})}


def _tensorrt_options(graph: OnnxGraph, precision: str, threads: int | None) -> dict[str, str]:
    """Return options for one engine for all batches, cached for the user, since building takes minutes."""
    folder = str(folder_for("tensorrt") or "")
    kept = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }
    return (kept if folder else {}) | _profile_shapes(graph.read(), "trt_profile")


def _tensorrt_rtx_options(graph: OnnxGraph, precision: str, threads: int | None) -> dict[str, str]:
    return _profile_shapes(graph.read(), "nv_profile")


def _profile_shapes(graph: bytes, prefix: str) -> dict[str, str]:
    """Return TensorRT's optimization profile: the smallest, typical and largest batch of each of the graph's inputs."""
    import onnxruntime as ort

    quick = ort.SessionOptions()
    quick.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    inputs = ort.InferenceSession(graph, quick, providers=["CPUExecutionProvider"]).get_inputs()
    batches = {"min": 1, "opt": TYPICAL_BATCH, "max": LARGEST_BATCH}
    return {
        f"{prefix}_{kind}_shapes": ",".join(
            f"{tensor.name}:{'x'.join(map(str, (batch, *tensor.shape[1:])))}" for tensor in inputs
        )
        for kind, batch in batches.items()
    }


_GPU = "pip uninstall onnxruntime && pip install onnxruntime-gpu (on a Jetson, NVIDIA's wheel for its JetPack)"

_OPENVINO = OrtBackend(
    name="openvino",
    precisions=("fp32", "int8", "fp16", "bf16"),
    install="pip install 'dfer-edge[openvino]'",
    execution_provider="OpenVINOExecutionProvider",
    plugin="onnxruntime_ep_openvino",
    options=_openvino_options,
    alone_below=96 << 20,
    keeps_compiled=True,
)


def _openvino_on(device: Literal["gpu", "npu"], largest: int | None = None) -> OrtBackend:
    options, repair = partial(_openvino_options, device=device.upper()), f"check the {device.upper()}'s driver"
    other = replace(_OPENVINO, name=f"openvino:{device}", device=device, options=options, repair=repair)
    # What is compiled for them depends on the driver, so it is not kept.
    return replace(other, precisions=("fp16", "int8", "fp32"), largest=largest, keeps_compiled=False)


BACKENDS = (
    OrtBackend(
        name="cpu",
        precisions=("fp32", "int8", "fp16"),
        install="reinstall onnxruntime",
        execution_provider=_CPU,
        one_thread_below=4 << 20,
    ),
    _OPENVINO,
    _openvino_on("gpu"),
    _openvino_on("npu", largest=1),  # it takes no dynamic shapes
    OrtBackend(
        name="cuda",
        precisions=("fp16", "fp32", "int8"),  # products of Q/DQ graphs are computed in FP32
        install=_GPU,
        device="gpu",
        execution_provider="CUDAExecutionProvider",
        repair="check the driver and the CUDA libraries",
    ),
    OrtBackend(
        name="tensorrt",
        precisions=("fp16", "int8", "fp32"),
        install=f"{_GPU}, and TensorRT's libraries: pip install 'dfer-edge[tensorrt]'; or ask for native-tensorrt",
        device="gpu",
        execution_provider="TensorrtExecutionProvider",
        beside=("CUDAExecutionProvider",),
        options=_tensorrt_options,
        largest=LARGEST_BATCH,
        repair="check the driver, and that TensorRT's and CUDA's libraries are found",
    ),
    OrtBackend(
        name="tensorrt-rtx",
        precisions=("fp16", "int8", "fp32"),
        install="pip install onnxruntime-ep-nv-tensorrt-rtx-cu13; or ask for native-tensorrt-rtx",
        device="gpu",
        execution_provider="NvTensorRTRTXExecutionProvider",
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
        options=_tensorrt_rtx_options,
        largest=LARGEST_BATCH,
    ),
    OrtBackend(
        name="webgpu",  # any GPU with Vulkan, Metal or Direct3D 12
        precisions=("fp32", "fp16"),  # it leaves half of an INT8 graph to the CPU
        install="pip install 'dfer-edge[webgpu]'",
        device="gpu",
        execution_provider="WebGpuExecutionProvider",
        plugin="onnxruntime_ep_webgpu",
        repair="check the GPU's driver (vulkaninfo)",
        on_cpu=("Cast", "Concat", "Gather", "Reshape", "Shape", "Squeeze", "Unsqueeze"),  # on pixels and shapes
    ),
)

"""Graphs on ONNX Runtime."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import DferError
from ..machine import cache_folder
from . import PROVIDERS, Engine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from . import Array

_ORT_NAMES = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
_PLUGINS = {"tensorrt-rtx": "onnxruntime_ep_nv_tensorrt_rtx", "openvino": "onnxruntime_ep_openvino"}
"""Modules that carry a provider as a plug-in, which works beside plain onnxruntime."""
_GPU = "pip uninstall onnxruntime && pip install onnxruntime-gpu (on a Jetson, NVIDIA's wheel for its JetPack)"
_INSTALL = {
    "cuda": _GPU,
    "tensorrt": f"{_GPU}, and TensorRT's libraries: pip install 'dfer-edge[tensorrt]'; or ask for native-tensorrt",
    "openvino": "pip install 'dfer-edge[openvino]'",
    "tensorrt-rtx": "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13; or ask for native-tensorrt-rtx",
}
_NOT_STARTED = {
    "tensorrt": "check the driver, and that TensorRT's and CUDA's libraries are found",
    "cuda": "check the driver and the CUDA libraries",
}
_LARGEST_BATCH = 16
"""What TensorRT's engines are built for; larger batches are run in parts."""


def present_providers() -> list[str]:
    """See `dfer.runtime.engines.present_providers`."""
    import onnxruntime as ort

    listed = ort.get_available_providers()  # which names plug-ins, too, once they are registered
    built_in = {name for name, theirs in _ORT_NAMES.items() if theirs in listed and name not in _PLUGINS}
    plugged_in = {name for name, module in _PLUGINS.items() if importlib.util.find_spec(module)}
    return [name for name in ("tensorrt", "tensorrt-rtx", "cuda", "cpu", "openvino") if name in built_in | plugged_in]


def computes_bf16(provider: str) -> bool:
    """See `dfer.runtime.engines.computes_bf16`."""
    import onnxruntime as ort

    if provider != "openvino" or provider not in present_providers():
        return False
    return "BF16" in _plugged_in_device(ort, provider).ep_metadata.get("OPTIMIZATION_CAPABILITIES", "").split()


class OrtEngine(Engine):
    """An ONNX Runtime session. See `open_engine`."""

    def __init__(self, graph: bytes, provider: str, threads: int | None = None, bf16: bool = False) -> None:
        import onnxruntime as ort

        if provider not in _ORT_NAMES:
            raise DferError(f"--provider {provider}: unknown; one of {', '.join(PROVIDERS)}")
        if provider not in present_providers():
            raise DferError(
                f"--provider {provider}: this ONNX Runtime has no {_ORT_NAMES[provider]}; "
                f"{_INSTALL.get(provider, 'reinstall onnxruntime')}"
            )
        if bf16 and not computes_bf16(provider):
            raise DferError(
                f"bf16: --provider {provider} does not compute it here; openvino does, on a CPU with BF16 instructions "
                "(avx512_bf16, amx_bf16); ask for another precision"
            )
        session = _session(ort, graph, provider, threads, bf16)
        if session.get_providers()[0] != _ORT_NAMES[provider]:  # it has fallen back by itself
            raise DferError(
                f"--provider {provider}: ONNX Runtime could not start it and would run on the CPU; "
                f"{_NOT_STARTED.get(provider, 'reinstall it')}, or ask for --provider cpu"
            )
        self.provider = provider
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        rows = len(next(iter(inputs.values())))
        if "tensorrt" in self.provider and rows > _LARGEST_BATCH:
            return self._run_in_parts(inputs, rows)
        try:
            results = self._session.run(self._outputs, dict(inputs))
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            reason = str(error).strip().splitlines()[0]
            raise DferError(f"ONNX Runtime cannot run the graph: {reason}") from error
        return dict(zip(self._outputs, results, strict=True))

    def _run_in_parts(self, inputs: Mapping[str, Array], rows: int) -> dict[str, NDArray[np.float32]]:
        import numpy as np

        parts = [
            self.run({name: array[start : start + _LARGEST_BATCH] for name, array in inputs.items()})
            for start in range(0, rows, _LARGEST_BATCH)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}

    def close(self) -> None:
        self._session = None


def _session(ort: Any, graph: bytes, provider: str, threads: int | None, bf16: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what matters is raised; the rest is noise on the user's terminal
    # Busy-waiting worker threads would take the cores that decode the next frame.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        if provider in _PLUGINS:
            device = _plugged_in_device(ort, provider)
            options.add_provider_for_devices([device], _plugin_options(ort, graph, provider, threads, bf16))
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # all of the graph, or an error
            return ort.InferenceSession(graph, options)
        if provider == "tensorrt":
            ours = (_ORT_NAMES[provider], _tensorrt_options(ort, graph))
            return ort.InferenceSession(graph, options, providers=[ours, _ORT_NAMES["cuda"]])
        return ort.InferenceSession(graph, options, providers=[_ORT_NAMES[provider]])
    except DferError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        reason = str(error).strip().splitlines()[0]
        raise DferError(f"ONNX Runtime cannot load the graph: {reason}") from error


def _tensorrt_options(ort: Any, graph: bytes) -> dict[str, str]:
    """One engine for all batches, kept in the user's cache, since building takes minutes."""
    try:
        folder = cache_folder() / "tensorrt"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        kept = {}  # built anew by every process
    else:
        kept = {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
        }
    return kept | _shapes(ort, graph, "trt_profile")


def _plugin_options(ort: Any, graph: bytes, provider: str, threads: int | None, bf16: bool) -> dict[str, str]:
    if provider == "openvino":
        # Left to itself it computes FP32 graphs in BF16 where it can: it is to do so where that was asked for.
        precision = {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32"}
        limit = {} if threads is None else {"INFERENCE_NUM_THREADS": threads}
        return {"load_config": json.dumps({"CPU": precision | limit})}
    return _shapes(ort, graph, "nv_profile")


def _shapes(ort: Any, graph: bytes, prefix: str) -> dict[str, str]:
    """TensorRT's profile: the smallest, usual and largest batch of each of the graph's inputs."""
    quick = ort.SessionOptions()
    quick.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    inputs = ort.InferenceSession(graph, quick, providers=[_ORT_NAMES["cpu"]]).get_inputs()
    batches = {"min": 1, "opt": 4, "max": _LARGEST_BATCH}
    return {
        f"{prefix}_{kind}_shapes": ",".join(
            f"{tensor.name}:{'x'.join(map(str, (batch, *tensor.shape[1:])))}" for tensor in inputs
        )
        for kind, batch in batches.items()
    }


def _plugged_in_device(ort: Any, provider: str) -> Any:
    """The first device of a plug-in, which is registered on first use; OpenVINO's is the CPU, the other's a GPU."""
    if not _devices(ort, provider):
        plugin = importlib.import_module(_PLUGINS[provider])
        ort.register_execution_provider_library(provider, plugin.get_library_path())
    devices = _devices(ort, provider)
    if not devices:
        kind = "CPU" if provider == "openvino" else "GPU"
        raise DferError(f"--provider {provider}: it finds no {kind} it can run on; ask for --provider cpu")
    return devices[0]


def _devices(ort: Any, provider: str) -> list[Any]:
    kinds = ort.OrtHardwareDeviceType
    wanted = kinds.CPU if provider == "openvino" else kinds.GPU
    found = ort.get_ep_devices()
    return [device for device in found if device.ep_name == _ORT_NAMES[provider] and device.device.type == wanted]

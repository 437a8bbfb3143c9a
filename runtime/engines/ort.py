"""Graphs on ONNX Runtime."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import DferError
from . import PROVIDERS, Engine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from . import Array

_ORT_NAMES = {
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
_FASTEST_FIRST = ("cuda", "cpu")
_INSTALL = {
    "cuda": "pip uninstall onnxruntime && pip install onnxruntime-gpu",
    "openvino": "pip install 'dfer-edge[openvino]'",
}
_OPENVINO = "onnxruntime_ep_openvino"
"""Carries the provider as a plug-in, which works beside plain onnxruntime."""
_OPENVINO_CONFIG = '{{"CPU": {{"INFERENCE_PRECISION_HINT": "{}"}}}}'
"""Left to itself, OpenVINO computes FP32 graphs in BF16 where it can: it is to do so where that was asked for."""


def present_providers() -> list[str]:
    """See `dfer.runtime.engines.present_providers`."""
    import onnxruntime as ort

    present = [name for name in _FASTEST_FIRST if _ORT_NAMES[name] in ort.get_available_providers()]
    return [*present, *(["openvino"] if importlib.util.find_spec(_OPENVINO) else [])]


def computes_bf16(provider: str) -> bool:
    """See `dfer.runtime.engines.computes_bf16`."""
    import onnxruntime as ort

    if provider != "openvino" or provider not in present_providers():
        return False
    return "BF16" in _openvino_device(ort).ep_metadata.get("OPTIMIZATION_CAPABILITIES", "").split()


class OrtEngine(Engine):
    """An ONNX Runtime session. See `open_engine`."""

    def __init__(self, graph: bytes, provider: str, bf16: bool = False) -> None:
        import onnxruntime as ort

        present = present_providers()
        if provider == "auto":
            wanted = [name for name in present if name in _FASTEST_FIRST]
        elif provider in present:
            wanted = [provider]
        elif provider in _ORT_NAMES:
            raise DferError(
                f"--provider {provider}: this ONNX Runtime has no {_ORT_NAMES[provider]}; "
                f"{_INSTALL.get(provider, 'reinstall onnxruntime')}"
            )
        else:
            raise DferError(f"--provider {provider}: unknown; one of {', '.join(PROVIDERS)}")
        if bf16 and not computes_bf16(provider):
            raise DferError(
                f"bf16: --provider {provider} does not compute it here; openvino does, on a CPU with BF16 instructions "
                "(avx512_bf16, amx_bf16); ask for another precision"
            )
        for name in wanted:
            try:
                session = _session(ort, graph, name, bf16)
            except DferError:
                if name == wanted[-1]:
                    raise
                continue  # a GPU that is installed but does not start: "auto" goes on to the next
            if session.get_providers()[0] == _ORT_NAMES[name]:
                break
            # ONNX Runtime has fallen back by itself: right for "auto", wrong for anyone who asked for a GPU.
            if provider != "auto":
                raise DferError(
                    f"--provider {provider}: ONNX Runtime could not start it and would run on the CPU; "
                    "check the driver and the CUDA libraries, or ask for --provider cpu"
                )
        self.provider = name
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        try:
            results = self._session.run(self._outputs, dict(inputs))
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            reason = str(error).strip().splitlines()[0]
            raise DferError(f"ONNX Runtime cannot run the graph: {reason}") from error
        return dict(zip(self._outputs, results, strict=True))

    def close(self) -> None:
        self._session = None


def _session(ort: Any, graph: bytes, provider: str, bf16: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what matters is raised; the rest is noise on the user's terminal
    # Busy-waiting worker threads would take the cores that decode the next frame.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        if provider == "openvino":
            config = _OPENVINO_CONFIG.format("bf16" if bf16 else "f32")
            options.add_provider_for_devices([_openvino_device(ort)], {"load_config": config})
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # all of the graph, or an error
            return ort.InferenceSession(graph, options)
        return ort.InferenceSession(graph, options, providers=[_ORT_NAMES[provider]])
    except DferError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        reason = str(error).strip().splitlines()[0]
        raise DferError(f"ONNX Runtime cannot load the graph: {reason}") from error


def _openvino_device(ort: Any) -> Any:
    """The CPU as the OpenVINO plug-in sees it, which is registered on first use."""
    if not _openvino_devices(ort):
        plugin = importlib.import_module(_OPENVINO)
        ort.register_execution_provider_library("openvino", plugin.get_library_path())
    devices = _openvino_devices(ort)
    if not devices:
        raise DferError("--provider openvino: OpenVINO finds no CPU it can run on; ask for --provider cpu")
    return devices[0]


def _openvino_devices(ort: Any) -> list[Any]:
    cpu = ort.OrtHardwareDeviceType.CPU
    found = ort.get_ep_devices()
    return [device for device in found if device.ep_name == _ORT_NAMES["openvino"] and device.device.type == cpu]

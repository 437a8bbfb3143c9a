"""Graphs on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import DferError
from . import PROVIDERS, Engine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from . import Array

_ORT_NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_FASTEST_FIRST = ("cuda", "cpu")
_INSTALL = {"cuda": "pip uninstall onnxruntime && pip install onnxruntime-gpu"}


class OrtEngine(Engine):
    """An ONNX Runtime session. See `open_engine`."""

    def __init__(self, graph: bytes, provider: str) -> None:
        import onnxruntime as ort

        present = [name for name in _FASTEST_FIRST if _ORT_NAMES[name] in ort.get_available_providers()]
        if provider == "auto":
            wanted = present
        elif provider in present:
            wanted = [provider]
        elif provider in _ORT_NAMES:
            raise DferError(
                f"--provider {provider}: this ONNX Runtime has no {_ORT_NAMES[provider]}; "
                f"{_INSTALL.get(provider, 'reinstall onnxruntime')}"
            )
        else:
            raise DferError(f"--provider {provider}: unknown; one of {', '.join(PROVIDERS)}")
        for name in wanted:
            try:
                session = _session(ort, graph, name)
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


def _session(ort: Any, graph: bytes, provider: str) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what matters is raised; the rest is noise on the user's terminal
    # Busy-waiting worker threads would take the cores that decode the next frame.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(graph, options, providers=[_ORT_NAMES[provider]])
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        reason = str(error).strip().splitlines()[0]
        raise DferError(f"ONNX Runtime cannot load the graph: {reason}") from error

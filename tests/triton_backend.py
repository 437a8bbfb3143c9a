"""ONNX Runtime as a Python backend of Triton, under the name `onnxruntime`: what the real one does, so that a server
without it loads the very configuration that is shipped. Copied to `backends/onnxruntime/model.py`; see
`triton_servers.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("packages")))  # NumPy 1: with 2, this Triton answers nothing

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):  # type: ignore[no-untyped-def]
        model = Path(args["model_repository"], args["model_version"], "model.onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def execute(self, requests):  # type: ignore[no-untyped-def]
        frames = [triton.get_input_tensor_by_name(request, "frames").as_numpy() for request in requests]
        (features,) = self._session.run(["features"], {"frames": np.concatenate(frames)})
        parts = np.split(features, np.cumsum([len(one) for one in frames])[:-1])
        return [triton.InferenceResponse([triton.Tensor("features", part)]) for part in parts]

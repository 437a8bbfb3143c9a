"""The two graphs that every method ends as, and their translation to ONNX."""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from ..train.methods import Method
from .graph_rewrites import Pixels, rewritten

OPSET = 20  # static INT8 tools stop here


class EncoderGraph(nn.Module):
    """uint8 [N,H,W,3] RGB crops → float32 [N,D] features; the whole preprocessing is inside."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.pixels = Pixels(method.preprocessing)

    def forward(self, frames: Tensor) -> Tensor:
        return self.method.encode_pixels(self.pixels(frames))


class HeadGraph(nn.Module):
    """float32 [N,T,D] features → probabilities [N,C]; class matrix and scale are folded in as one constant."""

    def __init__(self, method: Method, class_matrix: Tensor) -> None:
        super().__init__()
        self.method = method
        self.classes: Tensor
        self.register_buffer("classes", method.scale * class_matrix.T)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.method.pool(features) @ self.classes
        return logits.softmax(dim=-1)


def trace_encoder(method: Method) -> bytes:
    """The encoder as ONNX: "frames" → "features", batch dynamic."""
    return trace_encoder_program(method)[0]


def trace_encoder_program(method: Method) -> tuple[bytes, Any]:
    """The encoder as ONNX, and as torch's ExportedProgram, whose values have the names of the graph's tensors."""
    size = method.preprocessing.size
    frames = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # batch of 2: a 1 would be taken for a constant
    return _trace(EncoderGraph(method), frames, "frames", "features")


def trace_head(method: Method, class_matrix: Tensor) -> bytes:
    """The head as ONNX: "features" → "probabilities", batch dynamic."""
    features = torch.zeros(2, method.window, class_matrix.shape[1])
    return _trace(HeadGraph(method, class_matrix), features, "features", "probabilities")[0]


def _trace(graph: nn.Module, example: Tensor, input_name: str, output_name: str) -> tuple[bytes, Any]:
    with rewritten(graph), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            graph.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=[output_name],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    model = program.model_proto
    del model.metadata_props[:]
    names: Counter[str] = Counter()
    for node in model.graph.node:
        node.name = _readable_name(node, names)
        del node.metadata_props[:]  # stack traces of the exporting machine
        node.doc_string = ""
    data: bytes = model.SerializeToString()
    return data, program.exported_program


def _readable_name(node: Any, names: Counter[str]) -> str:
    """The path of the module that a node computes, and its operator: "clip_model.visual.conv1/Conv"; never twice."""
    scopes = [entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
    path = ast.literal_eval(scopes[0])[-2:-1] if scopes else []
    name = "/".join([*(part.removeprefix("method.") for part in path if part), node.op_type])
    names[name] += 1
    return name if names[name] == 1 else f"{name}.{names[name]}"

"""The two graphs of every exported method, and their conversion to ONNX."""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..train.methods import Method
from .graph_rewrites import Pixels, missed_rewrites, rewritten

OPSET = 20  # static INT8 tools support no later one


class EncoderGraph(nn.Module):
    """uint8 [N,H,W,3] RGB crops → float32 [N,D] features, including all preprocessing."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.pixels = Pixels(method.preprocessing)

    def forward(self, frames: Tensor) -> Tensor:
        return self.method.encode_pixels(self.pixels(frames))


class HeadGraph(nn.Module):
    """float32 [N,T,D] features → probabilities [N,C]; class matrix, scale and temperature are one constant."""

    def __init__(self, method: Method, class_matrix: Tensor) -> None:
        super().__init__()
        self.method = method
        self.classes: Tensor
        self.register_buffer("classes", method.final_scale * class_matrix.T)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.method.pool(features) @ self.classes
        return logits.softmax(dim=-1)


@dataclass(frozen=True)
class TracedEncoder:
    """An encoder as ONNX: "frames" → "features", batch dynamic.

    program: torch's ExportedProgram of it, whose values have the names of the graph's tensors.
    missed: see `missed_rewrites`.
    """

    onnx: bytes
    program: Any
    missed: tuple[str, ...]


@dataclass(frozen=True)
class TracedMethod:
    """A method as the graphs of a bundle.

    head: as ONNX, "features" → "probabilities", batch dynamic. class_matrix: float32 [C,D].
    """

    encoder: TracedEncoder
    head: bytes
    class_matrix: NDArray[np.float32]


def trace_method(method: Method, report: Callable[[str], object] = lambda _: None) -> TracedMethod:
    """Trace both graphs of a method in evaluation mode, and compute its class matrix."""
    report("computing the class matrix")
    with torch.inference_mode():
        class_matrix = method.class_matrix().clone()
    report("tracing the encoder")
    encoder = trace_encoder(method)
    report("tracing the head")
    return TracedMethod(encoder, trace_head(method, class_matrix), class_matrix.numpy())


def trace_encoder(method: Method) -> TracedEncoder:
    """Trace the encoder of a method."""
    size = method.preprocessing.size
    frames = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # batch of 2: torch.export specialises on 1
    model, program = _trace(EncoderGraph(method), frames, "frames", "features")
    missed = tuple(missed_rewrites(model.graph))
    return TracedEncoder(_serialise(model), program, missed)


def trace_head(method: Method, class_matrix: Tensor) -> bytes:
    """Trace the head of a method as ONNX, with the class matrix float32 [C,D]."""
    features = torch.zeros(2, method.window, class_matrix.shape[1])
    return _serialise(_trace(HeadGraph(method, class_matrix), features, "features", "probabilities")[0])


def _trace(graph: nn.Module, example: Tensor, input_name: str, output_name: str) -> tuple[Any, Any]:
    """Return the ONNX ModelProto and the ExportedProgram of a module."""
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
    return program.model_proto, program.exported_program


def _serialise(model: Any) -> bytes:
    """Serialise the model with readable node names and without metadata of the exporting machine."""
    del model.metadata_props[:]
    names: Counter[str] = Counter()
    for node in model.graph.node:
        node.name = _readable_name(node, names)
        del node.metadata_props[:]  # stack traces
        node.doc_string = ""
    data: bytes = model.SerializeToString()
    return data


def _readable_name(node: Any, names: Counter[str]) -> str:
    """Return a unique name from a node's module path and operator: "clip_model.visual.conv1/Conv"."""
    scopes = [entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
    path = ast.literal_eval(scopes[0])[-2:-1] if scopes else []
    name = "/".join([*(part.removeprefix("method.") for part in path if part), node.op_type])
    names[name] += 1
    return name if names[name] == 1 else f"{name}.{names[name]}"

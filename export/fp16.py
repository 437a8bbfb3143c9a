"""FP16 by graph conversion: layers with weights in half precision, operators that half precision breaks in single."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from ..calibration.faces import spread
from ..calibration.graphs import Graph, largest
from ..runtime.errors import DferError

RANGE_LIMIT = 1e4
"""Largest |x| of any input or output of a node in half precision: a sixth of FP16's, as a margin for new frames."""
RANGE_FRAMES = 64
"""Frames on which ranges are measured, spread evenly over all."""

_OPERATORS = (
    "Add AveragePool BatchNormalization Concat Conv Gather Gelu Gemm GlobalAveragePool Identity LeakyRelu MatMul "
    "MaxPool Mul Neg Relu Reshape Sigmoid Slice Split Squeeze Sub Tanh Transpose Unsqueeze"
)
FP16_OPERATORS = frozenset(_OPERATORS.split())
"""Operators that may run in half precision; LayerNorm, Softmax, reductions, norms, divisions and the like never do."""

_SUFFIX = {TensorProto.FLOAT16: "half", TensorProto.FLOAT: "single"}


def to_half(graph: bytes, frames: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Convert an encoder's weights and most of its arithmetic to FP16; inputs and outputs keep their types.

    frames: crops uint8 [N,H,W,3] of real faces to measure ranges on. A node with an input or output above `RANGE_LIMIT`
    stays in FP32, as do pixel normalisation and everything from the first L2-norm on.
    Raises DferError if the graph cannot be read or run, or no node can be in FP16.
    """
    source = Graph(graph)
    ranges = largest(graph, frames[spread(len(frames), RANGE_FRAMES)])
    kinds = dict.fromkeys(ranges, TensorProto.FLOAT)  # every float tensor → its new type
    halved = {node.name for node in _fp16_nodes(source, ranges)}
    if not halved:
        raise DferError("fp16: no part of this encoder can run in half precision")
    casts: dict[tuple[str, int], str] = {}
    nodes: list[Any] = []
    for node in source.nodes:
        kind = TensorProto.FLOAT16 if node.name in halved else TensorProto.FLOAT
        for place, name in enumerate(node.input):
            if name in source.constants and source.constants[name].data_type == TensorProto.FLOAT:
                if kind == TensorProto.FLOAT16:
                    node.input[place] = _half_constant(source, name)
            elif name in kinds and kinds[name] != kind:
                node.input[place] = _cast(nodes, casts, name, kind)
        for name in node.output:
            if name in kinds:
                kinds[name] = kind
        nodes.append(node)
    if kinds[source.output] != TensorProto.FLOAT:
        raise DferError("fp16: the encoder's last node may not be in half precision")
    source.rebuild(nodes)
    return source.bytes()


def _fp16_nodes(graph: Graph, ranges: Mapping[str, float]) -> Iterator[Any]:
    """Yield the nodes to run in half precision, from the first layer with weights up to the L2-norm."""
    weighted = {layer.name for layer in graph.layers()}
    reached: set[str] = set()  # tensors after a layer with weights
    finished: set[str] = set()  # tensors after the L2-norm
    for node in graph.nodes:
        if node.op_type == "ReduceL2" or finished.intersection(node.input):
            finished.update(node.output)
        elif node.name in weighted or reached.intersection(node.input):
            reached.update(node.output)
            if (
                node.op_type in FP16_OPERATORS
                and not _scales(graph, node)
                and node.output[0] in ranges
                and graph.output not in node.output
                and all(_in_range(graph, name, ranges) for name in (*node.input, *node.output))
            ):
                yield node


def _scales(graph: Graph, node: Any) -> bool:
    """Return whether a node multiplies by a scalar constant, on which ONNX Runtime 1.31 crashes in half precision."""
    constants = [graph.constants[name] for name in node.input if name in graph.constants]
    return node.op_type == "Mul" and any(np.prod(tensor.dims) == 1 for tensor in constants)


def _in_range(graph: Graph, name: str, ranges: Mapping[str, float]) -> bool:
    if name in graph.constants:
        constant = graph.constants[name]
        return constant.data_type != TensorProto.FLOAT or not np.any(np.abs(graph.constant(name)) > RANGE_LIMIT)
    return ranges.get(name, 0.0) <= RANGE_LIMIT  # false for NaN


def _half_constant(graph: Graph, name: str) -> str:
    half = f"{name}.half"
    if half not in graph.constants:
        graph.add_constant(half, graph.constant(name).astype(np.float16))
    return half


def _cast(nodes: list[Any], casts: dict[tuple[str, int], str], name: str, kind: int) -> str:
    """Return the name of the tensor cast to `kind`; all its readers share one Cast."""
    if (name, kind) not in casts:
        casts[name, kind] = f"{name}.{_SUFFIX[kind]}"
        nodes.append(helper.make_node("Cast", [name], [casts[name, kind]], name=f"{name}/to_{_SUFFIX[kind]}", to=kind))
    return casts[name, kind]

"""INT8 graphs: static Q/DQ, which every backend supports, and dynamic, which is fastest on ONNX Runtime's CPU provider.

Only layers with constant weights are quantised, symmetrically, weights per output channel. LayerNorm, Softmax, GELU,
norms and products of two activations stay float.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from .graphs import Array, Graph, Layer, attributes_of

TINY = 1e-8
"""Minimum range: a tensor that is always zero still needs a scale."""


def quantize_weight(weight: Array, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise a weight to int8 in -127..127 of the same shape; return it and float32 scales per channel of `axis`."""
    others = tuple(place for place in range(weight.ndim) if place != axis)
    scales = np.maximum(np.abs(weight).max(axis=others), TINY).astype(np.float32) / 127
    shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
    values = np.clip(np.rint(weight / scales.reshape(shape)), -127, 127).astype(np.int8)
    return values, scales


def quantize_static(graph: bytes, ranges: Mapping[str, float], names: Collection[str]) -> bytes:
    """Quantise the named layers to INT8 by Q/DQ pairs on their inputs and weights.

    ranges: the largest |x| to represent of every tensor that a layer reads. Outputs and biases of layers stay float:
    backends fuse the bias into the integer product, and TensorRT refuses integer biases. Not for ONNX Runtime's CPU
    provider, which computes layers with a common input, such as queries and keys, in float.
    """
    quantizer = _Quantizer(Graph(graph), ranges)
    layers = {layer.name: layer for layer in quantizer.graph.layers() if layer.name in names}
    for node in quantizer.graph.nodes:
        if node.name in layers:
            quantizer.quantize_inputs(node, layers[node.name])
        quantizer.nodes.append(node)
    return quantizer.rebuilt()


class _Quantizer:
    """Adds Q/DQ pairs to a graph. nodes: of the new graph so far, in order."""

    def __init__(self, graph: Graph, ranges: Mapping[str, float]) -> None:
        self.graph, self._ranges = graph, ranges
        self.nodes: list[Any] = []
        self._pairs: dict[str, str] = {}
        self._readers = graph.readers()

    def rebuilt(self) -> bytes:
        self.graph.rebuild(self.nodes)
        return self.graph.bytes()

    def quantize_inputs(self, node: Any, layer: Layer) -> None:
        node.input[0] = self._data_pair(layer.data)
        node.input[1] = self._weight_pair(layer)

    def quantize_output(self, node: Any) -> None:
        """Append the node and a Q/DQ pair whose result has the name of the node's output."""
        name = node.output[0]
        node.output[0] = f"{name}.float"
        self.nodes += [node, *self._pair(name, node.output[0], name)]
        self._pairs[name] = name  # a layer that reads it directly needs no second pair

    def _data_pair(self, name: str) -> str:
        """Return the name of the tensor after Q and DQ; all its readers share one pair."""
        if name not in self._pairs:
            moves = self._moves(name)
            pair = self._pair(name, moves[0].input[0] if moves else name, f"{name}.dequantized")
            place = self.nodes.index(moves[0]) if moves else len(self.nodes)
            self.nodes[place:place] = pair
            self._pairs[name] = name if moves else pair[-1].output[0]
            if moves:
                moves[0].input[0] = pair[-1].output[0]
        return self._pairs[name]

    def _moves(self, name: str) -> list[Any]:
        """Return the chain of Reshape and Transpose nodes, first to last, before a tensor, each with one reader.

        Q is placed before them: they then move bytes, and backends fuse Q with the node that computes the values.
        """
        found: list[Any] = []
        for node in reversed(self.nodes):
            if node.output[0] == name and node.op_type in ("Reshape", "Transpose") and len(self._readers[name]) == 1:
                found.insert(0, node)
                name = node.input[0]
        return found

    def _pair(self, name: str, source: str, result: str) -> list[Any]:
        """Return Q and DQ from `source` to `result`, with the range of the tensor `name`."""
        scale = self.graph.add_constant(f"{name}.scale", np.array(max(self._ranges[name], TINY) / 127, np.float32))
        zero = self.graph.add_constant("zero.int8", np.array(0, np.int8))
        return [
            helper.make_node("QuantizeLinear", [source, scale, zero], [f"{name}.int8"], name=f"{name}/Q"),
            helper.make_node("DequantizeLinear", [f"{name}.int8", scale, zero], [result], name=f"{name}/DQ"),
        ]

    def _weight_pair(self, layer: Layer) -> str:
        if layer.weight not in self._pairs:
            values, scales = quantize_weight(self.graph.constant(layer.weight), layer.axis)
            inputs = [
                self.graph.add_constant(f"{layer.weight}.int8", values),
                self.graph.add_constant(f"{layer.weight}.scale", scales),
                self.graph.add_constant(f"{layer.weight}.zero", np.zeros(len(scales), np.int8)),
            ]
            self._pairs[layer.weight] = f"{layer.weight}.dequantized"
            self.nodes.append(
                helper.make_node(
                    "DequantizeLinear",
                    inputs,
                    [self._pairs[layer.weight]],
                    name=f"{layer.weight}/DQ",
                    axis=layer.axis,
                )
            )
        return self._pairs[layer.weight]


def quantize_dynamic(graph: bytes, ranges: Mapping[str, float], names: Collection[str]) -> bytes:
    """Quantise the named layers to INT8 in the form that is fastest on ONNX Runtime's CPU provider.

    The input of a MatMul or Gemm gets its range at run time, and each becomes one fused kernel. Convolutions have no
    such fast kernel: they are static, and their outputs are quantised too, else they would run in float.
    ranges: the largest |x| to represent of every input and output of a convolution.
    """
    quantizer = _Quantizer(Graph(graph), ranges)
    layers = {layer.name: layer for layer in quantizer.graph.layers() if layer.name in names}
    quantized: set[str] = set()
    for node in quantizer.graph.nodes:
        if node.name not in layers:
            quantizer.nodes.append(node)
        elif node.op_type == "Conv":
            quantizer.quantize_inputs(node, layers[node.name])
            quantizer.quantize_output(node)
        else:
            _quantize_at_run_time(quantizer.graph, quantizer.nodes, quantized, node, layers[node.name])
    return quantizer.rebuilt()


def _quantize_at_run_time(graph: Graph, nodes: list[Any], quantized: set[str], node: Any, layer: Layer) -> None:
    """Append x·W + b as DynamicQuantizeLinear, MatMulInteger, and the scaling that ONNX Runtime fuses with them.

    quantized: tensors that already have a DynamicQuantizeLinear.
    """
    data, output, attributes = layer.data, layer.output, attributes_of(node)
    if data not in quantized:
        quantized.add(data)
        parts = [f"{data}.uint8", f"{data}.scale", f"{data}.zero"]
        nodes.append(helper.make_node("DynamicQuantizeLinear", [data], parts, name=f"{data}/Q"))
    weight = graph.constant(layer.weight)
    matrix = weight.T if layer.axis == 0 else weight
    values, scales = quantize_weight(matrix * np.float32(attributes.get("alpha", 1.0)), 1)
    integers = graph.add_constant(f"{output}.weight.int8", values)
    scale = graph.add_constant(f"{output}.weight.scale", scales)
    zero = graph.add_constant(f"{output}.weight.zero", np.zeros(len(scales), np.int8))
    product, combined = [f"{output}.{part}" for part in ("int32", "scale")]
    bias = [name for name in node.input[2:3] if name]
    scaled = f"{output}.scaled" if bias else output
    nodes += [
        helper.make_node(
            "MatMulInteger", [f"{data}.uint8", integers, f"{data}.zero", zero], [product], name=f"{layer.name}/MatMul"
        ),
        helper.make_node("Cast", [product], [f"{product}.float"], name=f"{layer.name}/Cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{data}.scale", scale], [combined], name=f"{layer.name}/Scale"),
        helper.make_node("Mul", [f"{product}.float", combined], [scaled], name=f"{layer.name}/Mul"),
    ]
    if bias:
        nodes.append(helper.make_node("Add", [scaled, bias[0]], [output], name=f"{layer.name}/Add"))

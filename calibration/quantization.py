"""INT8 graphs: static Q/DQ, which every backend reads, and dynamic, which ONNX Runtime's CPU provider runs fastest.

Only products with constant weights are quantised, symmetrically, weights per output channel. LayerNorm, Softmax, GELU,
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
"""Smallest range: what is always zero still needs a scale."""


def quantize_weight(weight: Array, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight as int8 in -127..127 of the same shape, and its scales float32, one per channel along `axis`."""
    others = tuple(place for place in range(weight.ndim) if place != axis)
    scales = np.maximum(np.abs(weight).max(axis=others), TINY).astype(np.float32) / 127
    shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
    values = np.clip(np.rint(weight / scales.reshape(shape)), -127, 127).astype(np.int8)
    return values, scales


def quantize_static(graph: bytes, ranges: Mapping[str, float], names: Collection[str]) -> bytes:
    """The graph with the named layers in INT8, by Q/DQ pairs on what they read.

    ranges: largest |x| to represent, for every tensor that a layer reads. What layers give, and their biases, stay
    float: backends fuse the bias into the integer product, and TensorRT refuses integer ones. ONNX Runtime's CPU
    provider is not one to run this: it computes products that share what they read, as queries and keys do, in float.
    """
    source = Graph(graph)
    layers = {layer.name: layer for layer in source.layers() if layer.name in names}
    pairs: dict[str, str] = {}
    nodes: list[Any] = []
    for node in source.nodes:
        if node.name in layers:
            _quantize_inputs(source, nodes, pairs, node, layers[node.name], ranges)
        nodes.append(node)
    source.rebuild(nodes)
    return source.bytes()


def _quantize_inputs(
    graph: Graph, nodes: list[Any], pairs: dict[str, str], node: Any, layer: Layer, ranges: Mapping[str, float]
) -> None:
    node.input[0] = _activation_pair(graph, nodes, pairs, layer.data, ranges)
    node.input[1] = _weight_pair(graph, nodes, pairs, layer)


def _activation_pair(
    graph: Graph, nodes: list[Any], pairs: dict[str, str], name: str, ranges: Mapping[str, float]
) -> str:
    """The tensor after Q and DQ; one pair serves all its readers."""
    if name not in pairs:
        scale = graph.add_constant(f"{name}.scale", np.array(max(ranges[name], TINY) / 127, np.float32))
        zero = graph.add_constant("zero.int8", np.array(0, np.int8))
        pairs[name] = f"{name}.dequantized"
        nodes += [
            helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}.int8"], name=f"{name}/Q"),
            helper.make_node("DequantizeLinear", [f"{name}.int8", scale, zero], [pairs[name]], name=f"{name}/DQ"),
        ]
    return pairs[name]


def _weight_pair(graph: Graph, nodes: list[Any], pairs: dict[str, str], layer: Layer) -> str:
    if layer.weight not in pairs:
        values, scales = quantize_weight(graph.constant(layer.weight), layer.axis)
        inputs = [
            graph.add_constant(f"{layer.weight}.int8", values),
            graph.add_constant(f"{layer.weight}.scale", scales),
            graph.add_constant(f"{layer.weight}.zero", np.zeros(len(scales), np.int8)),
        ]
        pairs[layer.weight] = f"{layer.weight}.dequantized"
        nodes.append(
            helper.make_node(
                "DequantizeLinear", inputs, [pairs[layer.weight]], name=f"{layer.weight}/DQ", axis=layer.axis
            )
        )
    return pairs[layer.weight]


def quantize_dynamic(graph: bytes, ranges: Mapping[str, float], names: Collection[str]) -> bytes:
    """The graph with the named layers in INT8 as ONNX Runtime's CPU provider likes it.

    MatMul and Gemm measure their activations as they come, and are fused into one kernel each. Convolutions have no
    fast kernel of that kind: they are static, and what they give is quantised too, or they would run in float.
    ranges: largest |x| to represent, for every tensor that a convolution reads or gives.
    """
    source = Graph(graph)
    layers = {layer.name: layer for layer in source.layers() if layer.name in names}
    pairs: dict[str, str] = {}
    measured: set[str] = set()
    nodes: list[Any] = []
    for node in source.nodes:
        if node.name not in layers:
            nodes.append(node)
        elif node.op_type == "Conv":
            layer = layers[node.name]
            _quantize_inputs(source, nodes, pairs, node, layer, ranges)
            node.output[0] = f"{layer.output}.float"
            nodes.append(node)
            _activation_pair(source, nodes, pairs, node.output[0], {node.output[0]: ranges[layer.output]})
            nodes[-1].output[0] = layer.output
        else:
            _measure_as_it_comes(source, nodes, measured, node, layers[node.name])
    source.rebuild(nodes)
    return source.bytes()


def _measure_as_it_comes(graph: Graph, nodes: list[Any], measured: set[str], node: Any, layer: Layer) -> None:
    """x·W + b as DynamicQuantizeLinear, MatMulInteger, and the scaling that ONNX Runtime fuses with them."""
    data, output, attributes = layer.data, layer.output, attributes_of(node)
    if data not in measured:
        measured.add(data)
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

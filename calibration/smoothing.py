"""Outlier channels moved from activations into weights, where per-channel INT8 can hold them (SmoothQuant's idea).

A LayerNorm channel that is fifty times as large as the others takes all the levels of an INT8 tensor. Dividing it in
the LayerNorm and multiplying the weights that read it changes nothing but where the size sits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .graphs import Array, Graph, Layer, attributes_of

STRENGTH = 0.5
"""Which share of the outliers' size, in logarithms, moves into the weights."""


@dataclass(frozen=True)
class SmoothGroup:
    """A LayerNorm and the layers that are all who read it. output: the LayerNorm's tensor."""

    output: str
    layers: tuple[Layer, ...]


def find_joints(graph: Graph) -> list[SmoothGroup]:
    """The LayerNorms over the last axis whose scale, bias and readers' weights are constant."""
    readers, layers = graph.readers(), {layer.name: layer for layer in graph.layers()}
    joints = []
    for node in graph.nodes:
        if (
            node.op_type == "LayerNormalization"
            and attributes_of(node).get("axis", -1) == -1
            and all(name in graph.constants for name in node.input[1:])
        ):
            ends = list(_ends(graph, node.output[0], readers))
            if ends and all(end in layers and layers[end].axis != layers[end].inner for end in ends):
                joints.append(SmoothGroup(node.output[0], tuple(layers[end] for end in ends)))
    return joints


def _ends(graph: Graph, tensor: str, readers: Mapping[str, list[Any]]) -> Iterator[str]:
    """Names of the nodes that read a tensor, seen through those that only choose rows or move them about."""
    for node in readers.get(tensor, []):
        if node.input[0] == tensor and _keeps_channels(graph, node):
            yield from _ends(graph, node.output[0], readers)
        else:
            yield node.name if node.input[0] == tensor else ""


def _keeps_channels(graph: Graph, node: Any) -> bool:
    """Whether a node leaves the last axis of a tensor of three or more as it is."""
    attributes = attributes_of(node)
    if node.op_type == "Transpose":
        perm = attributes.get("perm", [0])
        return len(perm) > 1 and perm[-1] == len(perm) - 1
    if node.op_type == "Gather":
        return attributes.get("axis", 0) in (0, 1)
    if node.op_type == "Slice" and len(node.input) > 3 and node.input[3] in graph.constants:
        return bool(np.isin(graph.constant(node.input[3]), (0, 1)).all())
    return False


def smooth(data: bytes, channels: Mapping[str, Array]) -> bytes:
    """The same function with its LayerNorms' outliers moved into the weights behind them.

    channels: per LayerNorm output, the largest |x| of each channel.
    """
    graph = Graph(data)
    nodes = {node.output[0]: node for node in graph.nodes}
    for joint in find_joints(graph):
        if joint.output not in channels:
            continue
        weights = [_by_channel(graph, layer) for layer in joint.layers]
        factors = _factors(channels[joint.output].astype(np.float64), np.max(weights, axis=0))
        norm = nodes[joint.output]
        for place in range(1, len(norm.input)):
            values = graph.constant(norm.input[place]) / factors
            norm.input[place] = graph.add_constant(f"{joint.output}.smooth.{place}", values.astype(np.float32))
        for layer in joint.layers:
            shape = [1, -1] if layer.inner == 1 else [-1, 1]
            values = graph.constant(layer.weight) * factors.reshape(shape)
            nodes[layer.output].input[1] = graph.add_constant(f"{layer.output}.weight", values.astype(np.float32))
    graph.rebuild(list(graph.nodes))
    return graph.bytes()


def _by_channel(graph: Graph, layer: Layer) -> Array:
    """The largest |w| that each channel of the layer's input meets."""
    found: Array = np.abs(graph.constant(layer.weight)).max(axis=layer.axis)
    return found


def _factors(activations: Array, weights: Array) -> Array:
    """What each channel is divided by: 1 for channels that are never used."""
    used = (activations > 0) & (weights > 0)
    factors = np.ones(len(activations))
    factors[used] = activations[used] ** STRENGTH / weights[used] ** (1 - STRENGTH)
    factors[used] /= np.exp(np.log(factors[used]).mean()) if used.any() else 1.0
    return factors

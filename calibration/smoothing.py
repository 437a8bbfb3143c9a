"""SmoothQuant (arXiv 2211.10438): move outlier channels from activations into weights, which INT8 scales per channel.

A LayerNorm channel fifty times as large as the others leaves them few INT8 levels. Dividing it in the LayerNorm, and
multiplying the weights that read it by the same factor, gives the same function without the outlier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .graphs import Array, Graph, Layer, attributes_of

STRENGTH = 0.5
"""SmoothQuant's α: the share of the outliers' log-magnitude that moves into the weights."""


@dataclass(frozen=True)
class SmoothGroup:
    """A LayerNorm and all layers that read it. output: the LayerNorm's output tensor."""

    output: str
    layers: tuple[Layer, ...]


def find_groups(graph: Graph) -> list[SmoothGroup]:
    """Return the LayerNorms over the last axis whose scale, bias and readers' weights are constant."""
    readers, layers = graph.readers(), {layer.name: layer for layer in graph.layers()}
    groups = []
    for node in graph.nodes:
        if (
            node.op_type == "LayerNormalization"
            and attributes_of(node).get("axis", -1) == -1
            and all(name in graph.constants for name in node.input[1:])
        ):
            names = list(_reading_nodes(graph, node.output[0], readers))
            if names and all(name in layers for name in names):
                groups.append(SmoothGroup(node.output[0], tuple(layers[name] for name in names)))
    return groups


def _reading_nodes(graph: Graph, tensor: str, readers: Mapping[str, list[Any]]) -> Iterator[str]:
    """Yield names of the nodes that read a tensor, directly or after nodes that only select or reorder its rows."""
    for node in readers.get(tensor, []):
        if node.input[0] == tensor and _keeps_channels(graph, node):
            yield from _reading_nodes(graph, node.output[0], readers)
        else:
            yield node.name if node.input[0] == tensor else ""


def _keeps_channels(graph: Graph, node: Any) -> bool:
    """Return whether a node leaves the last of a tensor's three or more axes unchanged."""
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
    """Move the outliers of LayerNorms into the weights that read them; the graph's function stays the same.

    channels: by LayerNorm output, the largest |x| of each channel.
    """
    graph = Graph(data)
    nodes = {node.output[0]: node for node in graph.nodes}
    for group in find_groups(graph):
        if group.output not in channels:
            continue
        weights = [_by_channel(graph, layer) for layer in group.layers]
        factors = _factors(channels[group.output].astype(np.float64), np.max(weights, axis=0))
        norm = nodes[group.output]
        for place in range(1, len(norm.input)):
            values = graph.constant(norm.input[place]) / factors
            norm.input[place] = graph.add_constant(f"{group.output}.smooth.{place}", values.astype(np.float32))
        for layer in group.layers:
            shape = [1, -1] if layer.axis == 0 else [-1, 1]
            values = graph.constant(layer.weight) * factors.reshape(shape)
            nodes[layer.output].input[1] = graph.add_constant(f"{layer.output}.weight", values.astype(np.float32))
    graph.rebuild(list(graph.nodes))
    return graph.bytes()


def _by_channel(graph: Graph, layer: Layer) -> Array:
    """Return the largest |w| of each channel of the layer's input."""
    found: Array = np.abs(graph.constant(layer.weight)).max(axis=layer.axis)
    return found


def _factors(activations: Array, weights: Array) -> Array:
    """Return the divisor of each channel, 1 for unused channels; those of used ones have the geometric mean 1."""
    used = (activations > 0) & (weights > 0)
    factors = np.ones(len(activations))
    factors[used] = activations[used] ** STRENGTH / weights[used] ** (1 - STRENGTH)
    factors[used] /= np.exp(np.log(factors[used]).mean()) if used.any() else 1.0
    return factors

"""Rewrite attention to the form that ONNX Runtime's CPU provider runs fastest: one operator after one product.

As a dozen operators, a layer copies queries, keys and values head by head, which with few tokens costs more than the
computation; and three products with one input synchronise their threads three times.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from onnx import helper

from .graphs import Graph, attributes_of

OPSET = 23
"""The first ONNX opset with `Attention`, supported by ONNX Runtime since 1.23."""

_ROWS, _COLUMNS = [0, 2, 1, 3], [0, 2, 3, 1]
"""Permutations of [N,L,heads,width]: to [N,heads,L,width] for queries and values, to [N,heads,width,L] for keys."""


def fuse_attention(data: bytes) -> bytes:
    """Replace softmax(Q·Kᵀ)·V, as `PlainAttention` exports it, by `Attention`.

    Attention with a mask or a factor, or not over all tokens of a sequence [N,L,D], is left unchanged.
    """
    graph = Graph(data)
    makers, shapes = {node.output[0]: node for node in graph.nodes}, graph.shapes()
    found = {node.output[0]: _attention(shapes, makers, node) for node in graph.nodes}
    if not any(found.values()):
        return data
    graph.rebuild([found[node.output[0]] or node for node in graph.nodes])
    graph.raise_opset(OPSET)
    return graph.bytes()


def merge_products(data: bytes, names: Collection[str]) -> tuple[bytes, set[str]]:
    """Merge products of one tensor with several constant matrices into one product that is split afterwards.

    names: layers that may be merged, if their output is used only by the Add of a constant bias.
    Returns the graph, and `names` with the merged layers replaced by the new ones.
    """
    graph = Graph(data)
    readers, makers = graph.readers(), {node.output[0]: node for node in graph.nodes}
    groups: dict[str, list[Any]] = {}
    for layer in graph.layers():
        biases = readers.get(layer.output, [])
        if layer.name in names and makers[layer.output].op_type == "MatMul" and len(biases) == 1:
            constant = [name for name in biases[0].input if name in graph.constants]
            columns = graph.constants[layer.weight].dims[1:]
            if biases[0].op_type == "Add" and constant and graph.constants[constant[0]].dims == columns:
                groups.setdefault(layer.data, []).append((makers[layer.output], biases[0], constant[0]))
    left, made = set(names), {}
    for group in (group for group in groups.values() if len(group) > 1):
        merged = _merged(graph, group)
        made[group[0][0].output[0]] = merged
        made.update({bias.output[0]: [] for _, bias, _ in group})
        left.difference_update(product.name for product, _, _ in group)
        left.add(merged[0].name)
    graph.rebuild([new for node in graph.nodes for new in made.get(node.output[0], [node])])
    return graph.bytes(), left


def _attention(shapes: Mapping[str, list[int]], makers: Mapping[str, Any], joined: Any) -> Any:
    """Return the `Attention` that can replace the nodes up to the Reshape `joined` from heads to [N,L,D], or None."""

    def made(node: Any, place: int, kind: str, **attributes: Any) -> Any:
        """Return the node that computes an input of `node`, if it has this operator and these attributes; else None."""
        maker = None if node is None else makers.get(node.input[place])
        fits = maker is not None and maker.op_type == kind and attributes.items() <= attributes_of(maker).items()
        return maker if fits else None

    if joined.op_type != "Reshape":
        return None
    seen = made(made(joined, 0, "Transpose", perm=_ROWS), 0, "MatMul")
    scores = made(made(seen, 0, "Softmax", axis=-1), 0, "MatMul")
    inputs = ((scores, 0, _ROWS), (scores, 1, _COLUMNS), (seen, 1, _ROWS))
    split = [made(made(product, place, "Transpose", perm=order), 0, "Reshape") for product, place, order in inputs]
    if not all(split):
        return None
    queries, keys, values = (node.input[0] for node in split)
    (_, rows, heads, part), (_, columns, *_) = (shapes.get(node.output[0], [0] * 4) for node in split[:2])
    sequences = ((queries, rows), (keys, columns), (values, columns), (joined.output[0], rows))
    known = rows and columns and heads * part
    if not known or any(shapes.get(name, [])[1:] != [tokens, heads * part] for name, tokens in sequences):
        return None
    return helper.make_node(
        "Attention",
        [queries, keys, values],
        [joined.output[0]],
        name=f"{joined.output[0]}/Attention",
        q_num_heads=heads,
        kv_num_heads=heads,
        scale=1.0,  # `PlainAttention` has folded it into the query weights
    )


def _merged(graph: Graph, group: list[Any]) -> list[Any]:
    """Return MatMul, Add and Split that are equivalent to a group of products with their biases."""
    product, bias, _ = group[0]
    name = f"{bias.output[0]}.merged"
    matrices = [graph.constant(one.input[1]) for one, _, _ in group]
    weight = graph.add_constant(f"{name}.weight", np.concatenate(matrices, axis=1))
    offset = graph.add_constant(f"{name}.bias", np.concatenate([graph.constant(constant) for _, _, constant in group]))
    sizes = graph.add_constant(f"{name}.sizes", np.array([matrix.shape[1] for matrix in matrices], np.int64))
    outputs = [bias.output[0] for _, bias, _ in group]
    return [
        helper.make_node("MatMul", [product.input[0], weight], [f"{name}.product"], name=f"{name}/MatMul"),
        helper.make_node("Add", [f"{name}.product", offset], [name], name=f"{name}/Add"),
        helper.make_node("Split", [name, sizes], outputs, name=f"{name}/Split", axis=-1),
    ]

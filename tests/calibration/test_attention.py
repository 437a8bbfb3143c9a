"""Attention as one operator, and one product before it: the same numbers from fewer nodes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from networks import random_crops
from onnx import helper

from dfer.calibration.attention import OPSET, fuse_attention, merge_products
from dfer.calibration.graphs import Graph
from dfer.export.graphs import TracedMethod
from dfer.runtime.bundle import DEMO
from dfer.runtime.engines import open_engine

CROPS = random_crops(3)
BLOCKS = 2
"""Of the small ViT; in the last one the class token is the only query."""


@pytest.fixture(scope="module")
def encoder(traced: TracedMethod) -> bytes:
    return traced.encoder.onnx


def run(graph: bytes) -> np.ndarray:
    with open_engine(graph, "cpu") as engine:
        (values,) = engine.run({"frames": CROPS}).values()
    return values


def kinds(graph: bytes) -> Counter[str]:
    return Counter(node.op_type for node in Graph(graph).nodes)


def names_of(graph: bytes) -> set[str]:
    return {layer.name for layer in Graph(graph).layers()}


def test_every_attention_becomes_one_operator_that_computes_the_same(encoder: bytes) -> None:
    fused = fuse_attention(encoder)
    assert kinds(encoder)["Softmax"] == kinds(fused)["Attention"] == BLOCKS
    assert not kinds(fused)["Softmax"]
    assert kinds(fused)["Transpose"] == kinds(encoder)["Transpose"] - 4 * BLOCKS
    np.testing.assert_allclose(run(fused), run(encoder), atol=1e-5)
    model = onnx.load_model_from_string(fused)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]


def test_products_of_one_tensor_become_one(encoder: bytes) -> None:
    names = names_of(encoder)
    merged, left = merge_products(encoder, names)
    assert left == names_of(merged)
    assert len(left) == len(names) - 2 * (BLOCKS - 1) - 1  # of the last block's keys and values alone
    np.testing.assert_allclose(run(merged), run(encoder), atol=1e-5)


def test_a_layer_that_stays_float_is_merged_with_none(encoder: bytes) -> None:
    (float_one,) = (name for name in names_of(encoder) if ".0." in name and "keys" in name)
    names = names_of(encoder) - {float_one}
    merged, left = merge_products(encoder, names)
    assert float_one in names_of(merged)
    assert left == names_of(merged) - {float_one}
    assert len(left) == len(names) - 2  # queries and values of one block, keys and values of the other
    np.testing.assert_allclose(run(merged), run(encoder), atol=1e-5)


def test_a_network_without_attention_stays_as_it_is() -> None:
    graph = (DEMO / "encoder.fp32.onnx").read_bytes()
    assert fuse_attention(graph) == graph


def test_attention_with_a_factor_is_left(encoder: bytes) -> None:
    graph = Graph(encoder)
    softmax = next(node for node in graph.nodes if node.op_type == "Softmax")
    factor = graph.add_constant("factor", np.array(0.5, np.float32))
    scores = softmax.input[0]
    softmax.input[0] = "scaled"
    nodes = list(graph.nodes)
    nodes.insert(nodes.index(softmax), helper.make_node("Mul", [scores, factor], ["scaled"]))
    graph.rebuild(nodes)
    fused = fuse_attention(graph.bytes())
    assert kinds(fused)["Attention"] == BLOCKS - 1
    np.testing.assert_allclose(run(fused), run(graph.bytes()), atol=1e-5)


def test_tensors_that_others_read_too_are_kept(encoder: bytes) -> None:
    """The result has the scores of the first layer added."""
    graph = Graph(encoder)
    softmax = next(node for node in graph.nodes if node.op_type == "Softmax")
    last = next(node for node in graph.nodes if graph.output in node.output)
    last.output[0] = "features.alone"
    axes = graph.add_constant("axes", np.array([1, 2, 3], np.int64))
    kept = graph.add_constant("kept", np.array([0, -1], np.int64))
    graph.rebuild(
        [
            *graph.nodes,
            helper.make_node("ReduceMax", [softmax.input[0], axes], ["largest"]),
            helper.make_node("Reshape", ["largest", kept], ["largest.flat"]),
            helper.make_node("Add", ["features.alone", "largest.flat"], [graph.output]),
        ]
    )
    fused = fuse_attention(graph.bytes())
    assert kinds(fused)["Attention"] == BLOCKS
    np.testing.assert_allclose(run(fused), run(graph.bytes()), atol=1e-5)
    assert np.abs(run(fused) - run(encoder)).max() > 0.1

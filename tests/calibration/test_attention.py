"""Attention as one operator, and one product before it: the same numbers from fewer nodes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from networks import random_crops
from onnx import TensorProto, helper, numpy_helper

from dfer.calibration.attention import OPSET, fuse_attention, merge_products
from dfer.calibration.graphs import Graph
from dfer.calibration.int8 import _for_cpu
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


def attention(split: list[int], joined: list[int], **sizes: int) -> bytes:
    """Of sequences [N,8,16] one attention, whose queries, keys and values are reshaped to `split`, the result to
    `joined`. sizes: of biases that are not 16."""
    rng = np.random.default_rng(0)
    orders = {"queries": [0, 2, 1, 3], "keys": [0, 2, 3, 1], "values": [0, 2, 1, 3]}
    constants = {"split": np.array(split, np.int64), "joined": np.array(joined, np.int64)}
    nodes = []
    for name, order in orders.items():
        constants[f"{name}.weight"] = rng.normal(0, 0.3, (16, 16)).astype(np.float32)
        constants[f"{name}.bias"] = rng.normal(0, 0.3, sizes.get(name, 16)).astype(np.float32)
        nodes += [
            helper.make_node("MatMul", ["frames", f"{name}.weight"], [f"{name}.product"], name=name),
            helper.make_node("Add", [f"{name}.product", f"{name}.bias"], [name]),
            helper.make_node("Reshape", [name, "split"], [f"{name}.split"]),
            helper.make_node("Transpose", [f"{name}.split"], [f"{name}.moved"], perm=order),
        ]
    nodes += [
        helper.make_node("MatMul", ["queries.moved", "keys.moved"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "values.moved"], ["seen"]),
        helper.make_node("Transpose", ["seen"], ["back"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["back", "joined"], ["features"]),
    ]
    ends = [
        helper.make_tensor_value_info("frames", TensorProto.FLOAT, ["n", 8, 16]),
        helper.make_tensor_value_info("features", TensorProto.FLOAT, None),
    ]
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "attention", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


@pytest.mark.parametrize(
    ("split", "joined", "fused"),
    [
        ([-1, 8, 2, 8], [-1, 8, 16], 1),
        ([-1, 4, 2, 8], [-1, 4, 16], 0),  # windows of four tokens
        ([-1, 8, 2, 8], [-1, 4, 32], 0),
        ([-1, 8, 2, 8], [-1, 16], 0),
    ],
)
def test_only_attention_of_whole_sequences_is_one_operator(split: list[int], joined: list[int], fused: int) -> None:
    graph = attention(split, joined)
    found = fuse_attention(graph)
    assert kinds(found)["Attention"] == fused
    frames = {"frames": np.random.default_rng(1).normal(size=(3, 8, 16)).astype(np.float32)}
    with open_engine(graph, "cpu") as engine, open_engine(found, "cpu") as other:
        np.testing.assert_allclose(other.run(frames)["features"], engine.run(frames)["features"], atol=1e-5)


def test_a_bias_that_is_one_number_is_merged_with_none() -> None:
    graph = attention([-1, 8, 2, 8], [-1, 8, 16], keys=1)
    merged, left = merge_products(graph, {"queries", "keys", "values"})
    assert len(left) == 2 and "keys" in left
    frames = {"frames": np.random.default_rng(1).normal(size=(3, 8, 16)).astype(np.float32)}
    with open_engine(graph, "cpu") as engine, open_engine(merged, "cpu") as other:
        np.testing.assert_allclose(other.run(frames)["features"], engine.run(frames)["features"], atol=1e-5)


def test_beside_a_convolution_in_int8_attention_stays_as_it_is() -> None:
    """ONNX Runtime 1.23 has no QuantizeLinear of the opset that has `Attention`."""
    graph = Graph(attention([-1, 8, 2, 8], [-1, 8, 16]))
    for name, values in {"plane": [-1, 1, 8, 16], "sequence": [-1, 8, 16]}.items():
        graph.add_constant(name, np.array(values, np.int64))
    graph.add_constant("kernel", np.full((1, 1, 1, 1), 2.0, np.float32))
    nodes = [
        helper.make_node("Reshape", ["frames", "plane"], ["image"]),
        helper.make_node("Conv", ["image", "kernel"], ["doubled"], name="convolution"),
        helper.make_node("Reshape", ["doubled", "sequence"], ["tokens"]),
        *graph.nodes,
    ]
    for node in nodes[3:]:
        node.input[:] = ["tokens" if name == "frames" else name for name in node.input]
    graph.rebuild(nodes)
    layers, ranges = {"queries", "keys", "values"}, dict.fromkeys(("image", "doubled"), 8.0)
    assert kinds(_for_cpu(graph.bytes(), ranges, layers, False))["Attention"] == 1
    whole = _for_cpu(graph.bytes(), ranges, layers | {"convolution"}, True)
    assert kinds(whole)["Attention"] == 0
    frames = {"frames": np.random.default_rng(1).normal(size=(3, 8, 16)).astype(np.float32)}
    with open_engine(graph.bytes(), "cpu") as engine, open_engine(whole, "cpu") as other:
        wanted, found = (one.run(frames)["features"].ravel() for one in (engine, other))
    assert found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.99

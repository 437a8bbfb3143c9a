"""Graphs of a bundle, before anything loads them: plain ones pass, all others are refused with a reason."""

from __future__ import annotations

import random
import tracemalloc
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from dfer.runtime.bundle import DEMO, Bundle
from dfer.runtime.bundle.graph_file import FLOAT, MOST_FIELDS, UINT8, TensorType, check_graph
from dfer.runtime.errors import DferError
from dfer.runtime.recognizer import Recognizer
from helpers import edit_manifest, graph_bytes, reseal
from mutants import mutate

FRAMES = TensorType("frames", UINT8, (16, 16, 3))
FEATURES = TensorType(None, FLOAT, (8,))
ZEROS = numpy_helper.from_array(np.zeros((1, 8), np.float32), "zeros")
IDENTITY = helper.make_node("Identity", ["zeros"], ["result"])
BRANCH = helper.make_graph([IDENTITY], "inner", [], [helper.make_tensor_value_info("result", 1, ["n", 8])])
SEQUENCE = helper.make_tensor_sequence_value_info("result", 1, ["n", 8])


def check(graph: bytes) -> None:
    check_graph(BytesIO(graph), FRAMES, FEATURES)


def test_plain_graphs_pass() -> None:
    check(graph_bytes())
    Bundle.open(DEMO).verify()
    # Shapes may be left open at the end, and numbers may be spelled out.
    spelled = helper.make_tensor("zeros", TensorProto.FLOAT, [1, 8], [0.0] * 8)
    check(graph_bytes(outputs=[helper.make_tensor_value_info("result", 1, ["n", "m"])], initializer=[spelled]))


def external(key: str = "location") -> TensorProto:
    tensor = TensorProto(name="zeros", data_type=1, dims=[1, 8], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key=key, value="secret.bin")
    return tensor


def tensor_of(dims: list[int], kind: int = 1, raw: bytes = b"") -> TensorProto:
    return TensorProto(name="zeros", data_type=kind, dims=dims, raw_data=raw)


def node(operator: str, domain: str = "", **attributes: object) -> dict[str, object]:
    return {"nodes": [helper.make_node(operator, ["zeros"], ["result"], domain=domain, **attributes)]}


HOSTILE: dict[str, tuple[dict[str, object], str]] = {
    "numbers in another file": ({"initializer": [external()]}, "in another file"),
    "a constant's numbers in another file": (node("Constant", value=external()), "in another file"),
    "a loop": (node("Loop", body=BRANCH), "loops|graph"),
    "a scan": (node("Scan", body=BRANCH, num_scan_inputs=1), "loops|graph"),
    "a branch": (node("If", then_branch=BRANCH, else_branch=BRANCH), "graph"),
    "a branch by name alone": (node("If"), "operator If"),
    "a sequence operator": (node("SequenceConstruct"), "sequences"),
    "a custom operator": (node("FusedMatMul", "com.microsoft"), r"FusedMatMul.*com\.microsoft"),
    "a program in an operator": (node("EPContext", "com.microsoft", ep_cache_context="lib.so"), r"com\.microsoft"),
    "a terminal escape in a domain": (node("X", "\x1b[2J"), r"\\x1b"),
    "a type in an operator": (node("Optional", type=SEQUENCE.type), "a type"),
    "a sequence as output": ({"outputs": [SEQUENCE]}, "sequence"),
    "a second output": (
        {"outputs": [helper.make_tensor_value_info(name, 1, ["n", 8]) for name in ("result", "zeros")]},
        "2 outputs",
    ),
    "no output": ({"outputs": []}, "0 outputs"),
    "a second input": (
        {"inputs": [helper.make_tensor_value_info(name, 2, ["n", 16, 16, 3]) for name in ("frames", "more")]},
        "2 inputs",
    ),
    "an input of another name": ({"source": "images"}, 'not called "frames"'),
    "an input of another type": ({"kind": 1}, "not of type uint8"),
    "an input of another size": ({"shape": ("n", 17, 16, 3)}, "17×16×3 per row.* says 16×16×3"),
    "an input of open size": ({"shape": ("n", "h", "w", 3)}, "\\?×\\?×3 per row"),
    "an input without a shape": ({"inputs": [helper.make_tensor_value_info("frames", 2, None)]}, "per row"),
    "an input of many axes": ({"shape": ("n", *[1] * 40)}, "more than 8 axes"),
    "an absurd input": ({"shape": ("n", 10**9, 10**9, 3)}, "per row"),
    "a fixed batch": ({"shape": (1, 16, 16, 3)}, "fixed batch of 1"),
    "a fixed batch at the end": ({"outputs": [helper.make_tensor_value_info("result", 1, [1, 8])]}, "fixed batch"),
    "an output of another width": ({"result": 9}, "9 per row"),
    "a tensor larger than its numbers": ({"initializer": [tensor_of([1 << 40])]}, "does not hold them"),
    "a tensor with fewer numbers": ({"initializer": [tensor_of([1, 8], raw=b"1234")]}, "does not hold them"),
    "a tensor of negative size": ({"initializer": [tensor_of([-1, -8])]}, "negative"),
    "a tensor of many axes": ({"initializer": [tensor_of([1] * 9, raw=b"1234")]}, "more than 8 axes"),
    "a tensor of text": ({"initializer": [helper.make_tensor("zeros", 8, [1], [b"x"])]}, "else than numbers"),
    "a sparse tensor": (
        {"sparse_initializer": [helper.make_sparse_tensor(ZEROS, tensor_of([1], 7, bytes(8)), [1, 8])]},
        "sparse",
    ),
    "functions": (
        {
            "model_functions": [
                helper.make_function("mine", "F", ["zeros"], ["result"], [IDENTITY], [helper.make_opsetid("", 20)])
            ]
        },
        "functions",
    ),
    "nothing": ({"nodes": []}, "empty"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_more_than_a_plain_graph_is_refused_with_the_reason(what: str) -> None:
    fields, reason = HOSTILE[what]
    with pytest.raises(DferError, match=reason) as caught:
        check(graph_bytes(**fields))  # type: ignore[arg-type]
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"no ONNX file", b"\xff" * 50, b"\x3a\xff\xff\xff\xff\x7f", b"\x0b\x0c"]
)
def test_what_is_no_graph_is_refused(data: bytes) -> None:
    with pytest.raises(DferError):
        check(data)
    with pytest.raises(DferError):
        check(graph_bytes()[:-1])
    with pytest.raises(DferError, match="several graphs"):
        check(graph_bytes() * 2)


def test_a_file_of_nothing_but_parts_ends() -> None:
    with pytest.raises(DferError, match="parts"):
        check(b"\x08\x01" * (MOST_FIELDS + 1))


def test_memory_does_not_grow_with_a_graph(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.zeros((4_000_000,), np.float32), "weights")
    file = tmp_path / "large.onnx"
    file.write_bytes(graph_bytes(initializer=[ZEROS, weights]))
    tracemalloc.start()
    with file.open("rb") as graph:
        check_graph(graph, FRAMES, FEATURES)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 500_000


def accepted(graph: bytes) -> bool:
    """Whether it passes; if so, what Protocol Buffers' own reader sees in it must be a plain graph."""
    try:
        check(graph)
    except DferError as error:
        assert str(error).isprintable()
        return False
    try:
        model = onnx.load_model_from_string(graph)
    except DecodeError:  # a name that is not UTF-8, for one; ONNX Runtime refuses it, too
        return True
    assert not model.functions and not model.training_info and not model.graph.sparse_initializer
    assert [(entry.name, entry.type.tensor_type.elem_type) for entry in model.graph.input] == [("frames", 2)]
    (result,) = model.graph.output
    assert result.type.WhichOneof("value") == "tensor_type" and result.type.tensor_type.elem_type == 1
    tensors = list(model.graph.initializer)
    for one in model.graph.node:
        assert one.domain in ("", "ai.onnx") and one.op_type not in ("Loop", "Scan", "If")
        for attribute in one.attribute:
            assert not attribute.HasField("g") and not attribute.graphs and not attribute.HasField("tp")
            tensors += [attribute.t, *attribute.tensors] if attribute.type == AttributeProto.TENSOR else []
    assert not any(tensor.external_data or tensor.data_location for tensor in tensors)
    return True


GRAPH = graph_bytes(nodes=[helper.make_node("Constant", [], ["one"], value=ZEROS), IDENTITY])


@pytest.mark.parametrize("count", [1_000, pytest.param(30_000, marks=pytest.mark.long)])
def test_mutants_are_refused_or_plain(count: int) -> None:
    results = [accepted(mutate(GRAPH, random.Random(number))) for number in range(count)]
    assert 0.05 < sum(results) / count < 0.95  # names may change; the test sees both


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_plain(data: bytes) -> None:
    accepted(data)


@pytest.mark.parametrize("graph", ["encoder.fp32.onnx", "head.fp32.onnx"])
def test_a_whole_bundle_with_a_hostile_graph_is_refused_by_file_and_reason(
    bundle: Path, graph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parent)
    (bundle.parent / "secret.bin").write_bytes(bytes(32))
    reseal(bundle, graph, graph_bytes(initializer=[external()]))
    with pytest.raises(DferError, match=rf"{graph} is not a graph that is run: .* in another file") as caught:
        Recognizer(bundle, provider="cpu", precision="fp32")
    assert "\n" not in str(caught.value)


def test_a_manifest_and_graphs_that_disagree_are_refused(bundle: Path) -> None:
    edit_manifest(bundle, window=17)
    with pytest.raises(DferError, match=r"head.fp32.onnx .* input is 16×128 per row, and the manifest says 17×128"):
        Bundle.open(bundle).read("head.fp32.onnx")

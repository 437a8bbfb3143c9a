"""Read, edit and run ONNX graphs: their layers, their constants, and the values of their tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..runtime.engines import open_engine
from ..runtime.errors import DferError, first_line

Array = NDArray[Any]

BATCH = 8
"""Frames per run when measuring: enough to keep the cores busy, few enough for a large encoder's memory use."""


@dataclass(frozen=True)
class Layer:
    """A MatMul, Gemm or Conv with constant weights, which INT8 can replace.

    name: the node's. data: its input tensor. weight: its initializer. output: its output tensor.
    axis: the weight's axis of output channels.
    """

    name: str
    data: str
    weight: str
    output: str
    axis: int


class Graph:
    """An ONNX model with access to its nodes and constants. Edits change `model`.

    Raises DferError if the bytes are not an ONNX model.
    """

    def __init__(self, data: bytes) -> None:
        try:
            self.model = onnx.load_model_from_string(data)
        except Exception as error:  # protobuf's exceptions depend on its build
            raise DferError(f"not an ONNX graph: {error}") from error
        self.nodes = self.model.graph.node
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.input: str = self.model.graph.input[0].name
        self.output: str = self.model.graph.output[0].name

    def bytes(self) -> bytes:
        data: bytes = self.model.SerializeToString()
        return data

    def constant(self, name: str) -> Array:
        """Return the values of an initializer."""
        values: Array = numpy_helper.to_array(self.constants[name])
        return values

    def add_constant(self, name: str, values: Array) -> str:
        """Add an initializer, or replace the one of that name."""
        tensor = numpy_helper.from_array(np.asarray(values), name)
        if name in self.constants:
            self.constants[name].CopyFrom(tensor)
        else:
            self.model.graph.initializer.append(tensor)
            self.constants[name] = self.model.graph.initializer[-1]
        return name

    def rebuild(self, nodes: Iterable[Any]) -> None:
        """Replace the graph's nodes by `nodes`, in order, without unused nodes and initializers."""
        graph = self.model.graph
        used, read = {self.output}, []
        for node in reversed(list(nodes)):
            if used.intersection(node.output):
                used.update(node.input)
                read.append(node)
        kept = onnx.GraphProto()
        kept.node.extend(reversed(read))
        del graph.node[:], graph.value_info[:]  # tensor types may have changed, so they are dropped
        graph.node.extend(kept.node)
        for place in reversed(range(len(graph.initializer))):  # in place: weights can be gigabytes
            if graph.initializer[place].name not in used:
                del graph.initializer[place]
        self.nodes = self.model.graph.node
        self.constants = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def raise_opset(self, version: int) -> None:
        """Raise the graph's ONNX opset to this version, if it is older."""
        (opset,) = self.model.opset_import
        opset.version = max(opset.version, version)
        self.model.ir_version = max(self.model.ir_version, helper.find_min_ir_version_for([opset]))

    def readers(self) -> dict[str, list[Any]]:
        """Return the nodes that read each tensor."""
        found: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    def layers(self) -> list[Layer]:
        """Return the MatMul, Gemm and Conv nodes whose weights are constant matrices or kernels, in graph order."""
        found = []
        for node in self.nodes:
            if node.op_type not in ("MatMul", "Gemm", "Conv") or node.input[1] not in self.constants:
                continue
            dims, attributes = self.constants[node.input[1]].dims, attributes_of(node)
            if node.input[0] in self.constants or attributes.get("transA", 0) or len(dims) < 2:
                continue
            if node.op_type == "MatMul" and len(dims) != 2:
                continue
            transposed = node.op_type == "Conv" or bool(attributes.get("transB", 0))
            found.append(Layer(node.name, node.input[0], node.input[1], node.output[0], 0 if transposed else 1))
        return found

    def float_tensors(self) -> list[str]:
        """Return the float32 outputs of nodes, in order. Raises DferError if types cannot be inferred."""
        try:
            inferred = onnx.shape_inference.infer_shapes(self._without_weights(), strict_mode=True)
        except Exception as error:  # the type depends on the version of onnx
            raise DferError(f"the graph's types cannot be inferred: {first_line(error)}") from error
        infos = [*inferred.graph.value_info, *inferred.graph.output]
        types = {info.name: info.type.tensor_type.elem_type for info in infos}
        return [name for node in self.nodes for name in node.output if types.get(name) == TensorProto.FLOAT]

    def shapes(self) -> dict[str, list[int]]:
        """Return the shapes of node outputs, 0 for a dynamic axis; tensors of unknown rank are absent."""
        inferred = onnx.shape_inference.infer_shapes(self._without_weights()).graph
        types = {info.name: info.type.tensor_type for info in [*inferred.value_info, *inferred.output]}
        return {
            name: [axis.dim_value for axis in one.shape.dim] for name, one in types.items() if one.HasField("shape")
        }

    def _without_weights(self) -> Any:
        """Return the model with its large initializers as inputs: enough for shape inference, without their size."""
        graph = self.model.graph
        small = [tensor for tensor in graph.initializer if np.prod(tensor.dims) <= 64]
        large = [tensor for tensor in graph.initializer if np.prod(tensor.dims) > 64]
        inputs = [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in large]
        light = helper.make_graph(self.nodes, graph.name, [*graph.input, *inputs], graph.output, small)
        return helper.make_model(light, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)


def attributes_of(node: Any) -> dict[str, Any]:
    """Return a node's attributes as plain values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def observe(
    graph: bytes, frames: Array, tensors: Iterable[str], progress: Callable[[int], object] = lambda _: None
) -> Iterator[dict[str, Array]]:
    """Run frames through the graph on the CPU, and yield the values of the named float tensors batch by batch.

    progress: called with the number of frames of each batch. Raises DferError if the graph does not run.
    """
    yield from _observe(Graph(graph), frames, tensors, progress)


def _observe(
    graph: Graph,
    frames: Array,
    tensors: Iterable[str],
    progress: Callable[[int], object] = lambda _: None,
    batch: int = BATCH,
) -> Iterator[dict[str, Array]]:
    """Like `observe`, for a graph that the caller does not keep: its weights, gigabytes at times, are freed early."""
    extra = [name for name in dict.fromkeys(tensors) if name != graph.output]
    graph.model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in extra)
    entry, data = graph.input, graph.bytes()
    del graph
    with open_engine(data, "cpu") as engine:
        del data
        for part in batches(frames, batch):
            yield engine.run({entry: part})
            progress(len(part))


def batches(frames: Array, size: int = BATCH) -> Iterator[Array]:
    """Yield `frames` in batches of `size`; the last may be shorter."""
    for start in range(0, len(frames), size):
        yield frames[start : start + size]


def largest(graph: bytes, frames: Array) -> dict[str, float]:
    """Return the largest absolute value of each float tensor of the graph over the frames.

    The maxima are computed in the graph, two frames at a time: ONNX Runtime keeps many tensors until a run ends.
    """
    names = Graph(graph).float_tensors()
    found = dict.fromkeys(names, 0.0)
    for values in _observe(_with_maxima(graph, names), frames, [f"{name}.largest" for name in names], batch=2):
        for name in names:
            found[name] = max(found[name], float(values[f"{name}.largest"]))
    return found


def _with_maxima(graph: bytes, names: Iterable[str]) -> Graph:
    """Return the graph with an additional tensor for each of `names`: ".largest", its largest absolute value."""
    extended = Graph(graph)
    for name in names:
        extended.nodes.append(helper.make_node("Abs", [name], [f"{name}.abs"]))
        extended.nodes.append(helper.make_node("ReduceMax", [f"{name}.abs"], [f"{name}.largest"], keepdims=0))
    return extended

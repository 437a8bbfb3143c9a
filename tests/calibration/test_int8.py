"""INT8: ranges, smoothing, and as many quantised layers as accuracy lets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import SIZE, random_crops, small_vit
from onnx import TensorProto, helper, numpy_helper

from dfer.calibration.faces import FaceClips
from dfer.calibration.graphs import Graph, largest, observe
from dfer.calibration.int8 import Int8, quantizations, quantize_head
from dfer.calibration.quantization import quantize_dynamic, quantize_static, quantize_weight
from dfer.calibration.ranges import Histogram, measure_channels, measure_ranges
from dfer.calibration.sensitivity import SensitivityModel, plot_sensitivity
from dfer.calibration.smoothing import find_groups, smooth
from dfer.export.graphs import TracedMethod
from dfer.runtime.bundle import DEMO
from dfer.runtime.engines import open_engine

CROPS = random_crops(48)
FACES = FaceClips(CROPS, (1,) * len(CROPS), (None,) * len(CROPS))


@pytest.fixture(scope="module")
def graphs(traced: TracedMethod) -> tuple[bytes, bytes]:
    """Encoder and head of the small ViT with outlier channels."""
    return traced.encoder.onnx, traced.head


@pytest.fixture(scope="module")
def made(graphs: tuple[bytes, bytes]) -> Int8:
    return next(quantizations(*graphs, 16, FACES, 0.995))


def features(graph: bytes, frames: np.ndarray) -> np.ndarray:
    source = Graph(graph)
    return np.concatenate([values[source.output] for values in observe(graph, frames, [source.output])])


def cosine(graph: bytes, other: bytes) -> float:
    """The lowest of unit features on crops that nothing was measured on."""
    unseen = random_crops(24, seed=1)
    return float((features(graph, unseen) * features(other, unseen)).sum(axis=1).min())


def test_outliers_break_naive_int8_and_not_ours(graphs: tuple[bytes, bytes], made: Int8) -> None:
    encoder, _ = graphs
    naive = quantize_static(encoder, largest(encoder, CROPS), [layer.name for layer in Graph(encoder).layers()])
    assert cosine(encoder, naive) < 0.97
    assert made.floating == ()  # and that without leaving a layer float
    assert cosine(encoder, made.graphs["default"]) >= 0.995
    assert cosine(encoder, made.graphs["cpu"]) >= 0.995


def test_outliers_change_no_feature(graphs: tuple[bytes, bytes]) -> None:
    with torch.inference_mode():
        without = small_vit().encode_frames(torch.from_numpy(CROPS)).numpy()
    assert (features(graphs[0], CROPS) * without).sum(axis=1).min() > 0.9999


def test_smoothing_changes_no_feature_and_evens_the_channels(graphs: tuple[bytes, bytes]) -> None:
    encoder, _ = graphs
    norms = [group.output for group in find_groups(Graph(encoder))]
    assert len(norms) == 5  # two per block, and the one before the projection
    before = measure_channels(encoder, CROPS, norms)
    smoothed = smooth(encoder, before)
    assert cosine(encoder, smoothed) > 0.9999
    after = measure_channels(smoothed, CROPS, norms[:1])[norms[0]]
    outlying = before[norms[0]]
    assert after.max() / np.median(after) < 0.3 * outlying.max() / np.median(outlying)


def test_the_static_graph_is_plain_onnx_that_tensorrt_takes(made: Int8) -> None:
    model = onnx.load_model_from_string(made.graphs["default"])
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zero = constants[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()  # symmetric
    assert sum(constants[node.input[1]].ndim == 1 for node in pairs) == made.total  # weights per channel
    assert not any(value.dtype == np.int32 for value in constants.values())  # no integer bias
    read = {
        name for node in model.graph.node if node.op_type in ("LayerNormalization", "Softmax") for name in node.input
    }
    assert not any(name.endswith(".dequantized") for name in read)


def fused(graph: bytes, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime makes of a graph for the CPU."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "fused.onnx")
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "fused.onnx").graph.node)


def test_onnx_runtime_fuses_every_quantised_product_of_its_graph(made: Int8, tmp_path: Path) -> None:
    found = fused(made.graphs["cpu"], tmp_path)
    one_input = 2 + 1  # queries and keys of the first block and keys of the last, with the values in one product
    assert found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"] == made.total - one_input
    assert found["Attention"] == 2
    assert not found["MatMulInteger"] + found["MatMul"] + found["Softmax"]


def test_onnx_runtime_fuses_every_quantised_convolution_of_its_graph(tmp_path: Path) -> None:
    encoder, crops = (DEMO / "encoder.fp32.onnx").read_bytes(), random_crops(4, size=80)
    layers = [layer.name for layer in Graph(encoder).layers()]
    found = fused(quantize_dynamic(encoder, largest(encoder, crops), layers), tmp_path)
    convolutions = [node for node in Graph(encoder).nodes if node.op_type == "Conv"]
    assert found["QLinearConv"] == len(convolutions) > 0 == found["Conv"]


def test_values_are_quantised_before_they_are_moved(made: Int8) -> None:
    graph = Graph(made.graphs["default"])
    given = {name: node.op_type for node in graph.nodes for name in node.output}
    sources = Counter(given[node.input[0]] for node in graph.nodes if node.op_type == "QuantizeLinear")
    assert not sources.keys() & {"Reshape", "Transpose"}
    assert sources["Sub"] == 1  # pixels, before they are sorted into patches


def test_layers_are_left_float_until_accuracy_is_reached(graphs: tuple[bytes, bytes]) -> None:
    tried = list(quantizations(*graphs, 16, FACES, 0.99995))
    counts = [len(one.floating) for one in tried]
    assert counts == sorted(counts)
    assert all(one.floating == tuple(layer.layer for layer in one.ranking[: len(one.floating)]) for one in tried)
    easy = next(quantizations(*graphs, 16, FACES, 0.5))
    assert easy.floating == ()
    assert list(quantizations(*graphs, 16, FACES, 1.1)) == []


def test_the_ranking_is_from_the_most_sensitive_layer_and_can_be_drawn(made: Int8, tmp_path: Path) -> None:
    cosines = [layer.cosine for layer in made.ranking]
    assert len(cosines) == made.total == 14
    assert cosines == sorted(cosines)
    plot_sensitivity(list(made.ranking), {made.ranking[0].layer}, tmp_path / "plot.png")
    assert [file.name for file in tmp_path.iterdir()] == ["plot.png"]


def test_sensitivity_is_measured_on_all_videos(graphs: tuple[bytes, bytes]) -> None:
    """The first frames are of an even grey, for which the smallest range of the pixels is enough."""
    frames = np.concatenate([np.full((8, SIZE, SIZE, 3), 128, np.uint8), random_crops(8)])
    with SensitivityModel(*graphs, 16, frames) as model:
        (patches,) = [layer for layer in model.layers if "conv1" in layer.name]
        ranges = {patches.data: 1.0}
        assert model.sensitivity(ranges, [patches.name]).cosine < 0.9
        assert model.rank(ranges, [patches.name])[0].cosine < 0.9


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_weight_is_told_to_half_a_step_of_its_channel(axis: int) -> None:
    channels = np.random.default_rng(0).normal(0, 1, (5, 6, 7)).astype(np.float32)
    channels[1, 2, 3] = 100
    channels[3] = 0  # nothing uses it
    values, scales = quantize_weight(np.moveaxis(channels, 0, axis), axis)
    steps = scales[:, None, None]
    assert (np.abs(np.moveaxis(values, axis, 0) * steps - channels) <= 0.5001 * steps).all()
    assert scales.min() > 0 and scales.max() > 10 * np.median(scales)


def test_ranges_ignore_a_stray_value_more_the_less_of_it_there_is() -> None:
    histogram = Histogram()
    rng = np.random.default_rng(0)
    histogram.add(rng.normal(size=60_000).astype(np.float32))
    histogram.add(np.array([100.0], np.float32))
    assert histogram.range("max") == 100.0
    assert 3 < histogram.range("percentile") < 6
    assert 2 < histogram.range("entropy") < 10


@pytest.mark.parametrize("tokens", [16, 17, 33, 50])
def test_every_channel_is_sampled(tokens: int) -> None:
    """With a stride of 2 or 3, half or two thirds of 768 channels would never be seen."""
    activations = np.random.default_rng(tokens).normal(size=(8, tokens, 768)).astype(np.float32)
    for channel in range(6):
        histogram = Histogram()
        outlying = activations.copy()
        outlying[..., channel] *= 50
        histogram.add(outlying)
        assert histogram.range("percentile") > 60


def test_what_is_always_zero_has_a_range() -> None:
    histogram = Histogram()
    histogram.add(np.zeros(10, np.float32))
    assert [histogram.range(kind) for kind in ("max", "percentile", "entropy")] == [0, 0, 0]


def test_ranges_are_remembered_for_the_same_graph_and_faces(graphs: tuple[bytes, bytes], tmp_path: Path) -> None:
    encoder, cache = graphs[0], tmp_path / "ranges.json"
    progress: list[int] = []
    first = measure_ranges(encoder, CROPS, [Graph(encoder).layers()[0].data], cache, progress.append)
    assert sum(progress) == len(CROPS)
    again = measure_ranges(encoder, CROPS, [Graph(encoder).layers()[0].data], cache, progress.append)
    assert again == first
    assert sum(progress) == len(CROPS)
    measure_ranges(encoder, CROPS[:8], [Graph(encoder).layers()[0].data], cache, progress.append)
    assert sum(progress) == len(CROPS) + 8
    cache.write_text("{")
    assert measure_ranges(encoder, CROPS[:8], [Graph(encoder).layers()[0].data], cache) is not None


def test_a_convolution_that_reads_another_one_s_output_has_one_pair_between_them() -> None:
    """As in MobileNetV4, whose projections have no activation behind them."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.normal(0, 0.3, (4, 4, 3, 3)).astype(np.float32), name) for name in "ab"]
    nodes = [
        helper.make_node("Conv", [x, w], [y], name=y, pads=[1] * 4) for x, w, y in (("x", "a", "m"), ("m", "b", "y"))
    ]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4, 8, 8]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "two", tensors[:1], tensors[1:], weights), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 9
    graph, inputs = model.SerializeToString(), {"x": rng.normal(size=(2, 4, 8, 8)).astype(np.float32)}
    ranges = {"x": 4.0, "m": 6.0, "y": 12.0}
    with open_engine(graph, "cpu") as plain, open_engine(quantize_dynamic(graph, ranges, ["m", "y"]), "cpu") as int8:
        wanted, found = (engine.run(inputs)["y"].ravel() for engine in (plain, int8))
    assert found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.999


def test_heads_in_int8_are_smaller_and_say_nearly_the_same(graphs: tuple[bytes, bytes]) -> None:
    encoder, head = graphs
    windows = features(encoder, random_crops(64)).reshape(4, 16, -1)
    unseen = features(encoder, random_crops(64, seed=1)).reshape(4, 16, -1)
    heads = quantize_head(head, windows)
    assert set(heads) == {"cpu", "openvino"}
    with open_engine(head, "cpu") as engine:
        wanted = engine.run({"features": unseen})["probabilities"]
    for quantized in heads.values():
        assert len(quantized) < 0.6 * len(head)
        with open_engine(quantized, "cpu") as engine:
            found = engine.run({"features": unseen})["probabilities"]
        assert 0 < np.abs(found - wanted).max() < 0.03
        assert Graph(quantized).layers()[-1].output == Graph(head).layers()[-1].output  # float: the class matrix


def test_a_head_of_the_class_matrix_alone_stays_float() -> None:
    matrix = numpy_helper.from_array(np.eye(64, 7, dtype=np.float32), "matrix")
    nodes = [
        helper.make_node("ReduceMean", ["features", "axis"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "matrix"], ["probabilities"], name="classes"),
    ]
    ends = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 16, 64]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 7]),
    ]
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    model = helper.make_model(
        helper.make_graph(nodes, "head", ends[:1], ends[1:], [matrix, axis]),
        opset_imports=[helper.make_opsetid("", 18)],
    )
    assert quantize_head(model.SerializeToString(), np.zeros((1, 16, 64), np.float32)) == {}

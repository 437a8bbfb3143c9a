"""Measure each layer's sensitivity to INT8 with one graph in which every layer can run in float or in INT8."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ..runtime.engines import open_engine
from ..runtime.storage import atomic_write
from .faces import spread
from .graphs import Graph, batches
from .quantization import TINY, quantize_weight

RANKING_FRAMES = 8
"""Frames for measuring each layer alone: only the order matters, and a large encoder has a hundred layers."""

SCALES = "int8.scales"


@dataclass(frozen=True)
class LayerSensitivity:
    """Difference of features and class probabilities from the float ones with one or several layers in INT8.

    layer: the one in INT8, or "all" for several. cosine: lowest cosine of a frame's features. delta: largest |Δp|.
    """

    layer: str
    cosine: float
    delta: float


class SensitivityModel:
    """An encoder whose INT8 layers are chosen at each run. A context manager.

    graph: float encoder. head: float head. window: T. frames: crops uint8 [N,H,W,3] to measure on.
    INT8 is simulated in float (quantise, dequantise, multiply); integer kernels differ only by rounding.
    """

    def __init__(self, graph: bytes, head: bytes, window: int, frames: NDArray[np.uint8]) -> None:
        source = Graph(graph)
        self.layers = source.layers()
        self._frames, self._window, self._input = frames, window, source.input
        self._engine = open_engine(_with_optional_int8(source), "cpu")
        self._head = open_engine(head, "cpu")
        self._reference = self._run({}, (), frames)
        self._reference_p = self._classify(self._reference)

    def sensitivity(
        self, ranges: Mapping[str, float], names: Collection[str], most: int | None = None
    ) -> LayerSensitivity:
        """Measure sensitivity to the named layers in INT8, on all frames or on `most` of them, spread evenly.

        ranges: the largest |x| to represent of every tensor that these layers read.
        """
        picked = spread(len(self._frames), most or len(self._frames))
        found = self._run(ranges, names, self._frames[picked])
        wanted, wanted_p = self._reference[picked], self._reference_p[picked]
        cosines = (found * wanted).sum(axis=1) / np.maximum(
            np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1), 1e-12
        )
        return LayerSensitivity(
            layer=next(iter(names)) if len(names) == 1 else "all",
            cosine=float(np.nan_to_num(cosines.min(), nan=-1.0)),
            delta=float(np.abs(self._classify(found) - wanted_p).max()),
        )

    def rank(
        self, ranges: Mapping[str, float], names: Collection[str], progress: Callable[[int], object] = lambda _: None
    ) -> list[LayerSensitivity]:
        """Measure sensitivity to each of the named layers alone; return the most sensitive first.

        progress: called with 1 after each.
        """
        found = []
        for layer in self.layers:
            if layer.name in names:
                found.append(self.sensitivity(ranges, [layer.name], RANKING_FRAMES))
                progress(1)
        return sorted(found, key=lambda sensitivity: sensitivity.cosine)

    def _run(
        self, ranges: Mapping[str, float], names: Collection[str], frames: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Return features [N,D] with the named layers in INT8."""
        scales = [max(ranges[layer.data], TINY) / 127 if layer.name in names else -1.0 for layer in self.layers]
        inputs = {SCALES: np.array(scales, np.float32)}
        parts = [self._engine.run({self._input: part, **inputs}) for part in batches(frames, 16)]
        features: NDArray[np.float32] = np.concatenate([next(iter(part.values())) for part in parts])
        return features

    def _classify(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        windows = np.repeat(features[:, None], self._window, axis=1)
        return next(iter(self._head.run({"features": windows}).values()))

    def close(self) -> None:
        self._engine.close()
        self._head.close()

    def __enter__(self) -> SensitivityModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _with_optional_int8(graph: Graph) -> bytes:
    """Add an input `SCALES`, float32 [layers], to the graph: the scale of each layer's input, negative for float."""
    layers = graph.layers()
    indices = {layer.name: index for index, layer in enumerate(layers)}
    zero = graph.add_constant("int8.zero", np.array(0, np.int8))
    limit = graph.add_constant("int8.limit", np.array(0, np.float32))
    nodes: list[Any] = []
    for node in graph.nodes:
        if node.name in indices:
            layer = layers[indices[node.name]]
            own = f"int8.{indices[node.name]}"
            values, scales = quantize_weight(graph.constant(layer.weight), layer.axis)
            weight = [
                graph.add_constant(f"{own}.weight", values),
                graph.add_constant(f"{own}.scales", scales),
                graph.add_constant(f"{own}.zeros", np.zeros(len(scales), np.int8)),
            ]
            index = graph.add_constant(f"{own}.index", np.array(indices[node.name], np.int64))
            nodes += [
                helper.make_node("Gather", [SCALES, index], [f"{own}.value"]),
                helper.make_node("Greater", [f"{own}.value", limit], [f"{own}.on"]),
                helper.make_node("Abs", [f"{own}.value"], [f"{own}.scale"]),
                helper.make_node("QuantizeLinear", [layer.data, f"{own}.scale", zero], [f"{own}.int8"]),
                helper.make_node("DequantizeLinear", [f"{own}.int8", f"{own}.scale", zero], [f"{own}.rounded"]),
                helper.make_node("Where", [f"{own}.on", f"{own}.rounded", layer.data], [f"{own}.data"]),
                helper.make_node("DequantizeLinear", weight, [f"{own}.rounded_weight"], axis=layer.axis),
                helper.make_node("Where", [f"{own}.on", f"{own}.rounded_weight", layer.weight], [f"{own}.used"]),
            ]
            node.input[0], node.input[1] = f"{own}.data", f"{own}.used"
        nodes.append(node)
    graph.model.graph.input.append(helper.make_tensor_value_info(SCALES, TensorProto.FLOAT, [len(layers)]))
    graph.rebuild(nodes)
    return graph.bytes()


def plot_sensitivity(ranking: list[LayerSensitivity], floating: Collection[str], path: Path) -> None:
    """Draw the sensitivity to each layer alone, the most sensitive on top, as a PNG; `floating` layers are red."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.5 + 0.2 * len(ranking)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = [sensitivity.layer for sensitivity in ranking]
    colours = ["tab:red" if name in floating else "tab:blue" for name in names]
    axes.barh(range(len(names)), [max(1 - sensitivity.cosine, 1e-8) for sensitivity in ranking], color=colours)
    axes.set_yticks(range(len(names)), names, fontsize="xx-small")
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="1 − cosine of features with this layer alone in INT8 (red: stays float)")
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=120)

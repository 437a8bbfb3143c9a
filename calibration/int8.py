"""Quantise a float encoder to INT8, with as many INT8 layers as accuracy allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..runtime.errors import DferError
from .attention import fuse_attention, merge_products
from .faces import FaceClips, Report, spread
from .graphs import Array, Graph, largest
from .quantization import quantize_dynamic, quantize_static
from .ranges import KINDS, measure_channels, measure_ranges
from .sensitivity import LayerSensitivity, SensitivityModel
from .smoothing import find_groups, smooth

SENSITIVITY_FRAMES = 16
"""Frames on which sensitivity is measured, spread over the calibration frames."""
CHANNEL_FRAMES = 64
"""Frames on which channels are measured to find the outliers, likewise."""
NARROW = 32
"""In a head, INT8 saves nothing for matrices with fewer rows or columns."""


@dataclass(frozen=True)
class Int8:
    """An encoder in INT8.

    graphs: by provider; "default" is static Q/DQ, "cpu" is for ONNX Runtime's CPU provider. heads: INT8 heads, by
    provider, where there are any.
    floating: layers that stay float, the most sensitive first. ranking: the sensitivity to each layer, in that order.
    kind: of the ranges, one of `KINDS`. total: how many layers could be INT8.
    """

    graphs: Mapping[str, bytes]
    floating: tuple[str, ...]
    ranking: tuple[LayerSensitivity, ...]
    kind: str
    total: int
    heads: Mapping[str, bytes] = field(default_factory=dict)


def quantizations(
    encoder: bytes,
    head: bytes,
    window: int,
    faces: FaceClips,
    min_cosine: float,
    cache: Path | None = None,
    report: Report = lambda _: None,
) -> Iterator[Int8]:
    """Yield INT8 versions of an encoder, each with more float layers, until half of the layers are float.

    The first has the fewest float layers with which features reach `min_cosine` on some of the calibration faces; use
    the first that also passes on held-out faces. Before that, outlier channels are moved into the weights, and the kind
    of range with the highest cosine is chosen.
    cache: file of measured ranges; read if it matches, else written.
    Raises DferError if the encoder has nothing to quantise or does not run.
    """
    graph, frames = Graph(encoder), faces.frames
    layers = graph.layers()
    if not layers:
        raise DferError("int8: this encoder has no layer with constant weights")
    norms = [group.output for group in find_groups(graph)]
    if norms:
        encoder = smooth(encoder, measure_channels(encoder, frames[spread(len(frames), CHANNEL_FRAMES)], norms))
    convolutions = {node.name for node in graph.nodes if node.op_type == "Conv"}
    tensors = [layer.data for layer in layers] + [layer.output for layer in layers if layer.name in convolutions]
    done = 0

    def measuring(count: int) -> None:
        nonlocal done
        done += count
        report(f"int8: measuring ranges, {done} of {len(frames)} frames")

    measuring(0)
    measured = measure_ranges(encoder, frames, list(dict.fromkeys(tensors)), cache, measuring)
    names = [layer.name for layer in layers]
    with SensitivityModel(encoder, head, window, frames[spread(len(frames), SENSITIVITY_FRAMES)]) as model:
        report("int8: choosing the kind of range")
        cosines = {kind: model.sensitivity(measured[kind], names).cosine for kind in KINDS}
        kind = max(KINDS, key=cosines.__getitem__)
        ranges = measured[kind]
        ranking = model.rank(ranges, names, lambda _: report(f"int8: sensitivity of each of {len(names)} layers"))
        worst = [sensitivity.layer for sensitivity in ranking]
        count = 0  # number of float layers
        while count <= len(names) // 2 and model.sensitivity(ranges, set(worst[count:])).cosine < min_cosine:
            count += 1
    while count <= len(names) // 2:
        quantized = set(worst[count:])
        graphs = {
            "default": quantize_static(encoder, ranges, quantized),
            "cpu": _for_cpu(encoder, ranges, quantized, bool(convolutions & quantized)),
        }
        yield Int8(graphs, tuple(worst[:count]), tuple(ranking), kind, len(names))
        count += 1 + count // 2


def _for_cpu(encoder: bytes, ranges: Mapping[str, float], names: set[str], convolves: bool) -> bytes:
    """Return the encoder with the named layers in INT8, in as few operators as ONNX Runtime's CPU provider supports.

    convolves: whether convolutions are among them. Then attention is not fused: not all versions of ONNX Runtime have
    the convolutions' QuantizeLinear in the opset of `Attention`.
    """
    merged, layers = merge_products(encoder if convolves else fuse_attention(encoder), names)
    return quantize_dynamic(merged, ranges, layers)


def quantize_head(head: bytes, windows: Array) -> dict[str, bytes]:
    """Return INT8 versions of a head, by provider; empty if no layer is worth it.

    windows: float32 [N,T,D] to measure ranges on. The last product, with the class matrix, stays float: its results
    are multiplied by 1/τ.
    """
    graph = Graph(head)
    layers = [layer for layer in graph.layers()[:-1] if min(graph.constants[layer.weight].dims) >= NARROW]
    if not layers:
        return {}
    ranges, names = largest(head, windows), {layer.name for layer in layers}
    return {"cpu": quantize_dynamic(head, ranges, names), "openvino": quantize_static(head, ranges, names)}

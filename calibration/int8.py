"""A float encoder in, INT8 encoders out: as many layers in INT8 as accuracy lets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import DferError
from .faces import FaceClips
from .graphs import Graph
from .quantization import quantize_dynamic, quantize_static
from .ranges import KINDS, measure_channels, measure_ranges
from .sensitivity import LayerSensitivity, SensitivityModel
from .smoothing import find_joints, smooth

TRIAL = 16
"""Frames on which layers are tried, spread over those that ranges are measured on."""
SEEN = 64
"""Frames that show which channels are outliers."""

Heard = Callable[[str], object]


@dataclass(frozen=True)
class Int8:
    """One way to quantise an encoder.

    graphs: by provider; "default" is static Q/DQ, "cpu" is for ONNX Runtime's CPU provider.
    floating: layers left float, most damaging first. ranking: every layer alone, most damaging first.
    kind: of the ranges. total: how many layers could be INT8.
    """

    graphs: Mapping[str, bytes]
    floating: tuple[str, ...]
    ranking: tuple[LayerSensitivity, ...]
    kind: str
    total: int


def quantizations(
    encoder: bytes,
    head: bytes,
    window: int,
    faces: FaceClips,
    wanted_cosine: float,
    cache: Path | None = None,
    progress: Heard = lambda _: None,
) -> Iterator[Int8]:
    """INT8 versions of an encoder, ever more of its layers float, until half of them are.

    The first is the one with the fewest float layers that reaches `wanted_cosine` on some of the faces that ranges were
    measured on; take the first that also passes on faces it has not seen. Outlier channels are moved into the weights
    before, and of the kinds of range the one that does least damage is taken.
    Raises DferError where the encoder has nothing to quantise or does not run.
    """
    graph = Graph(encoder)
    layers = graph.layers()
    if not layers:
        raise DferError("int8: this encoder has no layer with constant weights")
    joints = [joint.output for joint in find_joints(graph)]
    smoothed = smooth(encoder, measure_channels(encoder, _some(faces.frames, SEEN), joints)) if joints else encoder
    convolutions = {node.name for node in graph.nodes if node.op_type == "Conv"}
    tensors = [layer.data for layer in layers] + [layer.output for layer in layers if layer.name in convolutions]
    done = 0

    def measuring(count: int) -> None:
        nonlocal done
        done += count
        progress(f"int8: measuring ranges, {done} of {len(faces.frames)} frames")

    measuring(0)
    measured = measure_ranges(smoothed, faces.frames, list(dict.fromkeys(tensors)), cache, measuring)
    names = [layer.name for layer in layers]
    with SensitivityModel(smoothed, head, window, _some(faces.frames, TRIAL)) as board:
        progress("int8: choosing ranges")
        costs = {kind: board.sensitivity(measured.kinds[kind], names) for kind in KINDS}
        kind = max(KINDS, key=lambda kind: costs[kind].cosine)
        ranges = measured.kinds[kind]
        ranking = board.rank(ranges, names, lambda _: progress(f"int8: what each of {len(names)} layers costs"))
        worst = [sensitivity.layer for sensitivity in ranking]
        dropped = 0
        while dropped <= len(names) // 2:
            kept = set(worst[dropped:])
            if board.sensitivity(ranges, kept).cosine >= wanted_cosine:
                break
            dropped += 1
    while dropped <= len(names) // 2:
        kept = set(worst[dropped:])
        graphs = {
            "default": quantize_static(smoothed, ranges, kept),
            "cpu": quantize_dynamic(smoothed, ranges, kept),
        }
        yield Int8(graphs, tuple(worst[:dropped]), tuple(ranking), kind, len(names))
        dropped += 1 + dropped // 2


def _some(frames: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    picked: NDArray[np.uint8] = frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)]
    return picked

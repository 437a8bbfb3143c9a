"""Where a graph goes wrong: which layers add most to its difference from the PyTorch model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..calibration.graphs import Array, Graph, observe
from ..runtime.errors import DferError
from ..train.methods import Method
from .graphs import trace_encoder_program

_COMPARED = ("Conv", "Gemm", "MatMul", "Add")
"""Operators whose outputs survive every conversion: smoothing changes what LayerNorms give, and nothing else."""


@dataclass(frozen=True)
class Deviation:
    """A layer, and by how much its output's relative error exceeds its inputs'."""

    layer: str
    error: float


def find_deviations(method: Method, encoder: bytes, frames: NDArray[np.uint8]) -> list[Deviation]:
    """The layers of an encoder graph that deviate most from the model, worst first.

    Both run on crops uint8 [N,H,W,3], and every intermediate result that both have is compared. A layer is
    held responsible for what it adds to the error of what it reads.
    """
    structure, wanted = _run_torch(method, frames)
    held = {name for node in Graph(encoder).nodes for name in node.output}
    names = [
        node.output[0]
        for node in structure.nodes
        if node.op_type in _COMPARED and node.output[0] in held and node.output[0] in wanted
    ]
    found: dict[str, Array] = {}
    for values in observe(encoder, frames, names):  # few frames: one batch
        found = values
    errors: dict[str, float] = {}
    deviations = []
    for node in structure.nodes:
        before = max((errors.get(name, 0.0) for name in node.input), default=0.0)
        output = node.output[0]
        errors[output] = _relative_error(wanted[output], found[output]) if output in names else before
        if output in names:
            deviations.append(Deviation(node.name.rpartition("/")[0] or node.name, errors[output] - before))
    return sorted(deviations, key=lambda deviation: deviation.error, reverse=True)


def describe_deviations(method: Method, encoder: bytes, frames: NDArray[np.uint8], most: int = 3) -> str:
    """ "; the layers that deviate most are …", for an error message; empty where they cannot be told."""
    try:
        worst = find_deviations(method, encoder, frames[:4])[:most]
    except DferError:
        return ""  # a graph that does not run says so itself
    named = ", ".join(f"{deviation.layer} (relative error +{deviation.error:.2g})" for deviation in worst)
    return f"; the layers that deviate most are {named}" if named else ""


def _relative_error(wanted: Array, found: Array) -> float:
    if wanted.shape != found.shape or not np.isfinite(found).all():
        return 1e9
    reference = wanted.astype(np.float64)
    return float(np.linalg.norm(found - reference) / max(float(np.linalg.norm(reference)), 1e-12))


class _Recorder(torch.fx.Interpreter):
    """Runs a traced model and keeps every tensor it computes, by name."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.tensors: dict[str, Array] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
            self.tensors[n.name] = result.numpy()
        return result


def _run_torch(method: Method, frames: NDArray[np.uint8]) -> tuple[Graph, Mapping[str, Array]]:
    """A fresh trace of the model, and what PyTorch computes for each of its tensors, which have the same names."""
    graph, program = trace_encoder_program(method)
    recorder = _Recorder(program.module())
    with torch.inference_mode():
        recorder.run(torch.from_numpy(frames))
    return Graph(graph), recorder.tensors

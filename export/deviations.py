"""Find the layers of a graph that add most to its difference from the PyTorch model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..calibration.faces import spread
from ..calibration.graphs import Array, Graph, observe
from ..runtime.errors import DferError
from .graphs import TracedEncoder

_FRAMES = 4

_COMPARED = ("Conv", "Gemm", "MatMul", "Add")
"""Operators whose output tensors every conversion preserves; smoothing changes those of LayerNorms."""


@dataclass(frozen=True)
class Deviation:
    """A layer, and by how much the relative error of its output exceeds that of its inputs."""

    layer: str
    error: float


def find_deviations(traced: TracedEncoder, encoder: bytes, frames: NDArray[np.uint8]) -> list[Deviation]:
    """Return the layers of an encoder graph that deviate from the traced model, worst first.

    Both run on `_FRAMES` of the crops uint8 [N,H,W,3], spread evenly, and outputs of `_COMPARED` in both are compared.
    Raises DferError if the graph does not run.
    """
    frames = frames[spread(len(frames), _FRAMES)]
    structure, wanted = Graph(traced.onnx), _run_torch(traced.program, frames)
    kept = {name for node in Graph(encoder).nodes for name in node.output}
    names = [
        node.output[0]
        for node in structure.nodes
        if node.op_type in _COMPARED and node.output[0] in kept and node.output[0] in wanted
    ]
    found: dict[str, Array] = {}
    for values in observe(encoder, frames, names):  # one batch
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


def describe_deviations(traced: TracedEncoder, encoder: bytes, frames: NDArray[np.uint8]) -> str:
    """Return "; the layers that deviate most are …" for an error message; empty if they cannot be found."""
    try:
        worst = find_deviations(traced, encoder, frames)[:3]
    except DferError:
        return ""  # the graph itself ran, but not with all of its tensors as outputs
    named = ", ".join(f"{deviation.layer} (relative error +{deviation.error:.2g})" for deviation in worst)
    return f"; the layers that deviate most are {named}" if named else ""


def _relative_error(wanted: Array, found: Array) -> float:
    if wanted.shape != found.shape or not np.isfinite(found).all():
        return 1e9
    reference = wanted.astype(np.float64)
    return float(np.linalg.norm(found - reference) / max(float(np.linalg.norm(reference)), 1e-12))


class _Recorder(torch.fx.Interpreter):
    """Runs a traced model and records every float32 tensor it computes, by name."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.tensors: dict[str, Array] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
            self.tensors[n.name] = result.numpy()
        return result


def _run_torch(program: Any, frames: NDArray[np.uint8]) -> dict[str, Array]:
    """Return PyTorch's values of all float32 tensors of an ExportedProgram, by name."""
    recorder = _Recorder(program.module())
    with torch.inference_mode():
        recorder.run(torch.from_numpy(frames))
    return recorder.tensors

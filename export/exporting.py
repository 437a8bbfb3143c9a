"""Checkpoint in, bundle out."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from ..calibration.faces import MINIMUM, FaceClips
from ..calibration.int8 import Int8, quantizations
from ..calibration.sensitivity import plot_sensitivity
from ..runtime.bundle import CLASS_MATRIX, Bundle, Manifest, write_bundle
from ..runtime.engines import Engine, find_backend, open_engine, present_providers
from ..runtime.errors import DferError
from ..train.checkpoints.checkpoint import FORMAT, load_checkpoint
from ..train.data.choice import DataChoice
from ..train.methods import Method, method_class
from .clips import read_faces
from .deviations import describe_deviations
from .fp16 import to_half
from .graphs import trace_encoder, trace_head
from .latency import Measurement, measure_provider, recommend
from .parity import GATES, Parity, ReferenceOutputs, faces_reference, standard_reference

Report = Callable[[str], object]

ENCODERS = {
    "fp32": "encoder.fp32.onnx",
    "fp16": "encoder.fp16.onnx",
    "bf16": "encoder.fp32.onnx",
    "int8": "encoder.int8.onnx",
}
BF16_PROVIDER = "openvino"
"""The one that computes an FP32 graph in BF16. (TensorRT would need a graph of BF16 casts, which nothing on a CPU runs
to compare it; on every GPU that has BF16, FP16 is as fast and three bits finer.)"""
CPU_INT8 = "encoder.int8.cpu.onnx"
HEAD = "head.fp32.onnx"


@dataclass(frozen=True)
class ExportOptions:
    """What to export beside FP32, and how strictly.

    bf16: the FP32 encoder computed in BF16 by OpenVINO, on a CPU that can.
    faces: videos, crops or a data set for INT8's ranges, as `read_faces` reads them; they also judge the others.
    minimum: frames below which `faces` are refused. gate: "default", "strict" or "off".
    """

    fp16: bool = False
    bf16: bool = False
    int8: bool = False
    faces: Path | DataChoice | None = None
    minimum: int = MINIMUM
    gate: str = "default"


@dataclass(frozen=True)
class Exported:
    """A bundle that was written, and what was measured on the way.

    parity: by precision, on the CPU (BF16: by OpenVINO).
    measurements: by provider and precision; empty when there is FP32 alone.
    int8: how the INT8 encoder was made.
    """

    bundle: Bundle
    parity: Mapping[str, Parity]
    measurements: Mapping[str, Mapping[str, Measurement]]
    int8: Int8 | None = None


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    report: Report = lambda _: None,
    published_by: str | None = None,
    options: ExportOptions | None = None,
) -> Exported:
    """Write the bundle of a checkpoint to the folder `out`; `report` hears of each step.

    published_by: name of the method whose authors published the checkpoint; None for one of dfer-train.
    Raises DferError for a bad checkpoint, faces that do not serve, a graph that does not agree with PyTorch, or a place
    that cannot be written; an existing bundle then stays as it was.
    """
    report(f"reading {checkpoint}")
    load = method_class(published_by).load_published if published_by else load_checkpoint
    method, training = load(checkpoint)
    return export_method(
        method,
        out,
        {
            "checkpoint": checkpoint.name,
            "format": f"published {method.name}" if published_by else FORMAT,
            "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            "training": training,
        },
        report,
        options,
    )


def export_method(
    method: Method,
    out: Path,
    provenance: dict[str, object],
    report: Report = lambda _: None,
    options: ExportOptions | None = None,
) -> Exported:
    """Write the bundle of a model in memory. See `export_checkpoint`."""
    options = options or ExportOptions()
    if options.int8 and options.faces is None:
        raise DferError("INT8 needs faces to measure ranges on; name videos or crops with --calib")
    if options.bf16 and not find_backend(BF16_PROVIDER).runs("bf16"):
        raise DferError(
            "--bf16 cannot be compared with PyTorch here: it needs OpenVINO (pip install 'dfer-edge[openvino]') and a "
            "CPU with BF16 instructions (avx512_bf16, amx_bf16); export on such a machine, or without --bf16"
        )
    method.eval()
    measured, kept = None, None
    if options.faces is not None:
        measured, kept = read_faces(options.faces, method.preprocessing.size, options.minimum, report)
    report("class matrix")
    with torch.inference_mode():
        class_matrix = method.class_matrix().clone()
    report("tracing the encoder")
    encoder = trace_encoder(method)
    report("tracing the head")
    head = trace_head(method, class_matrix)
    report("asking PyTorch")
    references = [standard_reference(method), *([faces_reference(method, kept)] if kept else [])]
    checker = ParityChecker(method, head, references, options.gate)
    report("comparing fp32 with PyTorch")
    checker.admit("fp32", encoder)
    encoders: dict[str, dict[str, bytes]] = {"fp32": {"default": encoder}}
    if options.fp16:
        report("converting to fp16")
        half = to_half(encoder, measured.frames[:64] if measured else references[0].frames)
        report("comparing fp16 with PyTorch")
        checker.admit("fp16", half)
        encoders["fp16"] = {"default": half}
    if options.bf16:
        report("comparing bf16 with PyTorch")
        checker.admit("bf16", encoder)
        encoders["bf16"] = {BF16_PROVIDER: encoder}
    int8 = None
    if options.int8 and measured is not None:
        int8 = _quantize(checker, encoder, head, method.window, measured, out, report)
        encoders["int8"] = dict(int8.graphs)
    measurements: dict[str, dict[str, Measurement]] = {}
    if len(encoders) > 1:
        for provider in present_providers():
            report(f"measuring on {provider}")
            found = {name: files.get(provider) or files.get("default") for name, files in encoders.items()}
            graphs = {name: graph for name, graph in found.items() if graph is not None}
            measurements[provider] = measure_provider(provider, graphs, head, references[-1])
    manifest = Manifest(
        method=method.name,
        classes=method.classes,
        window=method.window,
        width=class_matrix.shape[1],
        scale=method.scale,
        preprocessing=method.preprocessing,
        precisions={name: _describe(name, files, checker, measurements) for name, files in encoders.items()},
        provenance={
            **provenance,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": {name: version(name) for name in ("dfer-edge", "torch", "onnx", "onnxruntime")},
        },
        recommended=recommend(measurements, options.gate),
    )
    matrix = io.BytesIO()
    np.save(matrix, class_matrix.numpy(), allow_pickle=False)
    report(f"writing {out}")
    files = {HEAD: head, CLASS_MATRIX: matrix.getvalue()}
    for name, graphs in encoders.items():
        files.update({file: graphs[family] for family, file in _names(name, graphs).items()})
    bundle = write_bundle(out, manifest, files)
    if int8 is not None:
        plot_sensitivity(list(int8.ranking), int8.floating, out.with_suffix(".int8.png"))
    return Exported(bundle, checker.parity, measurements, int8)


class ParityChecker:
    """Holds graphs against what PyTorch said, on the CPU, BF16 by OpenVINO. parity: of what was admitted."""

    def __init__(self, method: Method, head: bytes, references: list[ReferenceOutputs], gate: str) -> None:
        self._method, self._head, self._references, self.gate = method, head, references, gate
        self.parity: dict[str, Parity] = {}

    def measure(self, precision: str, encoder: bytes) -> Parity:
        """INT8 is judged on faces alone, of which its ranges were measured; the others on noise and drawn faces too."""
        references = self._references[-1:] if precision == "int8" else self._references
        with _open(precision, encoder) as encoding, open_engine(self._head, "cpu") as classifying:
            found = [reference.compare(encoding, classifying) for reference in references]
        return found[0] if len(found) == 1 else found[0].worse(found[1])

    def admit(self, precision: str, encoder: bytes) -> None:
        """Raise DferError, naming the layers that deviate most, unless the encoder passes its gate."""
        parity = self.measure(precision, encoder)
        if not parity.passes(precision, self.gate):
            parity.check(precision, self.gate, self._blame(precision, encoder, parity))
        self.parity[precision] = parity

    def _blame(self, precision: str, encoder: bytes, parity: Parity) -> str:
        if parity.cosine >= GATES[self.gate][precision].min_cosine and precision == "fp32":
            return "; the features agree, so it is the head"
        if precision == "bf16":  # no graph of its own to look into: the FP32 one agrees
            return "; this encoder needs more than BF16's 8 bits"
        return describe_deviations(self._method, encoder, self._references[-1].frames)


def _quantize(
    checker: ParityChecker, encoder: bytes, head: bytes, window: int, faces: FaceClips, out: Path, report: Report
) -> Int8:
    """The first INT8 encoder that passes on faces it has not seen; the CPU's variant stays only if it passes too."""
    gate = GATES[checker.gate if checker.gate in GATES else "default"]["int8"]
    wanted = (1 + gate.min_cosine) / 2  # midway to perfect: faces to come will be worse than those it was tuned on
    found = None
    for found in quantizations(encoder, head, window, faces, wanted, out.with_suffix(".ranges.json"), report):
        report(f"comparing int8 with PyTorch ({len(found.floating)} of {found.total} layers left float)")
        if checker.measure("int8", found.graphs["default"]).passes("int8", checker.gate):
            break
    if found is None:
        raise DferError(
            "int8 export refused: even with half of its layers left float this encoder loses too much; "
            "nothing was written. Export --fp16 instead"
        )
    checker.admit("int8", found.graphs["default"])
    if checker.measure("int8", found.graphs["cpu"]).passes("int8", checker.gate):
        return found
    return Int8({"default": found.graphs["default"]}, found.floating, found.ranking, found.kind, found.total)


def _open(precision: str, encoder: bytes) -> Engine:
    return open_engine(encoder, BF16_PROVIDER if precision == "bf16" else "cpu", precision=precision)


def _names(precision: str, families: Mapping[str, bytes]) -> dict[str, str]:
    """The file of each family of a precision's encoder."""
    return {family: CPU_INT8 if family == "cpu" else ENCODERS[precision] for family in families}


def _describe(
    precision: str,
    families: Mapping[str, bytes],
    checker: ParityChecker,
    measurements: Mapping[str, Mapping[str, Measurement]],
) -> dict[str, object]:
    """A precision's entry in the manifest."""
    return {
        "files": {"encoder": _names(precision, families), "head": HEAD},
        "gate": checker.gate,
        "parity": checker.parity[precision].to_json(),
        "providers": {
            provider: found[precision].to_json() for provider, found in measurements.items() if precision in found
        },
    }

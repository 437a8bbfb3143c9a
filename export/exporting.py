"""Export a checkpoint to a bundle."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..calibration.faces import FaceClips, Report
from ..calibration.graphs import observe
from ..calibration.int8 import Int8, quantizations, quantize_head
from ..calibration.sensitivity import plot_sensitivity
from ..runtime.bundle import CLASS_MATRIX, Bundle, Manifest, write_bundle
from ..runtime.engines import find_backend, open_engine, present_providers
from ..runtime.errors import DferError, ParameterError
from ..train.checkpoints.checkpoint import FORMAT, checkpoint_of, load_checkpoint
from ..train.methods import Method, give_classes, method_class
from .clips import read_faces
from .fp16 import to_half
from .graphs import TracedMethod, trace_head, trace_method
from .latency import Measurement, measure_provider, recommend
from .options import ASSUMED_WINDOW, ExportOptions, trained_window
from .parity import BF16_PROVIDER, GATES, Parity, ParityChecker, faces_reference, standard_reference

ENCODERS = {
    "fp32": "encoder.fp32.onnx",
    "fp16": "encoder.fp16.onnx",
    "bf16": "encoder.fp32.onnx",
    "int8": "encoder.int8.onnx",
}
CPU_INT8 = "encoder.int8.cpu.onnx"
HEAD = "head.fp32.onnx"
INT8_HEADS = {"cpu": "head.int8.cpu.onnx", "openvino": "head.int8.onnx"}


@dataclass(frozen=True)
class ExportResult:
    """An exported bundle and its measurements.

    parity: by precision, on the CPU (BF16: with OpenVINO).
    measurements: by provider and precision; empty if only FP32 was exported.
    int8: how the INT8 encoder was made.
    warnings: a line for each problem of the calibration faces, for each reason why the graphs, though correct, are
    slower than they could be, and for each backend that could not be measured.
    """

    bundle: Bundle
    parity: Mapping[str, Parity]
    measurements: Mapping[str, Mapping[str, Measurement]]
    int8: Int8 | None = None
    warnings: tuple[str, ...] = ()


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    options: ExportOptions | None = None,
    report: Report = lambda _: None,
    published_by: str | None = None,
    described: Path | None = None,
) -> ExportResult:
    """Write the bundle of a checkpoint to the folder `out`.

    options: default is FP32 only. report: called with a line of text at each step.
    published_by: name of the method whose authors published the checkpoint; None for one of dfer-train.
    described: JSON of other classes (see `Method.describe_classes`), for which the temperature is not calibrated.
    Raises DferError for a bad checkpoint, unusable faces, a graph that does not agree with PyTorch, or an `out` that
    cannot be written; an existing bundle is then left unchanged.
    """
    report(f"reading {checkpoint}")
    load = method_class(published_by).load_published if published_by else load_checkpoint
    method, training = load(checkpoint)
    if described is not None:
        give_classes(method, described)
    provenance: dict[str, object] = {
        "checkpoint": checkpoint.name,
        "format": f"published {method.name}" if published_by else FORMAT,
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "training": training,
        **({} if described is None else {"described": described.name}),
    }
    return export_method(method, out, provenance, options, report)


def describe_bundle(
    bundle: Bundle, checkpoint: Path | None, described: Path, out: Path, report: Report = lambda _: None
) -> Bundle:
    """Write a bundle with other classes to `out`: the encoders of `bundle`, and a new head and class matrix.

    checkpoint: the one that the bundle was exported from, whose text side encodes `described`, a JSON of class → texts;
    None for the one beside it (`checkpoint_of`).
    The encoders' parity remains valid, and so does the recommended precision, which is a choice of encoder; figures
    that depend on the old classes are left out of the manifest.
    Raises DferError for another checkpoint, a method with a learned text per class, and a head that does not
    agree with PyTorch.
    """
    checkpoint, manifest = checkpoint_of(bundle, checkpoint), bundle.manifest
    report(f"reading {checkpoint}")
    method, _ = load_checkpoint(checkpoint)
    give_classes(method, described)
    method.eval()
    report("computing the class matrix")
    with torch.inference_mode():
        class_matrix = method.class_matrix().clone()
        windows = functional.normalize(
            torch.randn(8, method.window, method.width, generator=torch.Generator().manual_seed(0)), dim=-1
        )
        expected = (method.final_scale * method.pool(windows) @ class_matrix.T).softmax(dim=-1).numpy()
    report("tracing the head")
    head = trace_head(method, class_matrix)
    with open_engine(head, "cpu") as engine:
        delta = float(np.abs(engine.run({"features": windows.numpy()})["probabilities"] - expected).max())
    if not delta <= GATES["default"]["fp32"].max_delta:
        raise DferError(f"export refused: the head differs from the PyTorch model by {delta:.2g}; nothing was written")
    matrix = io.BytesIO()
    np.save(matrix, class_matrix.numpy(), allow_pickle=False)
    encoders = {name for precision in manifest.precisions for name in manifest.encoders(precision).values()}
    files = {name: bundle.read(name) for name in encoders} | {HEAD: head, CLASS_MATRIX: matrix.getvalue()}
    return write_bundle(
        out,
        replace(
            manifest,
            classes=method.classes,
            scale=method.final_scale,
            temperature=method.confidence.temperature,
            unsure_below=method.confidence.unsure_below,
            precisions={name: _without_classes(entry) for name, entry in manifest.precisions.items()},
            provenance={
                **manifest.provenance,
                "described": described.name,
                "encoders_of": bundle.digest,
                "head": _created(),  # the rest of it, date and versions too, is of the encoders
            },
        ),
        files,
    )


def _without_classes(found: Any) -> Any:
    """Return the parts of a precision's manifest entry that do not depend on the classes, so without INT8 heads.

    That a precision passed its gate is left out as well; that it failed is kept, for the runtime's warning.
    """
    if not isinstance(found, Mapping):
        return found
    kept = ("cosine", "frames")
    return {
        key: {name: value[name] for name in kept if name in value} if key == "parity" else _without_classes(value)
        for key, value in found.items()
        if key != "heads" and not (key == "passes" and value)
    }


def _created() -> dict[str, object]:
    """Return the date and the versions of now, for the provenance."""
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("dfer-edge", "torch", "onnx", "onnxruntime")},
    }


def export_method(
    method: Method,
    out: Path,
    provenance: dict[str, object],
    options: ExportOptions | None = None,
    report: Report = lambda _: None,
) -> ExportResult:
    """Write the bundle of a model in memory. See `export_checkpoint`.

    provenance: plain values for the manifest about the model's origin.
    """
    options = options or ExportOptions()
    if options.window is None:
        options = replace(options, window=trained_window(provenance.get("training")) or ASSUMED_WINDOW)
    if options.bf16 and not find_backend(BF16_PROVIDER).runs("bf16"):
        raise ParameterError(
            "bf16",
            "cannot be compared with PyTorch here: it needs OpenVINO (pip install 'dfer-edge[openvino]') and a "
            "CPU with BF16 instructions (avx512_bf16, amx_bf16); export on such a machine, or without it",
        )
    method.eval()
    faces, warnings = None, list[str]()
    if options.faces is not None:
        size = method.preprocessing.size
        faces = read_faces(options.faces, size, options.minimum, report, options.fps, warnings.append)
    result = export_traced(method, trace_method(method, report), faces, out, provenance, options, report)
    return replace(result, warnings=(*warnings, *result.warnings))


def export_traced(
    method: Method,
    traced: TracedMethod,
    faces: tuple[FaceClips, FaceClips] | None,
    out: Path,
    provenance: dict[str, object],
    options: ExportOptions,
    report: Report = lambda _: None,
) -> ExportResult:
    """Write the bundle of a traced model. See `export_method`.

    faces: calibration and held-out faces from `read_faces`; required for INT8.
    """
    encoder = traced.encoder.onnx
    report("computing PyTorch's outputs")
    references = [standard_reference(method), *([faces_reference(method, faces[1])] if faces else [])]
    checker = ParityChecker(traced, references, options.gate)
    report("comparing fp32 with PyTorch")
    checker.check("fp32", encoder)
    encoders: dict[str, dict[str, bytes]] = {"fp32": {"default": encoder}}
    if options.fp16:
        report("converting to fp16")
        half = to_half(encoder, faces[0].frames if faces else references[0].frames)
        report("comparing fp16 with PyTorch")
        checker.check("fp16", half)
        encoders["fp16"] = {"default": half}
    if options.bf16:
        report("comparing bf16 with PyTorch")
        checker.check("bf16", encoder)
        encoders["bf16"] = {BF16_PROVIDER: encoder}
    int8 = None
    if options.int8 and faces is not None:
        cache = out.with_suffix(".ranges.json")
        int8 = _quantize(checker, traced, method.window, faces[0], cache, report, options.int8_for == "cpu")
        encoders["int8"] = dict(int8.graphs)
    own_heads = {} if int8 is None else {"int8": int8.heads}  # for precisions that do not use the FP32 head
    measurements: dict[str, dict[str, Measurement]] = {}
    missed = ", ".join(traced.encoder.missed)
    warnings = [f"the encoder is right, but slower than it could be: its graph still has {missed}"] if missed else []
    if "int8" in encoders and "cpu" not in encoders["int8"]:
        warnings.append(
            "the int8 graph for ONNX Runtime's CPU provider did not pass its gate and is left out; --int8-for cpu "
            "makes one with more float layers"
        )
    if len(encoders) > 1:
        for provider in present_providers():
            if find_backend(provider).measured_as:  # it only runs finished bundles
                continue
            report(f"measuring on {provider}")
            found = {name: files.get(provider) or files.get("default") for name, files in encoders.items()}
            graphs = {name: graph for name, graph in found.items() if graph is not None}
            heads = {name: own_heads.get(name, {}).get(provider, traced.head) for name in graphs}
            measurements[provider] = measure_provider(provider, graphs, heads, references[-1], warnings.append)
    manifest = Manifest(
        method=method.name,
        classes=method.classes,
        window=method.window,
        width=traced.class_matrix.shape[1],
        scale=method.final_scale,
        temperature=method.confidence.temperature,
        unsure_below=method.confidence.unsure_below,
        seconds=options.window or ASSUMED_WINDOW,
        fps=options.fps,
        preprocessing=method.preprocessing,
        precisions={
            name: _describe(name, files, own_heads.get(name, {}), checker, measurements)
            for name, files in encoders.items()
        },
        provenance={
            **provenance,
            **_created(),
        },
        recommended=recommend(measurements, options.gate),
    )
    matrix = io.BytesIO()
    np.save(matrix, traced.class_matrix, allow_pickle=False)
    report(f"writing {out}")
    files = {HEAD: traced.head, CLASS_MATRIX: matrix.getvalue()}
    for name, graphs in encoders.items():
        files.update({file: graphs[family] for family, file in _names(name, graphs).items()})
    if int8 is not None:
        files.update({INT8_HEADS[provider]: head for provider, head in int8.heads.items()})
    bundle = write_bundle(out, manifest, files)
    if int8 is not None:
        plot_sensitivity(list(int8.ranking), int8.floating, out.with_suffix(".int8.png"))
    return ExportResult(bundle, checker.parity, measurements, int8, tuple(warnings))


def _quantize(
    checker: ParityChecker,
    traced: TracedMethod,
    window: int,
    faces: FaceClips,
    cache: Path,
    report: Report,
    only_cpu: bool,
) -> Int8:
    """Return the first INT8 encoder that passes on held-out faces; the CPU variant and heads only if they pass too.

    only_cpu: return only the CPU variant, which then must pass.
    """
    gate = GATES[checker.gate if checker.gate in GATES else "default"]["int8"]
    min_cosine = (1 + gate.min_cosine) / 2  # a margin, halfway to 1: cosines are lower on held-out faces
    int8, tested = None, "cpu" if only_cpu else "default"
    limits = (min_cosine, -1.0) if checker.gate == "off" else (min_cosine,)
    for int8 in chain.from_iterable(
        quantizations(traced.encoder.onnx, traced.head, window, faces, limit, cache, report) for limit in limits
    ):
        report(f"comparing int8 with PyTorch ({len(int8.floating)} of {int8.total} layers float)")
        if checker.measure("int8", int8.graphs[tested]).passes("int8", checker.gate):
            break
    if int8 is None:
        raise DferError(
            "int8 export refused: even with half of its layers float this encoder loses too much; "
            "nothing was written. Export fp16 instead"
        )
    checker.check("int8", int8.graphs[tested])
    kept = {"cpu": int8.graphs["cpu"]} if only_cpu else dict(int8.graphs)
    if not only_cpu and not checker.measure("int8", kept["cpu"]).passes("int8", checker.gate):
        del kept["cpu"]
    report("comparing int8 heads with PyTorch")
    return replace(int8, graphs=kept, heads=_quantize_heads(checker, traced.head, window, faces, kept))


def _quantize_heads(
    checker: ParityChecker, head: bytes, window: int, faces: FaceClips, encoders: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return the INT8 heads, by provider, that pass the gate with the provider's INT8 encoder."""
    encoder = next(iter(encoders.values()))
    features = np.concatenate([values["features"] for values in observe(encoder, faces.frames, ["features"])])
    passing = {}
    for provider, quantized in quantize_head(head, features[faces.windows(window)]).items():
        graph = encoders.get(provider) or encoders.get("default")
        if graph is not None and checker.measure("int8", graph, quantized).passes("int8", checker.gate):
            passing[provider] = quantized
    return passing


def _names(precision: str, families: Mapping[str, bytes]) -> dict[str, str]:
    """Return the file name of each graph of a precision, by provider."""
    return {family: CPU_INT8 if family == "cpu" else ENCODERS[precision] for family in families}


def _describe(
    precision: str,
    families: Mapping[str, bytes],
    heads: Mapping[str, bytes],
    checker: ParityChecker,
    measurements: Mapping[str, Mapping[str, Measurement]],
) -> dict[str, object]:
    """Return a precision's entry in the manifest."""
    return {
        "files": {
            "encoder": _names(precision, families),
            "head": HEAD,
            **({"heads": {provider: INT8_HEADS[provider] for provider in heads}} if heads else {}),
        },
        "gate": checker.gate,
        "parity": checker.parity[precision].to_json(),
        "providers": {
            provider: found[precision].to_json(precision, checker.gate)
            for provider, found in measurements.items()
            if precision in found
        },
    }

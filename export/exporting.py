"""Checkpoint in, bundle out."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from ..runtime.bundle import CLASS_MATRIX, Bundle, Manifest, write_bundle
from ..train.checkpoint import FORMAT, load_checkpoint
from ..train.methods import Method
from ..train.official import load_official
from .graphs import trace_encoder, trace_head
from .parity import Parity, measure_parity, parity_frames

Report = Callable[[str], object]


def export_checkpoint(
    checkpoint: Path, out: Path, report: Report = lambda _: None, official: bool = False
) -> tuple[Bundle, Parity]:
    """Write the bundle of a checkpoint to the folder `out`; `report` hears of each step.

    official: the checkpoint is one of DFER-CLIP's published code, not of dfer-train.
    Raises DferError for a bad checkpoint, a graph that does not agree with PyTorch, or a place that cannot be
    written; an existing bundle then stays as it was.
    """
    report(f"reading {checkpoint}")
    method, training = load_official(checkpoint) if official else load_checkpoint(checkpoint)
    return export_method(
        method,
        out,
        {
            "checkpoint": checkpoint.name,
            "format": f"official {method.name}" if official else FORMAT,
            "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            "training": training,
        },
        report,
    )


def export_method(
    method: Method, out: Path, provenance: dict[str, object], report: Report = lambda _: None
) -> tuple[Bundle, Parity]:
    """Write the bundle of a model in memory. See `export_checkpoint`."""
    method.eval()
    report("class matrix")
    with torch.inference_mode():
        class_matrix = method.class_matrix().clone()
    report("tracing the encoder")
    encoder = trace_encoder(method)
    report("tracing the head")
    head = trace_head(method, class_matrix)
    report("comparing with PyTorch")
    windows = parity_frames(method.preprocessing.size, method.window)
    parity = measure_parity(method, encoder, head, windows)
    parity.check("fp32")
    manifest = Manifest(
        method=method.name,
        classes=method.classes,
        window=method.window,
        width=class_matrix.shape[1],
        scale=method.scale,
        preprocessing=method.preprocessing,
        precisions={"fp32": {"parity": parity.to_json()}},
        provenance={
            **provenance,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": {name: version(name) for name in ("dfer-edge", "torch", "onnx", "onnxruntime")},
        },
    )
    matrix = io.BytesIO()
    np.save(matrix, class_matrix.numpy(), allow_pickle=False)
    report(f"writing {out}")
    files = {"encoder.fp32.onnx": encoder, "head.fp32.onnx": head, CLASS_MATRIX: matrix.getvalue()}
    return write_bundle(out, manifest, files), parity

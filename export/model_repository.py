"""Write a bundle's encoder to a model repository of the Triton inference server."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from string import Template

from ..runtime.bundle import Bundle
from ..runtime.engines.backend import LARGEST_BATCH
from ..runtime.engines.choice import precision_for
from ..runtime.engines.triton import version_of
from ..runtime.errors import DferError, ParameterError
from ..runtime.storage import exchange

_DELAY = 2000  # µs that a request waits for others to share its batch

_CONFIG = Template("""\
$origin `dfer-run --provider triton://HOST:8000/$name` uses it.
name: "$name"
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: $largest
input [ { name: "frames" data_type: TYPE_UINT8 dims: [ $size, $size, 3 ] } ]
output [ { name: "features" data_type: TYPE_FP32 dims: [ $width ] } ]
dynamic_batching { max_queue_delay_microseconds: $delay }
instance_group [ { kind: KIND_AUTO } ]
model_warmup [$warmups
]
parameters { key: "bundle_digest" value { string_value: "$digest" } }
parameters { key: "precision" value { string_value: "$precision" } }
$accelerator""")

_WARMUP = Template("""
  {
    name: "batch of $batch"
    batch_size: $batch
    inputs { key: "frames" value { data_type: TYPE_UINT8 dims: [ $size, $size, 3 ] zero_data: true } }
  }""")

_TENSORRT = Template("""\
optimization { execution_accelerators {
  gpu_execution_accelerator [ { name: "tensorrt" parameters { key: "precision_mode" value: "$mode" } } ]
} }
""")


def write_repository(bundle: Bundle, folder: Path, precision: str = "auto", tensorrt: bool = False) -> Path:
    """Write the encoder as a model of the repository `folder`, which is created if needed; return the model's folder.

    The model is named after the bundle: align.dfer becomes align-encoder. An existing model of that name is replaced,
    atomically if the system supports it. precision: fp32, fp16 or int8, "auto" for the bundle's recommendation for a
    GPU. tensorrt: let the server build TensorRT engines of it, in that precision, when it loads the model.
    Raises ParameterError for a precision that the bundle does not have, DferError if the folder cannot be written,
    if another bundle's model has that name, and for a name without a Latin letter or digit.
    """
    if precision == "auto":
        precision = precision_for(bundle, "cuda")
    if precision not in bundle.manifest.precisions:
        held = ", ".join(bundle.manifest.precisions)
        raise ParameterError("precision", f"{bundle.path} has no encoder in {precision}; it has {held}")
    graph, _ = bundle.manifest.graphs(precision, "triton")
    target = place_of(bundle.path, folder)
    name = target.name
    try:
        folder.mkdir(exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
        try:
            version = aside / version_of(bundle.digest, precision)
            version.mkdir()
            (version / "model.onnx").write_bytes(bundle.read(graph))
            (aside / "config.pbtxt").write_text(_config(bundle, name, precision, tensorrt), encoding="utf-8")
            aside.chmod(0o755)  # the server may run as another user
            if target.exists():
                if not exchange(aside, target):
                    shutil.rmtree(target)
                    aside.rename(target)
            else:
                aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise DferError(f"{folder}: the model repository cannot be written: {error.strerror or error}") from error
    return target


def place_of(bundle: Path, folder: Path) -> Path:
    """Return where `write_repository` writes the model of a bundle, which need not exist yet.

    Raises DferError if that would fail because of the folder or the name.
    """
    above = folder if folder.exists() else folder.parent
    if not above.is_dir():
        raise DferError(f"{folder}: the model repository cannot be written: {above} is not a folder")
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", bundle.resolve().stem).strip("-")
    if not stem:
        raise DferError(f"{bundle}: models of Triton are called by Latin letters and digits; rename the bundle")
    target = folder / f"{stem}-encoder"
    if target.exists() and not _is_of(bundle, target):
        raise DferError(f"{target}: is there, and of another bundle; rename {bundle}, or move that away")
    return target


def _origin_of(bundle: Path) -> str:
    """Return the comment that names the bundle in a model's configuration."""
    return f"# Written by dfer-export from {json.dumps(bundle.resolve().name)[1:-1]}."


def _is_of(bundle: Path, model: Path) -> bool:
    """Return whether dfer-export wrote this model from a bundle of that name."""
    try:
        return (model / "config.pbtxt").read_text(encoding="utf-8").startswith(f"{_origin_of(bundle)} ")
    except (OSError, ValueError):
        return False


def _config(bundle: Bundle, name: str, precision: str, tensorrt: bool) -> str:
    manifest = bundle.manifest
    size = manifest.preprocessing.size
    return _CONFIG.substitute(
        name=name,
        origin=_origin_of(bundle.path),
        largest=LARGEST_BATCH,
        size=size,
        width=manifest.width,
        delay=_DELAY,
        warmups=",".join(_WARMUP.substitute(batch=batch, size=size) for batch in (1, LARGEST_BATCH)),
        digest=bundle.digest,
        precision=precision,
        accelerator=_TENSORRT.substitute(mode=precision.upper()) if tensorrt else "",
    )

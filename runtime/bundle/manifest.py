"""The manifest: a bundle's description of itself, in a file that is not trusted until all of it is checked."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DferError, ParameterError
from ..labels import name_fault
from ..storage import unique_keys
from .preprocessing import Preprocessing, real, whole

SCHEMA = 1
MANIFEST = "manifest.json"

_LARGEST = 16_000_000  # bytes of a manifest
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DEVICE = re.compile(r":[a-z]{1,20}\Z")  # of a provider: "openvino:gpu"; never in a file's name


@dataclass(frozen=True)
class Manifest:
    """A bundle's description of itself.

    method: name of the model family. classes: C names in the order of the probabilities.
    window: T, features per prediction. width: D of a feature. scale: 1/τ.
    precisions: per precision ("fp32"), its `files` ("encoder": file per provider, "default" for all others, which
        cannot run it if that is absent; "head"; "heads": per-provider replacements) and its figures: `parity` with the
        PyTorch model, the `gate` that it passed ("off": none), and both again by provider. "bf16" uses the FP32 file,
        computed in BF16 where a provider can.
    recommended: per provider, the fastest precision that passes its gate there, as measured at export.
    seconds, fps: video seconds per window and frames sampled per second, as used in training.
    temperature: divisor that calibrates the logits; `scale` and the head include it. unsure_below: confidence below
        which the label is not to be trusted, 0 for never.
    provenance: where it came from (checkpoint's sha256, versions, date).
    """

    method: str
    classes: tuple[str, ...]
    window: int
    width: int
    scale: float
    preprocessing: Preprocessing
    precisions: Mapping[str, Mapping[str, Any]]
    provenance: Mapping[str, Any]
    recommended: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 2.0
    fps: float = 8.0
    temperature: float = 1.0
    unsure_below: float = 0.0

    def encoders(self, precision: str) -> Mapping[str, str]:
        """Return the encoder's file name by provider, "default" for the others; older bundles do not list it."""
        files = self.precisions[precision].get("files", {})
        return files.get("encoder", {}) or {"default": f"encoder.{precision}.onnx"}

    def graphs(self, precision: str, provider: str) -> tuple[str, str]:
        """Return the file names of encoder and head for a precision on a provider; ParameterError if there are none."""
        files = self.precisions[precision].get("files", {})
        encoders = self.encoders(precision)
        encoder = encoders.get(provider) or encoders.get("default")
        if encoder is None:
            where = " or ".join(encoders)
            raise ParameterError("precision", f"{precision} of this bundle is for provider {where}, not for {provider}")
        return encoder, files.get("heads", {}).get(provider) or files.get("head", "head.fp32.onnx")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as in the file, without `schema`, `files` and `sha256`."""
        return {
            "method": self.method,
            "classes": list(self.classes),
            "window": self.window,
            "width": self.width,
            "scale": self.scale,
            "preprocessing": self.preprocessing.to_json(),
            "sampling": {"seconds": self.seconds, "fps": self.fps},
            "confidence": {"temperature": self.temperature, "unsure_below": self.unsure_below},
            "precisions": self.precisions,
            "recommended": self.recommended,
            "provenance": self.provenance,
        }


def seal(manifest: Manifest, files: Mapping[str, bytes]) -> bytes:
    """Return the file's content: the manifest, size and sha256 of the bundle's other files, and a sha256 of it all."""
    listed = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    content = {"schema": SCHEMA, **manifest.to_json(), "files": listed}
    content["sha256"] = _content_digest(content)
    return (json.dumps(content, indent=2) + "\n").encode()


def read_manifest(file: Path) -> tuple[Manifest, dict[str, tuple[int, str]]]:
    """Read the manifest from a regular file; return it, and size and sha256 of every listed file by name.

    Raises DferError, naming the bundle's folder, for a manifest that is damaged, newer, or implausible.
    """
    try:
        content = _load(file)
        return _parse(content), _listed(content["files"])
    except DferError as error:
        raise DferError(f"bundle {file.parent}: {error}") from error


def plain_name(name: object) -> bool:
    """Return whether it may name a bundle's file or a precision: letters, digits, ".", "_" and "-"."""
    return isinstance(name, str) and _PLAIN.fullmatch(name) is not None and ".." not in name


def _names_provider(name: object) -> bool:
    return isinstance(name, str) and plain_name(_DEVICE.sub("", name))


def _load(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _LARGEST:
            raise DferError(f"{MANIFEST} is larger than {_LARGEST // 1_000_000} MB")
        content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
        digest = _content_digest(content) if isinstance(content, dict) else ""
    except (OSError, ValueError, RecursionError) as error:
        raise DferError(f"{MANIFEST} cannot be read ({str(error)[:200]})") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is int and schema > SCHEMA:
        raise DferError(f"schema {schema} is newer than this dfer-edge reads ({SCHEMA}); upgrade dfer-edge")
    if type(schema) is not int or schema != SCHEMA or not isinstance(content.get("files"), dict):
        raise DferError(f"{MANIFEST} is not a bundle's manifest")
    if content.get("sha256") != digest:
        raise DferError(f"{MANIFEST} is not the one that was exported (sha256 differs); copy or export it again")
    return dict(content)


def _content_digest(content: Mapping[str, Any]) -> str:
    """Return the sha256 of a manifest's values in canonical form, without its own digest."""
    values = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _listed(files: dict[str, Any]) -> dict[str, tuple[int, str]]:
    listed: dict[str, tuple[int, str]] = {}
    for name, entry in files.items():
        if not plain_name(name):
            raise DferError(f"the manifest names {name[:80]!r}, which is not a file in the folder")
        try:
            listed[name] = whole(entry["size"], 0, 1 << 40), str(entry["sha256"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DferError(f"manifest lists {name} without size and sha256") from error
    return listed


def _parse(content: dict[str, Any]) -> Manifest:
    sampling, confidence = content.get("sampling", {}), content.get("confidence", {})
    try:
        manifest = Manifest(
            method=_plain(content["method"]),
            classes=_classes(content["classes"]),
            window=whole(content["window"], 1, 4096),
            width=whole(content["width"], 1, 65_536),
            scale=real(content["scale"], 1e-6, 1e6),
            preprocessing=Preprocessing.from_json(content["preprocessing"]),
            precisions=_precisions(content["precisions"]),
            provenance=dict(content["provenance"]),
            recommended={name: _plain(value) for name, value in content.get("recommended", {}).items()},
            seconds=real(sampling.get("seconds", 2.0), 1e-3, 60),
            fps=real(sampling.get("fps", 8.0), 1e-3, 240),
            temperature=real(confidence.get("temperature", 1.0), 1e-6, 100),
            unsure_below=real(confidence.get("unsure_below", 0.0), 0, 1),
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DferError(f"bad or missing field in {MANIFEST}: {str(error)[:200]}") from error
    if manifest.window * manifest.width > 1 << 22:
        raise DferError(f"a window of {manifest.window} features of {manifest.width} numbers is absurd")
    for provider, precision in manifest.recommended.items():
        if not _names_provider(provider):
            raise DferError(f"{MANIFEST} recommends {precision} for {provider[:70]!r}, which is no provider's name")
        if precision not in manifest.precisions:
            raise DferError(f"{MANIFEST} recommends {precision} for {provider}, which it does not hold")
    return manifest


def _precisions(value: Any) -> dict[str, Mapping[str, Any]]:
    for name, entry in value.items():
        files = entry.get("files", {})
        encoders, heads, gate = files.get("encoder", {}), files.get("heads", {}), entry.get("gate", "off")
        named = [name, gate, *encoders.values(), *heads.values(), files.get("head", "head.fp32.onnx")]
        known = all(map(plain_name, named)) and all(map(_names_provider, (*encoders, *heads)))
        if not known or not isinstance(entry.get("providers", {}), dict):
            raise TypeError(f"precision {name[:40]!r} is described by what is no name")
    if not 1 <= len(value) <= 16:
        raise ValueError("no precision, or more than 16")
    return dict(value)


def _classes(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 10_000:
        raise TypeError("classes must be a list of 1 to 10,000 names")
    for name in value:
        if fault := name_fault(name):
            raise ValueError(f"class name {str(name)[:70]!r} {fault}")
    if len(set(value)) < len(value):
        raise ValueError("two classes have one name")
    return tuple(value)


def _plain(value: Any) -> str:
    if not plain_name(value):
        raise ValueError(f"{str(value)[:70]!r} is no plain name")
    return str(value)

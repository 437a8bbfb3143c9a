"""The bundle: the folder that export writes and the runtime reads. Everything in it is checked before it is used."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DferError, ParameterError
from .preprocessing import Preprocessing

SCHEMA = 1
MANIFEST = "manifest.json"
CLASS_MATRIX = "class_matrix.npy"
DEMO = Path(__file__).parents[1] / "assets" / "demo.dfer"


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    method: name of the model family. classes: C names in the order of the probabilities.
    window: T, features per prediction. width: D of a feature. scale: 1/τ.
    precisions: per precision ("fp32"), its `files` ("encoder": file by provider, "default" for the others, without
        which there are no others; "head") and its figures: `parity` with the PyTorch model, the `gate` that it passed
        ("off": none), the same by provider. "bf16" is the FP32 file, computed so where a provider can.
    recommended: per provider, the fastest precision that passes its gate there, as measured at export.
    seconds, fps: the video behind a window and the frames sampled per second, as the model was trained for them.
    temperature: by which logits were divided so that probabilities are calibrated; `scale` has it already, and so has
        the head. unsure_below: confidence under which the label is not to be trusted, 0 for never.
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

    def graphs(self, precision: str, provider: str) -> tuple[str, str]:
        """Names of the encoder's and the head's file for a precision on a provider; DferError if not for it."""
        files = self.precisions[precision].get("files", {})
        encoders = files.get("encoder", {}) or {"default": f"encoder.{precision}.onnx"}
        encoder = encoders.get(provider) or encoders.get("default")
        if encoder is None:
            where = " or ".join(encoders)
            raise ParameterError("precision", f"{precision} of this bundle is for provider {where}, not for {provider}")
        return encoder, files.get("head", "head.fp32.onnx")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, as `Bundle.open` returns it. digests: sha256 of every listed file, by name."""

    path: Path
    manifest: Manifest
    digests: Mapping[str, str]

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Verify the folder `path`: schema, fields, file names, sizes and sha256.

        Raises DferError, in one line, for the first thing that is wrong.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise DferError(f"bundle {folder}: no such folder")
        content = _read_manifest(folder)
        manifest = _parse(folder, content)
        digests: dict[str, str] = {}
        for name, entry in content["files"].items():
            file = _inside(folder, name)
            try:
                size, digest = int(entry["size"]), str(entry["sha256"])
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise DferError(f"bundle {folder}: manifest lists {name} without size and sha256") from error
            if file.stat().st_size != size or _sha256(file) != digest:
                raise DferError(
                    f"bundle {folder}: {name} is not the file that was exported (sha256 differs); copy it again"
                )
            digests[name] = digest
        for name in (*_named_graphs(manifest), CLASS_MATRIX):
            if name not in digests:
                raise DferError(f"bundle {folder}: the manifest lists no {name}")
        return cls(folder, manifest, digests)

    @property
    def digest(self) -> str:
        """sha256 of the manifest that lies there now, which holds those of all other files: the bundle's identity.

        Raises DferError when it cannot be read.
        """
        try:
            return _sha256(self.path / MANIFEST)
        except OSError as error:
            raise DferError(f"bundle {self.path}: {MANIFEST} cannot be read ({error.strerror})") from error

    def read(self, name: str) -> bytes:
        """The bytes of a listed file, checked once more so that what was verified is what is loaded."""
        data = (self.path / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.digests[name]:
            raise DferError(f"bundle {self.path}: {name} changed while it was being read")
        return data

    def class_matrix(self) -> NDArray[np.float32]:
        """Float32 [C,D], L2-normalised text features: the numbers folded into the head."""
        matrix = np.load(io.BytesIO(self.read(CLASS_MATRIX)), allow_pickle=False)
        return np.asarray(matrix, dtype=np.float32)


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle and open it; an existing one is replaced as a whole, and stays whole if anything fails.

    Raises DferError when the folder is missing, is something else than a bundle, or cannot be written.
    """
    if not path.parent.is_dir():
        raise DferError(f"folder {path.parent} does not exist")
    if path.exists() and not (path / MANIFEST).is_file():
        raise DferError(f"{path} exists and is not a bundle; name another output")
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "method": manifest.method,
        "classes": list(manifest.classes),
        "window": manifest.window,
        "width": manifest.width,
        "scale": manifest.scale,
        "preprocessing": manifest.preprocessing.to_json(),
        "sampling": {"seconds": manifest.seconds, "fps": manifest.fps},
        "confidence": {"temperature": manifest.temperature, "unsure_below": manifest.unsure_below},
        "files": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
        },
        "precisions": manifest.precisions,
        "recommended": manifest.recommended,
        "provenance": manifest.provenance,
    }
    content["sha256"] = _content_digest(content)
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            fresh, old = aside / "new", aside / "old"
            fresh.mkdir()
            for name, data in files.items():
                (fresh / name).write_bytes(data)
            (fresh / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            Bundle.open(fresh)
            if path.exists():
                path.replace(old)
            try:
                fresh.replace(path)
            except BaseException:
                if old.exists():
                    old.replace(path)
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise DferError(f"cannot write bundle {path}: {error.strerror or error}") from error
    return Bundle.open(path)


def _content_digest(content: Mapping[str, Any]) -> str:
    """sha256 of a manifest's values in canonical form, its own digest left out."""
    values = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DferError(f"bundle {folder}: no {MANIFEST}; is this a bundle?") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DferError(f"bundle {folder}: {MANIFEST} cannot be read ({error})") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise DferError(
            f"bundle {folder}: schema {schema} is newer than this dfer-edge reads ({SCHEMA}); upgrade dfer-edge"
        )
    if schema != SCHEMA or not isinstance(content.get("files"), dict):
        raise DferError(f"bundle {folder}: {MANIFEST} is not a bundle's manifest")
    if content.get("sha256") != _content_digest(content):
        raise DferError(
            f"bundle {folder}: {MANIFEST} is not the one that was exported (sha256 differs); copy or export it again"
        )
    return dict(content)


def _parse(folder: Path, content: dict[str, Any]) -> Manifest:
    try:
        manifest = Manifest(
            method=str(content["method"]),
            classes=_names(content["classes"]),
            window=int(content["window"]),
            width=int(content["width"]),
            scale=float(content["scale"]),
            preprocessing=Preprocessing.from_json(content["preprocessing"]),
            precisions=_precisions(content["precisions"]),
            provenance=dict(content["provenance"]),
            recommended={str(name): str(value) for name, value in content.get("recommended", {}).items()},
            seconds=float(content.get("sampling", {}).get("seconds", 2.0)),
            fps=float(content.get("sampling", {}).get("fps", 8.0)),
            temperature=float(content.get("confidence", {}).get("temperature", 1.0)),
            unsure_below=float(content.get("confidence", {}).get("unsure_below", 0.0)),
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DferError(f"bundle {folder}: bad or missing field in {MANIFEST}: {error}") from error
    if not manifest.classes or not manifest.precisions or min(manifest.window, manifest.width) < 1:
        raise DferError(f"bundle {folder}: {MANIFEST} needs classes, a precision, and positive window and width")
    sampled = 0 < manifest.seconds <= 60 and 0 < manifest.fps <= 240
    if not (sampled and 0 < manifest.temperature <= 100 and 0 <= manifest.unsure_below <= 1):
        raise DferError(f"bundle {folder}: {MANIFEST} has impossible sampling or confidence")
    for provider, precision in manifest.recommended.items():
        if precision not in manifest.precisions:
            raise DferError(
                f"bundle {folder}: {MANIFEST} recommends {precision} for {provider}, which it does not hold"
            )
    return manifest


def _precisions(value: Any) -> dict[str, Mapping[str, Any]]:
    for name, entry in value.items():
        files = entry.get("files", {})
        named = [*files.get("encoder", {}).values(), files.get("head", "")]
        if not all(isinstance(file, str) for file in named):
            raise TypeError(f"{name} names files that are no names")
    return dict(value)


def _named_graphs(manifest: Manifest) -> Iterator[str]:
    """Every graph that some precision needs on some provider."""
    for precision, entry in manifest.precisions.items():
        for provider in entry.get("files", {}).get("encoder", {}) or ("default",):
            yield from manifest.graphs(precision, provider)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"{value!r} is not a list of names")
    return tuple(value)


def _inside(folder: Path, name: str) -> Path:
    """The file `name` of the folder; refuses names that are not plain, and links that lead elsewhere."""
    if PurePosixPath(name).name != name or "\\" in name or name in (".", ".."):
        raise DferError(f"bundle {folder}: the manifest names {name!r}, which is not a file in the folder")
    file = folder / name
    try:
        if file.is_symlink() and file.resolve().parent != folder.resolve():
            raise DferError(f"bundle {folder}: {name} is a link that leads out of the folder")
        if file.is_file():
            return file
    except (OSError, RuntimeError, ValueError) as error:  # names too long, links in a circle, zero bytes
        raise DferError(f"bundle {folder}: {name[:80]!r} cannot be read ({error})") from error
    raise DferError(f"bundle {folder}: {name} is missing")


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        digest = hashlib.sha256()
        while block := data.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

"""Engines of a bundle on disk: in this user's cache, never in the bundle, and which of them may be loaded."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from ..bundle import Bundle
from ..errors import DferError
from ..machine import cache_folder
from ..storage import atomic_write, locked
from .building import BuiltEngine

INDEX = "index.json"
SCHEMA = 1
KEPT = 16


@dataclass(frozen=True)
class EngineKey:
    """What an engine holds for: it is used for exactly this and for nothing near it.

    graph: name of the ONNX file in the bundle ("encoder.fp16.onnx": part and precision). graph_sha256: its content.
    product, version: the TensorRT that built it. target: "sm86" with TensorRT-RTX, else the GPU's name.
    """

    graph: str
    graph_sha256: str
    product: str
    version: str
    target: str

    @property
    def file(self) -> str:
        """Plain file name, the same for the same key; nothing in it can lead out of the folder."""
        return f"{_plain(self.graph.removesuffix('.onnx'))}.{self.machine}.engine"

    @property
    def runtime_cache(self) -> str:
        """File name of what TensorRT-RTX compiled for the engine."""
        return f"{self.file.removesuffix('.engine')}.runtime-cache"

    @property
    def timing_cache(self) -> str:
        """File name of TensorRT's timings, which all graphs that it builds for a GPU share."""
        return f"{self.machine}.timing-cache"

    @property
    def machine(self) -> str:
        """Product, version and target as a file name's part."""
        return ".".join(map(_plain, (self.product, self.version, self.target)))


class EngineStore:
    """The engines built for one bundle.

    folder: `cache_folder()`/engines/ and the sha256 of the bundle's manifest. An engine is native code, so nothing that
    came with a bundle is ever loaded as one: engines lie where only this user's programs write. There a file is loaded
    only if index.json records its sha256 for the key asked for, which carries that of the graph; both are checked
    before TensorRT sees a byte. This tells a damaged or stale engine.

    Those of the `KEPT` bundles that were built for last are kept. Raises DferError where there is no cache folder.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._manifest = bundle.digest
        try:
            self.folder = cache_folder() / "engines" / self._manifest
        except OSError as error:
            raise DferError(f"engines cannot be kept: {error.strerror}") from error

    def find(self, key: EngineKey) -> bytes | None:
        """The engine's verified bytes; None when none was built for this key.

        Raises DferError when the file is not the one that was built.
        """
        record = self._records().get(key.file)
        if not isinstance(record, dict) or record.get("key") != asdict(key):
            return None
        data = self._read(key.file)
        if data is None:
            return None
        if record | _digest(data) != record:
            raise DferError(
                f"{self.folder / key.file} is not the engine that was built for this bundle (sha256 differs) and was "
                "not loaded; delete it to have it built again"
            )
        return data

    def find_or_build(
        self, key: EngineKey, build: Callable[[bytes], BuiltEngine], waiting: Callable[[], object] = lambda: None
    ) -> tuple[bytes, float | None]:
        """The engine for `key`, and how many seconds building took, None if it was there.

        build: called with the timing cache of earlier builds, at most once however many processes ask at the same time.
        waiting: called when another process is building and this one has to wait for it.
        An exception in `build` leaves the folder as it was. Raises DferError like `find`, and when the folder cannot
        be written.
        """
        if (found := self.find(key)) is not None:
            return found, None
        with self._writing(waiting):
            if (found := self.find(key)) is not None:
                return found, None
            built = build(self._verified(key.timing_cache))
            files = {key.file: built.data}
            if built.timing_cache is not None:
                files[key.timing_cache] = built.timing_cache
            self._add(files, {key.file: {"key": asdict(key), "seconds": round(built.seconds, 2)}})
        return built.data, built.seconds

    def runtime_cache(self, key: EngineKey) -> bytes:
        """What TensorRT-RTX compiled for the engine in earlier runs; empty where nothing is kept, or it was changed."""
        return self._verified(key.runtime_cache)

    def keep_runtime_cache(self, key: EngineKey, compiled: bytes) -> None:
        """Keep what TensorRT-RTX compiled; as native as the engine, and recorded like it. DferError as above."""
        with self._writing():
            self._add({key.runtime_cache: compiled})

    @contextmanager
    def _writing(self, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
        """The folder, with nobody else writing to it and nothing left over of who was killed while writing."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            with locked(self.folder / ".lock", waiting):
                for left_over in self.folder.glob(".*.part.*"):
                    left_over.unlink()
                yield
        except OSError as error:
            raise DferError(
                f"cannot write engines to {self.folder}: {error.strerror or error}; set XDG_CACHE_HOME to a folder "
                "that you may write to"
            ) from error

    def _add(self, files: Mapping[str, bytes], notes: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> None:
        """Write files, and what the index says of them: their digests, and `notes` by name."""
        records = self._records()
        for name, data in files.items():
            self._write(name, data)
            records[name] = {**notes.get(name, {}), **_digest(data)}
        index = {"schema": SCHEMA, "manifest_sha256": self._manifest, "files": records}
        self._write(INDEX, (json.dumps(index, indent=2) + "\n").encode())  # last: what it names is there
        with suppress(OSError):  # another process sweeps, too
            for old in sorted(self.folder.parent.glob(f"*/{INDEX}"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
                shutil.rmtree(old.parent)

    def _records(self) -> dict[str, Any]:
        """What the index says, by file name; nothing when it is absent, damaged or of another bundle."""
        try:
            index = json.loads(self._read(INDEX) or b"{}")
        except (ValueError, RecursionError):
            return {}
        ours = {"schema": SCHEMA, "manifest_sha256": self._manifest}
        if not isinstance(index, dict) or index | ours != index:
            return {}
        files = index.get("files")
        return files if isinstance(files, dict) else {}

    def _verified(self, name: str) -> bytes:
        """A file that only saves time, if it is what was written here; else nothing."""
        data = self._read(name) or b""
        return data if self._records().get(name) == _digest(data) else b""

    def _read(self, name: str) -> bytes | None:
        file = self.folder / name
        if self.folder.is_symlink() or file.is_symlink():
            raise DferError(f"{file} is, or lies behind, a link and was not read; engines are kept in the cache itself")
        try:
            return file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DferError(f"{file} cannot be read: {error.strerror or error}") from error

    def _write(self, name: str, data: bytes) -> None:
        with atomic_write(self.folder / name, durable=True) as aside:
            aside.write_bytes(data)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


def _digest(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

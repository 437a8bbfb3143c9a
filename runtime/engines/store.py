"""The store of a bundle's engines, in the user's cache and never in the bundle; decides which may be loaded."""

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
    """Identifies an engine, which is only used for an exactly equal key.

    graph: name of the ONNX file in the bundle ("encoder.fp16.onnx": part and precision). graph_sha256: of its content.
    product, version: the TensorRT that built it. target: "sm86" with TensorRT-RTX, else the GPU's name.
    """

    graph: str
    graph_sha256: str
    product: str
    version: str
    target: str

    @property
    def file(self) -> str:
        """File name, deterministic for a key; nothing in it can lead out of the folder."""
        return f"{_plain(self.graph.removesuffix('.onnx'))}.{self.machine}.engine"

    @property
    def runtime_cache(self) -> str:
        """File name of what TensorRT-RTX compiled for the engine."""
        return f"{self.file.removesuffix('.engine')}.runtime-cache"

    @property
    def timing_cache(self) -> str:
        """File name of TensorRT's timing cache, shared by all graphs built for a GPU."""
        return f"{self.machine}.timing-cache"

    @property
    def machine(self) -> str:
        """Product, version and target as part of a file name."""
        return ".".join(map(_plain, (self.product, self.version, self.target)))


class EngineStore:
    """The engines built for one bundle.

    folder: `cache_folder()`/engines/ and the sha256 of the bundle's manifest. An engine is native code, so none that
    came with a bundle is ever loaded: engines are kept where only this user's programs write. A file is loaded only if
    index.json lists its sha256 for the requested key, which includes the graph's; both are checked before TensorRT sees
    a byte. This detects damaged and stale engines.

    Only the `KEPT` bundles last built for keep their engines. Raises DferError if there is no cache folder.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._manifest = bundle.digest
        try:
            self.folder = cache_folder() / "engines" / self._manifest
        except OSError as error:
            raise DferError(f"engines cannot be kept: {error.strerror}") from error

    def find(self, key: EngineKey) -> bytes | None:
        """Return the engine's verified bytes; None if none was built for this key.

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
        """Return the engine for `key`, and the build time in seconds, None if it was there.

        build: called with the timing cache of earlier builds, at most once however many processes need the engine.
        waiting: called if this process has to wait for another one that is building. An exception in `build` leaves the
        folder unchanged. Raises DferError like `find`, and when the folder cannot be written.
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
        """Return what TensorRT-RTX compiled for the engine in earlier runs; empty if missing or modified."""
        return self._verified(key.runtime_cache)

    def keep_runtime_cache(self, key: EngineKey, compiled: bytes) -> None:
        """Store what TensorRT-RTX compiled; it is native code like the engine, and verified like it. DferError as
        above."""
        with self._writing():
            self._add({key.runtime_cache: compiled})

    @contextmanager
    def _writing(self, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Lock the folder against other writers, and remove leftovers of killed ones."""
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
        """Write files and their index entries: their digests, and `notes` by name."""
        records = self._records()
        for name, data in files.items():
            self._write(name, data)
            records[name] = {**notes.get(name, {}), **_digest(data)}
        index = {"schema": SCHEMA, "manifest_sha256": self._manifest, "files": records}
        self._write(INDEX, (json.dumps(index, indent=2) + "\n").encode())  # last: all files it names exist
        with suppress(OSError):  # another process may clean up, too
            for old in sorted(self.folder.parent.glob(f"*/{INDEX}"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
                shutil.rmtree(old.parent)

    def _records(self) -> dict[str, Any]:
        """Return the index entries by file name; none if the index is missing, damaged or of another bundle."""
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
        """Return a cache file if it is what was written here; else nothing, which only costs time."""
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

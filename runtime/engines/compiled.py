"""Cache of graphs compiled by providers, for faster starts."""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import time

from ..machine import cache_folder

KEPT = 16
"""Compiled graphs kept per provider."""

_ASIDE = "writing-"
_LONG = 3600.0  # seconds after which a writer counts as dead


def folder_for(provider: str, graph: str = "") -> Path | None:
    """Return a cache folder for a provider; None if there can be none, and every process compiles again.

    graph: uses a subfolder per graph, of which the `KEPT` most recently used are kept.
    """
    try:
        folder = cache_folder() / provider / graph
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        others = sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime) if graph else []
    except OSError:
        return None
    for old in others[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)  # another process may clean up, too
    return folder


@dataclass(frozen=True)
class CompiledGraph:
    """A cached compiled graph: a small graph `file`, its weights beside it, and a checksum of both.

    Weights are memory-mapped: reading those of a truncated file would kill the process.
    """

    folder: Path
    name: str

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.onnx"

    def is_whole(self) -> bool:
        try:
            return self.file.is_file() and _checksum(self.folder, self.name) == self._sums.read_text()
        except (OSError, ValueError):
            return False

    @contextmanager
    def written(self) -> Iterator[Path]:
        """Yield the path to write the graph to; on exit it replaces the cached one."""
        for left in self.folder.glob(f"{_ASIDE}*"):  # left by killed writers
            if time() - left.stat().st_mtime > _LONG:
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_ASIDE, dir=self.folder) as aside:
            yield Path(aside) / self.file.name
            with suppress(OSError):  # disk full, or (on Windows) files in use: then it is compiled each time
                sums = _checksum(Path(aside), self.name)
                for old in _parts(self.folder, self.name):
                    old.unlink()
                for part in _parts(Path(aside), self.name):
                    part.replace(self.folder / part.name)
                self._sums.write_text(sums)

    @property
    def _sums(self) -> Path:
        return self.folder / f"{self.name}.crc32"


def _checksum(folder: Path, name: str) -> str:
    sums = []
    for part in _parts(folder, name):
        with part.open("rb") as data:
            value = 0
            while block := data.read(1 << 20):
                value = zlib.crc32(block, value)
        sums.append(f"{part.name} {value:08x}")
    return " ".join(sums)


def _parts(folder: Path, name: str) -> list[Path]:
    return sorted(part for part in folder.glob(f"{name}[._]*") if part.suffix != ".crc32")

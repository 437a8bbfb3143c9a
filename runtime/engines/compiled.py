"""What providers compiled, kept in the user's cache for the next start."""

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
"""How many graphs' compiled forms a provider keeps."""

_ASIDE = "writing-"
_LONG = 3600.0  # seconds after which nobody writes any more


def folder_for(provider: str, graph: str = "") -> Path | None:
    """A folder for what a provider compiles; None where there can be none, and every process compiles anew.

    graph: a folder of its own for each; those of the `KEPT` that were used last are kept.
    """
    try:
        folder = cache_folder() / provider / graph
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        others = sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime) if graph else []
    except OSError:
        return None
    for old in others[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)  # another process sweeps, too
    return folder


@dataclass(frozen=True)
class CompiledGraph:
    """What a plug-in compiled, kept in a folder: a small graph `file`, its weights beside it, and a checksum of both.

    Weights are mapped into memory: reading those of a truncated file would kill the process.
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
        """The path to write the graph to; what was written there takes the place of what is kept."""
        for left in self.folder.glob(f"{_ASIDE}*"):  # by who was killed
            if time() - left.stat().st_mtime > _LONG:
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_ASIDE, dir=self.folder) as aside:
            yield Path(aside) / self.file.name
            with suppress(OSError):  # no room, or in use, which matters on Windows: then it is compiled each time
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

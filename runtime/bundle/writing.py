"""Write a bundle atomically: completely or not at all, replacing an older one in one step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import DferError
from ..storage import exchange, flush, locked
from .bundle import Bundle, beside, bring_back
from .manifest import MANIFEST, Manifest, seal


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write, verify and open a bundle. An existing one is replaced as a whole and never left incomplete.

    Waits for other writers of the same bundle. Where the system cannot swap folders (all but Linux), a writer killed
    between two renames leaves the old bundle aside; the next to write or open it restores it.
    Raises DferError when the parent folder is missing, when `path` is not a bundle, or when it cannot be written.
    """
    if not path.parent.is_dir():
        raise DferError(f"folder {path.parent} does not exist")
    try:
        with _place_aside(path) as aside:
            if path.exists() and not (path / MANIFEST).is_file():
                raise DferError(f"{path} exists and is not a bundle; name another output")
            fresh = aside / "new"
            fresh.mkdir()
            for name, data in {**files, MANIFEST: seal(manifest, files)}.items():
                (fresh / name).write_bytes(data)
                flush(fresh / name)
            flush(fresh)
            Bundle.open(fresh).verify()
            _replace(path, fresh, aside / "old")
            flush(path.parent)
    except OSError as error:
        raise DferError(f"cannot write bundle {path}: {error.strerror or error}") from error
    return Bundle.open(path)


@contextmanager
def _place_aside(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, locked for this process; leftovers of killed writers are removed."""
    lock, aside = beside(path, "lock"), beside(path, "writing")
    with locked(lock):
        bring_back(path)
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            with suppress(OSError):  # on Windows, releasing the lock deletes the file
                lock.unlink()


def _replace(path: Path, fresh: Path, old: Path) -> None:
    if not path.exists():
        fresh.replace(path)
    elif not exchange(fresh, path):
        path.replace(old)
        try:
            fresh.replace(path)
        except BaseException:
            old.replace(path)
            raise

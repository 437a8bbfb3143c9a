"""Files that are whole or absent: written aside, then renamed; locks that end with their holder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DferError


@contextmanager
def atomic_write(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A path beside `path`, with its suffix, to write to; renamed to `path` when the body is done, removed if it fails.

    durable: the bytes are on the disk before the name is, at the price of a wait: for what cost hours to compute.
    Raises DferError, naming `path`, when it cannot be written.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "report.txt"
    >>> with atomic_write(target) as aside:
    ...     _ = aside.write_text("done")
    >>> target.read_text()
    'done'
    """
    aside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield aside
        if durable:
            _flush(aside)
        aside.replace(path)
        if durable:
            _flush(path.parent)
    except OSError as error:
        if error.filename not in (None, aside, str(aside), path, str(path)):
            raise
        raise DferError(f"{path}: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

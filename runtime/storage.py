"""Atomic file writes (to a temporary file, then renamed) and locks that end with their holder."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import DferError


@contextmanager
def atomic_write(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a path beside `path`, with its suffix, to write to. It is renamed to `path` on success, removed on failure.

    A symbolic link is kept and its target is written; pipes and devices such as /dev/stdout are written directly.
    durable: flush data, then name, to disk before returning; slower, for results that took hours to compute.
    Raises DferError, naming `path`, when it cannot be written.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "report.txt"
    >>> with atomic_write(target) as aside:
    ...     _ = aside.write_text("done")
    >>> target.read_text()
    'done'
    """
    direct = is_special(path)
    target = Path(os.path.realpath(path))
    aside = path if direct else target.with_name(f".{target.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield aside
        if not direct:
            if durable:
                flush(aside)
            aside.replace(target)
            if durable:
                flush(target.parent)
    except OSError as error:
        if error.filename is not None and str(error.filename) not in map(str, (aside, target, path)):
            raise
        raise DferError(f"{path}: {error.strerror or error}") from error
    finally:
        if not direct:
            aside.unlink(missing_ok=True)


def check_writable(path: Path, *, aside: bool = False) -> None:
    """Raise DferError for a file that could not be written, before hours are spent. aside: it will be written by
    `atomic_write`, which needs write access to its folder."""
    if not path.parent.is_dir():
        raise DferError(f"{path}: folder {path.parent} does not exist")
    if path.is_dir():
        raise DferError(f"{path} is a folder; name a file")
    itself = is_special(path) or (path.exists() and not aside)
    if not os.access(path if itself else Path(os.path.realpath(path)).parent, os.W_OK):
        raise DferError(f"{path}: no permission to write there")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, as `object_pairs_hook`. Raises ValueError for a repeated key, which parsers interpret
    differently."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{name} is there twice")
        values[name] = value
    return values


def is_special(path: Path) -> bool:
    """Return whether `path` is a pipe or a device, which cannot be replaced by renaming a file onto it."""
    try:
        kind = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))


@contextmanager
def locked(path: Path, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path`, which is created if needed and stays, against other processes and threads.

    waiting: called if this one has to wait for another holder. The system releases the lock however the holder ends.
    Raises OSError when the file cannot be created.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        waiting()
        held = lock.acquire()
    with held:
        yield


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Reserve the output `path` against this user's other runs; no lock file is left beside it.

    Raises DferError when another run holds it.
    """
    from filelock import FileLock, Timeout

    user = os.getuid() if hasattr(os, "getuid") else ""  # another user's lock file could not be opened
    key = hashlib.sha256(f"{user}\0".encode() + os.fsencode(path.resolve())).hexdigest()[:32]
    try:
        with FileLock(Path(tempfile.gettempdir()) / f"dfer-output-{key}.lock", blocking=False):
            yield
    except Timeout as error:
        raise DferError(f"{path}: another run is writing it; wait for that one, or name another file") from error


def flush(path: Path) -> None:
    """Wait until a file, or a folder's entries, are on disk; on Windows, which cannot flush folders, only files."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def exchange(first: Path, second: Path) -> bool:
    """Swap two files or folders of one file system atomically, so that both names always exist; Linux only.

    Returns False, having changed nothing, if the system or the file system does not support it. Raises OSError.
    """
    import ctypes

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(here, os.fsencode(first), here, os.fsencode(second), ctypes.c_uint(swap)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def readable(path: str | os.PathLike[str]) -> str:
    """Return a path as text for display and result files; bytes that are not UTF-8 become "\\xe9"."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")

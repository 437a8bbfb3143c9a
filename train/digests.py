"""Cached digests of clips and lists of their damaged pictures; digests of weights."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..runtime.errors import DferError
from ..runtime.machine import cache_folder
from ..runtime.sources import open_source, read_image
from ..runtime.storage import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T", str, list[str], list[int])
_PIECE = 1 << 20  # bytes
_SETTLED = 2_000_000_000  # ns after which another change of a file is sure to alter its ctime


def content_digests(clips: Sequence[Sequence[Path]]) -> list[str]:
    """Return a digest of each clip's content: of the bytes of its files, in order, independent of their paths.

    Reading all files takes minutes for a large data set, so digests are cached in `cache_folder()`/digests. They are
    valid as long as each of a clip's files has the same path, size, inode, mtime and ctime. No program can set the
    ctime, so a file that is rewritten in place and given its old mtime is read again.
    Raises OSError for a file that cannot be read, DferError if the cache cannot be written.
    """
    return _compute_once("digests", clips, _content)


def damaged_pictures(
    clips: Sequence[Sequence[Path]], progress: Callable[[int, int], object] = lambda done, total: None
) -> list[list[str]]:
    """Return, for each clip (a sequence of picture files), the names of the pictures that cannot be decoded.

    Decoding a million pictures takes minutes. progress: called with the number of clips done, and the total.
    Clips without damage are cached like digests, in `cache_folder()`/pictures.
    Raises DferError if the cache cannot be written.
    """
    return _compute_once("pictures", clips, _damaged, progress, lambda names: not names)


def picture_sizes(
    pictures: Sequence[Path], progress: Callable[[int, int], object] = lambda done, total: None
) -> list[list[int]]:
    """Return the width and height of each picture, [] of one that cannot be decoded; else as `damaged_pictures`."""
    return _compute_once("sizes", [[picture] for picture in pictures], _size, progress, bool)


def film_sizes(films: Sequence[Path]) -> list[list[int]]:
    """Return the width and height of each video's first frame, [] if it cannot be read; else as `picture_sizes`."""
    return _compute_once("film-sizes", [[film] for film in films], _film_size, lasting=bool)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the sha256 of names and values of tensors, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def plain_option(value: Any) -> Any:
    """Return an option as a plain value for checkpoints and state files; for a file, the sha256 of its content."""
    if not isinstance(value, Path):
        return value
    return hashlib.sha256(value.read_bytes()).hexdigest() if value.is_file() else str(value)


def _compute_once(
    kind: str,
    clips: Sequence[Sequence[Path]],
    compute: Callable[[Sequence[Path]], T],
    progress: Callable[[int, int], object] = lambda done, total: None,
    lasting: Callable[[T], bool] = lambda value: True,
) -> list[T]:
    """Return `compute` of each clip's files, cached while they are unchanged; `lasting` says which values to cache."""
    states = [_state(files) for files in clips]
    places = hashlib.sha256("\n".join(str(files[0]) for files in clips).encode(errors="surrogateescape")).hexdigest()
    cache = cache_folder() / kind / f"{places[:32]}.json"
    kept = _read_cache(cache)
    values: dict[int, T] = {index: kept[state] for index, (state, _) in enumerate(states) if state in kept}
    unknown = [index for index in range(len(clips)) if index not in values]
    if unknown:
        settled = time.time_ns() - _SETTLED
        pool = ThreadPoolExecutor()  # reading, hashing and decoding release the GIL
        try:
            for index, value in zip(unknown, pool.map(compute, (clips[index] for index in unknown)), strict=True):
                values[index] = value
                progress(len(values), len(clips))
        finally:
            pool.shutdown(cancel_futures=True)
        cache.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(cache) as aside:
            keep = {
                state: values[index]
                for index, (state, changed) in enumerate(states)
                if changed < settled and lasting(values[index])
            }
            aside.write_text(json.dumps(keep), encoding="utf-8")
    return [values[index] for index in range(len(clips))]


def _state(files: Sequence[Path]) -> tuple[str, int]:
    """Return a digest of the metadata of a clip's files, and their latest ctime (ns)."""
    digest, changed = hashlib.sha256(), 0
    for file in files:
        try:
            stat = file.stat()
        except (OSError, ValueError) as error:  # a broken link; a name with a null byte
            digest.update(f"{file.absolute()}\0{error}\0".encode(errors="surrogateescape"))
            continue
        found = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        digest.update(f"{file.absolute()}\0{found}\0".encode(errors="surrogateescape"))
        changed = max(changed, stat.st_ctime_ns)
    return digest.hexdigest(), changed


def _content(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.stat().st_size}\0".encode())
        with file.open("rb") as opened:
            while piece := opened.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()


def _damaged(files: Sequence[Path]) -> list[str]:
    return [file.name for file in files if read_image(file) is None]


def _size(files: Sequence[Path]) -> list[int]:
    image = read_image(files[0])
    return [] if image is None else [image.shape[1], image.shape[0]]


def _film_size(files: Sequence[Path]) -> list[int]:
    try:
        with open_source(files[0]) as source:
            return next(([frame.image.shape[1], frame.image.shape[0]] for frame in source), [])
    except DferError:
        return []


def _read_cache(path: Path) -> dict[str, Any]:
    """Return cached values by state; empty if the file is missing or damaged, so that all are computed anew."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

"""Digests of clips and which of their pictures are damaged, computed once and cached; digests of weights."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..runtime.machine import cache_folder
from ..runtime.sources import read_image
from ..runtime.storage import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T", str, list[str])
_PIECE = 1 << 20  # bytes
_SETTLED = 2_000_000_000  # ns after which another change of a file shows in its time of change


def content_digests(clips: Sequence[Sequence[Path]]) -> list[str]:
    """A digest of the content of each clip, given as its files in order: of their bytes alone, wherever they lie.

    Every byte is read, which for a large data set takes minutes, but once only: digests are kept in
    `cache_folder()`/digests for as long as each of a clip's files has the same place, size, inode, and times of
    modification and of change. The last no program can set, so a file that is rewritten in place and given its old
    time of modification is read again.
    Raises OSError for a file that cannot be read, DferError when the digests cannot be kept.
    """
    return _compute_once("digests", clips, _content)


def damaged_pictures(
    clips: Sequence[Sequence[Path]], progress: Callable[[int, int], object] = lambda done, total: None
) -> list[list[str]]:
    """Of each clip, given as the files of its pictures, the names of those that cannot be read.

    Every picture is decoded, which for a million takes minutes: `progress` hears how many clips are done, of how many.
    Clips without damage are remembered as digests are, in `cache_folder()`/pictures.
    Raises DferError when that cannot be kept.
    """
    return _compute_once("pictures", clips, _damaged, progress, lambda names: not names)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """sha256 over names and values of tensors, in the names' order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def plain_option(value: Any) -> Any:
    """An option as checkpoints and state files can hold it; of a file what it says, not where it lies."""
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
    """`compute` of each clip's files, or what it gave before for these files; `lasting` says which to remember."""
    states = [_state(files) for files in clips]
    places = hashlib.sha256("\n".join(str(files[0]) for files in clips).encode(errors="surrogateescape")).hexdigest()
    cache = cache_folder() / kind / f"{places[:32]}.json"
    kept = _read_cache(cache)
    values: dict[int, T] = {index: kept[state] for index, (state, _) in enumerate(states) if state in kept}
    unknown = [index for index in range(len(clips)) if index not in values]
    if unknown:
        settled = time.time_ns() - _SETTLED
        pool = ThreadPoolExecutor()  # reading, hashing and decoding let go of the interpreter
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
    """Digest of all that the file system says about a clip's files, and when any of them changed last (ns)."""
    digest, changed = hashlib.sha256(), 0
    for file in files:
        try:
            stat = file.stat()
        except (OSError, ValueError) as error:  # a link that leads nowhere; a name with a null byte
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


def _read_cache(path: Path) -> dict[str, Any]:
    """Values by state; none where the file is absent or not whole: then all are computed anew."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

"""Image features of clips, computed once and stored: a frozen image encoder is needed only here."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import nn

from ...runtime.errors import ParameterError
from ...runtime.storage import atomic_write
from ..digests import weights_digest
from ..methods import Method
from . import WINDOW, ClipSet, labels_of, shares_of
from .augmentation import AUGMENTATIONS, plain_view

DIGEST = "features.sha256"
"""The file with the digest of a complete store."""

_FLUSH_EVERY = 2.0  # seconds of work that an interruption may cost


@dataclass(frozen=True)
class FeatureSet:
    """Features of a clip set under several views.

    features: float16 [V,N,T,D], memory-mapped; view 0 is the test view, the others are augmented.
    rows: int64 [n], the clips of `features` that belong to this set.
    labels: int64 [n], indices into the method's classes. names: n names of the clips.
    shares: float32 [n,C], soft targets in the method's order, or None.
    """

    features: NDArray[np.float16]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    names: Sequence[str]
    shares: NDArray[np.float32] | None = None

    def part(self, indices: NDArray[np.int64]) -> FeatureSet:
        """Return a subset of the clips over the same stored features."""
        names = [self.names[index] for index in indices]
        shares = None if self.shares is None else self.shares[indices]
        return FeatureSet(self.features, self.rows[indices], self.labels[indices], names, shares)


@dataclass(frozen=True)
class Extraction:
    """How features are computed.

    views: augmented views besides the test view. augmentation: a key of `augmentation.AUGMENTATIONS`.
    batch: clips encoded together. window: frames of each clip, T; 1 for sets of single frames.
    rank, world: index and number of processes; each encodes every world-th batch into the shared store.
    precision: of the image encoder, "fp32", "bf16" or "fp16"; features are stored as float16 in any case.
    """

    views: int = 4
    augmentation: str = "strong"
    seed: int = 0
    batch: int = 4
    window: int = WINDOW
    rank: int = 0
    world: int = 1
    precision: str = "fp32"


def stored_features(
    folder: Path,
    method: Method,
    clips: ClipSet,
    settings: Extraction = Extraction(),
    progress: Callable[[int], object] = lambda _: None,
    wait: Callable[[], object] = lambda: None,
) -> FeatureSet:
    """Return the features of `clips`, read from the store in `folder` or computed into it.

    The store's name is a digest of the data, the image encoder and its weights, the preprocessing and the views, so
    that it is never used for anything else. An interrupted extraction resumes where it stopped; a complete store is
    checked against a digest of its bytes.

    progress: called with the number of clips in each finished batch. wait: a barrier for all processes.
    Raises ParameterError if the folder cannot be written, the disk is full or the store is damaged.
    """
    key = _key(method, clips, settings)
    store = folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    shape = (1 + settings.views, len(clips), settings.window, method.width)
    try:
        if settings.rank == 0 and not (store / "features.npy").is_file():
            _make_store(store, shape, key)
        wait()
        features = _open(store / "features.npy", shape, np.dtype(np.float16))
        done = _open(store / "done.npy", shape[1:2], np.dtype(np.bool_))
        if settings.rank == 0:
            _check_digest(store)
    except (OSError, ValueError) as error:
        raise ParameterError("features", f"store {store}: {error}; remove it or name another folder") from error
    _fill(features, done, method, clips, settings, progress)
    wait()
    if settings.rank == 0 and not (store / DIGEST).is_file():
        with atomic_write(store / DIGEST) as aside:
            aside.write_text(_sha256(store / "features.npy") + "\n")
    features = open_memmap(store / "features.npy", mode="r")
    labels, shares = labels_of(clips, method.classes), shares_of(clips, method.classes)
    return FeatureSet(features, np.arange(len(clips)), labels, clips.names, shares)


def _make_store(store: Path, shape: tuple[int, ...], key: dict[str, Any]) -> None:
    """Create empty arrays; `features.npy` comes last, so its presence shows that all files are there."""
    store.mkdir(parents=True, exist_ok=True)
    (store / "made-from.json").write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
    (store / DIGEST).unlink(missing_ok=True)
    open_memmap(store / "done.npy", mode="w+", dtype=np.bool_, shape=shape[1:2]).flush()
    part = store / "part.npy"
    open_memmap(part, mode="w+", dtype=np.float16, shape=shape).flush()
    _claim(part)
    part.rename(store / "features.npy")


def _claim(path: Path) -> None:
    """Allocate the disk space of a sparse file: writing to a memory map on a full disk kills the process.

    Raises OSError, which says how much is needed, if there is no room.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    size = path.stat().st_size
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                return  # the file system does not support it
            path.unlink()
            raise OSError(f"{size / 1e9:.1f} GB are needed, and the disk has less") from error


def _open(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Open an array of a store to read and write. Raises ValueError if its size, shape or dtype is wrong."""
    size = path.stat().st_size  # before it is opened, which would extend a short file
    array = open_memmap(path, mode="r")
    if (array.shape, array.dtype) != (shape, dtype) or size != array.offset + array.nbytes:
        raise ValueError(f"{path.name} is damaged: {size} bytes of {array.dtype} {array.shape}")
    del array
    return open_memmap(path, mode="r+")


def _check_digest(store: Path) -> None:
    """Raise ValueError if a complete store has changed."""
    if (store / DIGEST).is_file() and (store / DIGEST).read_text().strip() != _sha256(store / "features.npy"):
        raise ValueError("features.npy is damaged: its digest is another")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            digest.update(part)
    return digest.hexdigest()


@torch.inference_mode()
def _fill(
    features: np.memmap[Any, np.dtype[np.float16]],
    done: np.memmap[Any, np.dtype[np.bool_]],
    method: Method,
    clips: ClipSet,
    settings: Extraction,
    progress: Callable[[int], object],
) -> None:
    size = method.preprocessing.size
    for module in method.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # CPUs need a quarter less time
    device = next(method.parameters()).device
    half = torch.float16 if settings.precision == "fp16" else torch.bfloat16
    starts = range(settings.rank * settings.batch, len(clips), settings.world * settings.batch)
    fresh: list[slice] = []
    flushed = monotonic()
    for start in starts:
        rows = slice(start, min(start + settings.batch, len(clips)))
        if not done[rows].all():
            for view in range(1 + settings.views):
                frames = np.stack([stored_view(clips, index, view, size, settings) for index in _indices(rows)])
                if (frames == frames[:, :1]).all():  # photographs: encode one frame of each
                    frames = frames[:, :1]
                with torch.autocast(device.type, half, enabled=settings.precision != "fp32"):
                    encoded = method.encode_frames(torch.from_numpy(frames).flatten(0, 1).to(device))
                features[view, rows] = encoded.unflatten(0, frames.shape[:2]).half().cpu().numpy()
            fresh.append(rows)
        if fresh and (monotonic() - flushed > _FLUSH_EVERY or start == starts[-1]):
            features.flush()
            for finished in fresh:  # marked done only after the features are flushed
                done[finished] = True
            done.flush()
            fresh.clear()
            flushed = monotonic()
        progress(len(_indices(rows)))


def stored_view(clips: ClipSet, index: int, view: int, size: int, settings: Extraction) -> NDArray[np.uint8]:
    """Return pixels [T,size,size,3] of the view of clip `index` whose features are stored; view 0 is as in the runtime.

    Every other view depends only on its number, the clip's index and the seed; at another size it shows the same crop.
    """
    if view == 0:
        return plain_view(clips.frames(index), size)
    rng = np.random.default_rng([settings.seed, view, index])
    return AUGMENTATIONS[settings.augmentation](clips.frames(index, rng), size, rng, clips.jitter).frames


def _indices(rows: slice) -> range:
    return range(rows.start, rows.stop)


def _key(method: Method, clips: ClipSet, settings: Extraction) -> dict[str, Any]:
    config = method.config()
    precision = {} if settings.precision == "fp32" else {"precision": settings.precision}  # stores of before stay valid
    return precision | {
        "data": clips.fingerprint,
        "clips": len(clips),
        "encoder": weights_digest(method.image_encoder.state_dict()),
        "architecture": [config.get(name) for name in ("clip", "tower")],  # GELU and QuickGELU have the same weights
        "preprocessing": method.preprocessing.to_json(),
        "method": method.name,
        "views": settings.views,
        "augmentation": settings.augmentation,
        "seed": settings.seed,
    }

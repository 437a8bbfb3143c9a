"""Damaged files by the thousand, read in a process of their own: `python mutants.py KIND COUNT ORIGINAL`.

Prints how many were read and refused, and every fault, as JSON. A crash ends the process, and so does a hang of a
minute; the file that it was at then lies in place of ORIGINAL in the folder `mutant` beside ORIGINAL's.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import random
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

SEED, HANG = 7, 60.0


def mutate(data: bytes, draw: random.Random) -> bytes:
    """One to four bytes changed, put in or taken out; or cut off, or a stretch of it zeroed or repeated.

    Half of the places are in the first or last kilobyte, where containers keep what they know.
    """
    changed = bytearray(data)

    def place() -> int:
        size = len(changed)
        anywhere, near = draw.randrange(size), draw.randrange(min(size, 1024))
        return draw.choice([anywhere, anywhere, near, size - 1 - near])

    kind = draw.randrange(8)
    if kind == 5:
        del changed[place() :]
    elif kind == 6:
        start = place()
        stretch = min(draw.randrange(1, 4096), len(changed) - start)
        changed[start : start + stretch] = bytes(stretch)
    elif kind == 7:
        start = place()
        changed[start:start] = changed[start : start + draw.randrange(1, 4096)]
    else:
        for _ in range(draw.randint(1, 4)):
            if not changed:
                break
            where, edit = place(), draw.randrange(4)
            if edit == 0:
                del changed[where]
            elif edit == 1:
                changed.insert(where, draw.randrange(256))
            else:
                changed[where] = draw.randrange(256) if edit == 2 else changed[where] ^ 1 << draw.randrange(8)
    return bytes(changed)


def read_pictures(path: Path, original: Path) -> None:
    """A video or image, all frames of it, at most 500."""
    import numpy as np

    from dfer.runtime.sources import open_source

    told: list[str] = []
    latest = -1.0
    with open_source(path, warn=told.append) as source:
        for frame in source:
            image = frame.image
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, image.shape
            assert np.isfinite(frame.time) and frame.time > latest, f"{frame.time} s after {latest} s"
            latest = frame.time
            if frame.index > 500:
                break
    assert latest >= 0, "neither a picture nor an error"
    assert all(line.isprintable() for line in told), told


def read_bundle(path: Path, original: Path) -> None:
    """A bundle whose manifest was changed: whatever is taken must be what was exported."""
    from dfer.runtime.bundle import Bundle

    assert Bundle.open(path.parent).manifest == Bundle.open(original.parent).manifest, "another manifest was believed"


def read_sealed(path: Path, original: Path) -> None:
    """A bundle as an exporter of such manifests would write it, with a fitting digest."""
    from dfer.runtime.bundle import Bundle

    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        content.pop("sha256", None)
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        content["sha256"] = hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()
        path.write_text(json.dumps(content))
    Bundle.open(path.parent).verify()


def read_boxes(path: Path, original: Path) -> None:
    from dfer.runtime.faces.boxes import read_boxes

    read_boxes(path, ["clip.mp4"])


def read_labels(path: Path, original: Path) -> None:
    from dfer.train.data.stills import StillClips

    StillClips(path, "train", max_missing=1)


def read_list(path: Path, original: Path) -> None:
    from dfer.runtime.labels import EXPRESSIONS
    from dfer.train.data.lists import read_dfer_clip

    read_dfer_clip(path, EXPRESSIONS)


def read_checkpoint(path: Path, original: Path) -> None:
    """Weights that are believed must be those that were written."""
    import torch

    from dfer.train.checkpoints.checkpoint import load_checkpoint

    method, _ = load_checkpoint(path)
    wanted = load_checkpoint(original)[0].state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in method.state_dict().items()), "other weights"


def read_weights(path: Path, original: Path) -> None:
    from dfer.train.models.clip import load_clip

    load_clip("dfer-nano", str(path))


READERS: dict[str, Callable[[Path, Path], None]] = {
    **dict.fromkeys(("mp4", "mkv", "gif", "jpg", "png"), read_pictures),
    "bundle": read_bundle,
    "sealed": read_sealed,
    "boxes": read_boxes,
    "labels": read_labels,
    "list": read_list,
    "checkpoint": read_checkpoint,
    "safetensors": read_weights,
}


def main(kind: str, count: int, original: Path) -> None:
    from dfer.runtime.errors import DferError

    data = original.read_bytes()
    path = original.parents[1] / "mutant" / original.name
    refused, faults = 0, []
    for number in range(count):
        path.write_bytes(mutate(data, random.Random(SEED + number)))
        faulthandler.dump_traceback_later(HANG, exit=True)
        try:
            READERS[kind](path, original)
        except DferError as error:
            refused += 1
            if not str(error).isprintable():
                faults.append(f"{number}: more than a line: {error!r}")
        except Exception:
            faults.append(f"{number}: {traceback.format_exc(limit=-3)}")
        faulthandler.cancel_dump_traceback_later()
    print(json.dumps({"read": count - refused - len(faults), "refused": refused, "faults": faults}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))

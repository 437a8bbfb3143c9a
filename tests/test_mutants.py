"""Thousands of damaged files of every kind that people hand over: none crashes, hangs, ends in a traceback or is
believed. A fixed seed; `pytest -m long` reads ten thousand of most."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import mutants
from dfer.runtime.bundle import DEMO

HEADER = "source,frame,time_s,track,x,y,w,h\n"


def picture(number: int = 0) -> np.ndarray:
    """Something between flat and noise, 64×48."""
    grey = np.add.outer(np.arange(48) * 3, np.arange(64) * 2) + 7 * number
    return np.stack([grey % 256, (grey // 2) % 256, (255 - grey) % 256], axis=-1).astype(np.uint8)


def film(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), "rgb24")))
        container.mux(stream.encode())


def animation(path: Path) -> None:
    moving = cv2.Animation()
    moving.frames, moving.durations = [picture(number) for number in range(4)], np.array([40, 80, 40, 120])
    assert cv2.imwriteanimation(str(path), moving)


def still(path: Path) -> None:
    assert cv2.imwrite(str(path), picture())


def bundle(path: Path) -> None:
    shutil.copytree(DEMO, path.parent, dirs_exist_ok=True)


def boxes(path: Path) -> None:
    path.write_text(HEADER + "".join(f"clip.mp4,{n},{n / 25},1,{n},2.5,30,40\n" for n in range(20)))


def labels(path: Path) -> None:
    for number in range(4):
        still(path.with_name(f"{number}.png"))
    names = ("happiness", "fear", "anger", "neutral")
    path.write_text(
        "image,label,person,split\n" + "".join(f"{n}.png,{name},p{n},train\n" for n, name in enumerate(names))
    )


def clip_list(path: Path) -> None:
    path.write_text("".join(f"faces/{number:05} {10 + number} {number % 7}\n" for number in range(20)))


def checkpoint(path: Path) -> None:
    from dfer.train.checkpoints.checkpoint import save_checkpoint
    from dfer.train.methods.align_dfer import AlignDfer
    from dfer.train.models.clip import load_clip

    save_checkpoint(AlignDfer(load_clip("dfer-nano"), tokens=2, video_layers=1), path, {})


def weights(path: Path) -> None:
    from dfer.train.models.clip import load_clip, save_weights
    from dfer.train.pretraining import description_tokens

    clip = load_clip("dfer-nano")
    save_weights(clip, path, description_tokens(clip))


FILES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "mp4": ("m.mp4", film),
    "mkv": ("m.mkv", film),
    "gif": ("m.gif", animation),
    "jpg": ("m.jpg", still),
    "png": ("m.png", still),
    "bundle": ("manifest.json", bundle),
    "sealed": ("manifest.json", bundle),
    "boxes": ("boxes.csv", boxes),
    "labels": ("labels.csv", labels),
    "list": ("list.txt", clip_list),
    "checkpoint": ("m.pt", checkpoint),
    "safetensors": ("m.safetensors", weights),
}


LARGE = {"checkpoint": 50, "safetensors": 50}
"""Kinds of which a file takes fifty times as long, a tenth of a second."""


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        *((kind, 40) for kind in FILES if kind not in LARGE),
        *(pytest.param(kind, 10_000, marks=pytest.mark.long) for kind in FILES),
    ],
)
def test_damaged_files_are_read_or_refused(tmp_path: Path, kind: str, count: int) -> None:
    name, make = FILES[kind]
    count //= LARGE.get(kind, 1)
    (tmp_path / "original").mkdir()
    make(tmp_path / "original" / name)
    shutil.copytree(tmp_path / "original", tmp_path / "mutant")
    command = [sys.executable, mutants.__file__, kind, str(count), str(tmp_path / "original" / name)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"ended with {done.returncode} at {tmp_path / 'mutant' / name}: {done.stderr[-2000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["faults"] == []
    assert found["read"] + found["refused"] == count
    assert found["refused"] > 0

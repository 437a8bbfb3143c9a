"""A corpus of small videos, and workers that crash where they are told to."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import pytest

from dfer.runtime.procedural.demo import film_demo
from dfer.runtime.sources import open_source

POISON = """
import os
from dfer.runtime.cli.corpus import unit
opened = unit._open
def _open(segment, settings, warnings):
    if "poison_huge" in segment.source:
        raise MemoryError
    if "poison" in segment.source:
        os.kill(os.getpid(), 9)
    return opened(segment, settings, warnings)
unit._open = _open
"""


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo clip, 14 s with two people, with a key frame every second and pictures that refer to later ones."""
    folder = tmp_path_factory.mktemp("film")
    film_demo(folder / "demo.mp4")
    path = folder / "film.mp4"
    with open_source(folder / "demo.mp4") as source, av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24, options={"g": "24", "bf": "2", "qscale": "3"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for frame in source:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.image, "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def clips(film: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four parts of it, of two seconds each, in folders, and a file that is no video."""
    root = tmp_path_factory.mktemp("clips")
    with open_source(film) as source:
        pictures = [frame.image for frame in source]
    for number in range(4):
        place = root / f"day{number % 2}" / f"clip{number}.mp4"
        place.parent.mkdir(exist_ok=True)
        with av.open(str(place), "w") as container:
            stream = container.add_stream("mpeg4", rate=24)
            stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
            for picture in pictures[number * 72 : number * 72 + 48]:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
    (root / "broken.mp4").write_bytes(b"not a video")
    return root


@pytest.fixture
def poison(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus with a video at which every worker process dies, and one for which none has memory enough."""
    root = tmp_path / "videos"
    shutil.copytree(clips, root)
    for name in ("poison.mp4", "poison_huge.mp4"):
        shutil.copy(root / "day0" / "clip0.mp4", root / "day0" / name)
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(POISON)
    monkeypatch.setenv("PYTHONPATH", str(hooks), prepend=":")
    return root

"""Every option reaches what it is for: a parameter that is added to one side only fails here."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dfer.runtime import RunOptions, run
from dfer.runtime.bundle import DEMO
from dfer.runtime.errors import DferError
from dfer.runtime.recognizer import Recognizer
from dfer.runtime.sources import Frame, Source, open_sources

FOR_RECOGNIZER: dict[str, Any] = {
    "bundle": DEMO,
    "provider": "cpu",
    "precision": "fp32",
    "threads": 3,
    "window": 1.5,
    "fps": 5.0,
    "max_faces": 2,
    "min_face": 50,
    "detect_every": 4,
    "smooth": 0.3,
    "classes": {"neutral": None},
    "neutral_prior": 0.4,
    "unsure": 0.2,
}
FOR_SOURCES: dict[str, Any] = {
    "size": (640, 480),
    "camera_fps": 15.0,
    "reconnect_tries": 7,
    "photos": True,
    "hwaccel": "cuda",
}


class Camera(Source):
    name, rate, count, live = "camera", None, None, True

    def __iter__(self) -> Iterator[Frame]:
        return iter(())


def test_every_option_reaches_the_recognizer_and_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((60, 80, 3), np.uint8))
    taken: dict[str, dict[str, Any]] = {}

    def open_recorded(*given: Any, **named: Any) -> list[Source]:
        taken["sources"] = signature(open_sources).bind(*given, **named).arguments
        return [Camera()]

    def recognizer(*given: Any, **named: Any) -> None:
        taken["recognizer"] = signature(Recognizer).bind(*given, **named).arguments
        raise DferError("enough is known")

    monkeypatch.setattr("dfer.runtime.cli.runner.open_sources", open_recorded)
    monkeypatch.setattr("dfer.runtime.cli.runner.Recognizer", recognizer)
    options = RunOptions([tmp_path], **FOR_RECOGNIZER, **FOR_SOURCES)
    with pytest.raises(DferError, match="enough is known"):
        run(options)
    assert callable(taken["recognizer"].pop("warn")) and callable(taken["sources"].pop("warn"))
    assert taken["recognizer"] == FOR_RECOGNIZER
    renamed = {"camera_fps": "fps"}
    expected = {renamed.get(name, name): value for name, value in FOR_SOURCES.items()}
    assert taken["sources"] == {"specs": [tmp_path], "image_rate": FOR_RECOGNIZER["fps"], **expected}


def test_no_option_of_either_is_missing_above() -> None:
    of_run = {one.name: one.default for one in fields(RunOptions)}
    assert FOR_RECOGNIZER.keys() == signature(Recognizer).parameters.keys() - {"warn"}
    assert {*FOR_SOURCES, "fps"} - {"camera_fps"} == signature(open_sources).parameters.keys() - {
        *("specs", "image_rate", "warn"),
    }
    for name, value in (FOR_RECOGNIZER | FOR_SOURCES).items():
        assert value != of_run[name], name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"csv": "own.csv", "boxes": "own.csv"}, "own.csv is an input; name another output"),
        ({"jsonl": "own.json", "classes": "own.json"}, "own.json is an input; name another output"),
        ({"out_dir": "out", "boxes": "out/face.csv"}, "out/face.csv is an input; name another folder"),
        ({"out_dir": "out", "csv": "out/face.csv"}, "two outputs have the name out/face.csv"),
        ({"out_dir": "out", "video": "out/face.mp4"}, "two outputs have the name out/face.mp4"),
    ],
)
def test_no_output_goes_over_another_or_over_what_is_read(
    options: dict[str, Any], words: str, face_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    Path("face.mp4").symlink_to(face_video)
    files = {Path("own.csv"): "frame,x,y,w,h\n0,1,1,90,90\n", Path("own.json"): "{}"}
    for path, content in (files | {Path("out/face.csv"): files[Path("own.csv")]}).items():
        path.write_text(content)
    with pytest.raises(DferError, match=words):
        run(RunOptions(["face.mp4"], provider="cpu", **options))
    assert {path: path.read_text() for path in files} == files


def test_photographs_have_no_plot_and_no_video(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    pictures = [tmp_path / "anna.png", tmp_path / "bert.png"]
    for path in pictures:
        cv2.imwrite(str(path), face_frames[0][..., ::-1])
    for options in ({"plot": tmp_path / "o.png"}, {"video": tmp_path / "o.mp4"}):
        for sources in (pictures[:1], pictures):
            with pytest.raises(DferError, match="photographs have no times; --out-dir writes annotated pictures"):
                run(RunOptions(sources, **options))
    assert sorted(tmp_path.iterdir()) == pictures


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are text")
def test_a_bundle_may_have_any_name(face_video: Path, tmp_path: Path) -> None:
    bundle = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xff.dfer"))
    shutil.copytree(DEMO, bundle)
    out = {"csv": tmp_path / "o.csv", "jsonl": tmp_path / "o.jsonl", "plot": tmp_path / "o.png"}
    run(RunOptions([face_video], bundle=bundle, provider="cpu", metrics=0, **out))
    assert r"d\\xff.dfer" in out["jsonl"].read_text()

"""Every option reaches what it is for: a parameter that is added to one side only fails here."""

from __future__ import annotations

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

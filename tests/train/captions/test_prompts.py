"""What to ask about clips: a line for each training clip, with frames that are there, and answers that can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from dfer.runtime.labels import EXPRESSIONS
from dfer.train.captions.clips import open_unlabelled
from dfer.train.captions.reading import read_captions
from dfer.train.cli.prepare import main
from dfer.train.data.choice import DataChoice
from helpers import write_video


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--caption-prompts"])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("options", "named"), [(["--size", 224], "--size"), (["--workers", 1], "--workers")])
def test_options_of_cutting_are_refused(faces: Path, tmp_path: Path, options: list[object], named: str) -> None:
    refused = ask(faces, tmp_path / "out.jsonl", *options)
    assert refused.exit_code == 1
    assert f"{named}: no effect with --caption-prompts" in refused.output
    assert not (tmp_path / "out.jsonl").exists()


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Clips of 3, 20 and 2 pictures in two splits, a video, and one that is none."""
    root, grey = tmp_path / "faces", np.full((48, 48, 3), 90, np.uint8)
    for clip, count in (("train/fear/short", 3), ("train/anger/long", 20), ("test/fear/kept", 2)):
        (root / clip).mkdir(parents=True)
        for number in range(count):
            cv2.imwrite(str(root / clip / f"{number}.png"), grey)
    write_video(root / "train" / "fear" / "film.mp4", [grey] * 40, 24)
    (root / "train" / "fear" / "broken.mp4").write_bytes(b"\0" * 100)
    return root


def test_training_clips_are_found_under_another_name_of_the_split(faces: Path, tmp_path: Path) -> None:
    (faces / "train").rename(faces / "Training")
    assert "3 clips to ask about, 1 unreadable" in ask(faces, tmp_path / "prompts.jsonl").output
    (faces / "Training" / "fear" / "broken.mp4").unlink()
    clips, splits = open_unlabelled(DataChoice("folder", faces), tmp_path / "out.pt", lambda *_: None, print, 64)
    assert len(clips) == 3 and splits["Training/fear/short"] == "train" and splits["test/fear/kept"] == "test"


def test_every_training_clip_of_a_folder_is_asked_about(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "prompts.jsonl"
    result = ask(faces, out)
    assert result.exit_code == 0, result.output
    assert "3 clips to ask about, 1 unreadable: train/fear/broken.mp4" in result.output
    found = {line["clip"]: line for line in lines(out)}
    assert set(found) == {"train/fear/short", "train/anger/long", "train/fear/film.mp4"}
    assert [Path(name).name for name in found["train/fear/short"]["frames"]] == ["0.png", "1.png", "2.png"]
    assert len(found["train/anger/long"]["frames"]) == 16
    assert all(Path(name).is_file() for name in found["train/anger/long"]["frames"])
    film = found["train/fear/film.mp4"]
    assert Path(film["video"]).is_file() and len(film["frames"]) == 16 and max(film["frames"]) < 40
    assert not any(name in line["prompt"] for line in found.values() for name in EXPRESSIONS)

    with out.open("w", encoding="utf-8") as answered:
        for line in found.values():
            answered.write(json.dumps({**line, "text": "the jaw drops"}) + "\n")
    assert set(read_captions(out, DataChoice("folder", faces).listed(), EXPRESSIONS).texts) == set(found)


def test_every_training_clip_of_a_table_is_asked_about_once(faces: Path, tmp_path: Path) -> None:
    table, out = faces / "mine.csv", tmp_path / "prompts.jsonl"
    rows = ["train/fear/short,fear,train,1", "train/fear/short,fear,train,2", "test/fear/kept,fear,test,"]
    table.write_text("\n".join(["clip,label,split,fold", *rows]) + "\n")
    assert ask(table, out).exit_code == 0
    assert [line["clip"] for line in lines(out)] == ["train/fear/short"]
    assert all(Path(name).is_file() for line in lines(out) for name in line["frames"])


def test_what_cannot_be_asked_about_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ((tmp_path / "empty", tmp_path / "x"), "holds neither videos"),
        ((tmp_path / "none", tmp_path / "x"), "no such folder"),
        ((tmp_path / "empty", tmp_path / "x", "--photos"), "--photos: captions tell how faces move"),
    ):
        result = ask(*arguments)
        assert result.exit_code == 1
        assert words in result.output
    assert not (tmp_path / "x").exists()


def test_answers_are_never_overwritten(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    out.write_text("hours of work")
    result = ask(faces, out)
    assert result.exit_code == 1
    assert "captions.jsonl exists, perhaps with answers in it" in result.output
    assert out.read_text() == "hours of work"

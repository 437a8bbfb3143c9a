"""CSV and JSONL: their columns, several sources in one file, and files that are whole whatever happens."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dfer.runtime.errors import DferError
from dfer.runtime.outputs.tables import CsvSink, JsonlSink, columns, csv_row, row_values
from dfer.runtime.predictions import Prediction
from helpers import run_command, step_of

CLASSES = ("joy", "calm", "fury, rage")


def prediction(source: str = "a.mp4", time: float = 0.0, track: int = 1, first: float = 0.7) -> Prediction:
    probabilities = np.array([first, 0.9 - first, 0.1], np.float32)
    return Prediction(source, round(24 * time), time, track, (10.04, 20, 30, 40), probabilities, CLASSES, "ready")


def test_rows_of_several_sources_share_a_csv(tmp_path: Path) -> None:
    sink = CsvSink(tmp_path / "o.csv", CLASSES)
    for source in ('a, "b".mp4', "rtsp://host/ü"):
        sink.write(step_of(prediction(source, 1.5)))
    sink.close()
    with (tmp_path / "o.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["source"] for row in rows] == ['a, "b".mp4', "rtsp://host/ü"]
    assert {name: rows[0][name] for name in ("frame", "time_s", "x", "label", "confidence", "fury, rage")} == {
        **{"frame": "36", "time_s": "1.5000", "x": "10.0", "label": "joy", "confidence": "0.7000"},
        "fury, rage": "0.1000",
    }
    entropy = -sum(p * math.log(p) for p in (0.7, 0.2, 0.1))
    assert float(rows[0]["entropy"]) == pytest.approx(entropy, abs=1e-3)
    whole = dict(zip(columns(CLASSES), row_values(prediction()), strict=True))
    assert (whole["confidence"], whole["entropy"]) == (pytest.approx(0.7), pytest.approx(entropy))


def test_the_jsonl_begins_with_what_its_rows_depend_on(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "o.jsonl", {"provider": "cpu", "sources": ["a.mp4"]})
    sink.write(step_of(replace(prediction(), quality=0.456)))
    sink.close()
    header, row = (json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines())
    assert header == {"schema": 2, "provider": "cpu", "sources": ["a.mp4"]}
    assert list(row["probabilities"]) == list(CLASSES)
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert row["confidence"] == row["probabilities"][row["label"]]
    assert row["box"] == [10.0, 20, 30, 40]
    assert (row["entropy"], row["quality"]) == (0.8018, 0.46)
    assert csv_row(replace(prediction(), quality=0.456)).endswith(",ready,0.46,\n")


def test_the_header_of_a_run_holds_the_settings_behind_its_rows(face_video: Path, tmp_path: Path) -> None:
    lines = tmp_path / "o.jsonl"
    given = {"smooth": 0.5, "unsure": 0.3, "neutral_prior": 0.4, "max_faces": 2, "min_face": 50, "detect_every": 4}
    options = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    result = run_command(face_video, "--rotate", 90, "--window", 1.5, "--fps", 12, "--jsonl", lines, *options)
    assert result.exit_code == 0, result.output
    header = json.loads(lines.read_text().splitlines()[0])
    assert {name: header[name] for name in (*given, "rotate")} == {**given, "rotate": 90}
    assert (header["window_s"], header["fps"]) == (1.5, 12)


def test_rows_name_the_image_where_there_is_one(tmp_path: Path) -> None:
    table, lines = CsvSink(tmp_path / "o.csv", CLASSES), JsonlSink(tmp_path / "o.jsonl", {})
    for sink in (table, lines):
        for one in (prediction("a", 0.0), replace(prediction("a", 0.1), file="b.jpg")):
            sink.write(step_of(one))
        sink.close()
    with (tmp_path / "o.csv").open(newline="", encoding="utf-8") as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["", "b.jpg"]
    rows = (tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    assert [json.loads(row)["file"] for row in rows] == [None, "b.jpg"]


def test_files_without_a_row_are_discarded_and_others_stay(tmp_path: Path) -> None:
    CsvSink(tmp_path / "o.csv", CLASSES).discard()
    JsonlSink(tmp_path / "o.jsonl", {}).discard()
    assert not list(tmp_path.iterdir())
    sink = CsvSink(tmp_path / "o.csv", CLASSES)
    sink.write(step_of(prediction()))
    sink.discard()
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 2


def test_a_table_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    for sink in (lambda path: CsvSink(path, CLASSES), lambda path: JsonlSink(path, {})):
        with pytest.raises(DferError, match=r"gone.o: cannot be written: No such file"):
            sink(tmp_path / "gone" / "o")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_the_device_alone(tmp_path: Path) -> None:
    with pytest.raises(DferError, match="/dev/full: No space left"):
        CsvSink(Path("/dev/full"), CLASSES)
    with pytest.raises(DferError, match="/dev/full: No space left"):
        JsonlSink(Path("/dev/full"), {})
    assert Path("/dev/full").exists()


FILLER = """
import resource, sys
from pathlib import Path
sys.path.insert(0, str(Path.cwd().parents[1]))
from helpers import step_of
from test_tables import CLASSES, CsvSink, DferError, prediction
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
sink = CsvSink(Path(sys.argv[1]), CLASSES)
try:
    for index in range(1000):
        sink.write(step_of(prediction(time=index / 8)))
except DferError as error:
    print(error, file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file sizes cannot be limited")
def test_a_row_that_found_room_for_a_part_of_it_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    ended = subprocess.run(
        [sys.executable, "-c", FILLER, path], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    assert ended.stderr.startswith(f"{path}: File too large")
    text = path.read_text()
    assert 4800 < len(text) <= 5000
    assert text.endswith("ready,,\n")


@pytest.mark.skipif(sys.platform == "win32", reason="file sizes cannot be limited")
def test_what_a_shell_appends_to_keeps_its_older_lines_when_the_disk_is_full(tmp_path: Path) -> None:
    path, older = tmp_path / "all.csv", "older\n" * 500
    path.write_text(older)
    with path.open("a") as file:
        ended = subprocess.run(
            [sys.executable, "-c", FILLER, "-"],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent,
        )
    assert ended.stderr.startswith("-: File too large")
    assert path.read_text().startswith(older + "source,frame,") and path.stat().st_size > 4800


WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, str(Path.cwd().parents[1]))
from helpers import step_of
from test_tables import CLASSES, CsvSink, JsonlSink, prediction
sinks = CsvSink(Path(sys.argv[1]), CLASSES), JsonlSink(Path(sys.argv[2]), {})
for index in range(500):
    for sink in sinks:
        sink.write(step_of(prediction(time=index / 8)))
print("written", flush=True)
time.sleep(60)
"""


def test_a_killed_run_leaves_every_row_that_was_written(tmp_path: Path) -> None:
    table, lines = tmp_path / "o.csv", tmp_path / "o.jsonl"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, table, lines], stdout=subprocess.PIPE, cwd=Path(__file__).parent
    )
    assert writer.stdout is not None and writer.stdout.readline() == b"written\n"
    os.kill(writer.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert len(table.read_text().splitlines()) == 501
    assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()[1:]] == list(range(0, 1500, 3))

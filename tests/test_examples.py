"""The example programs run as they stand, and say what is in the clip.

The notebook's code cells are executed in order in one namespace, as Jupyter would, but without Jupyter: its kernel
would bring two dozen packages to the tests. What a cell shows by ending with a value is therefore not looked at.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest

from helpers import rows_of, run_command

EXAMPLES = Path(__file__).parents[1] / "examples"
FRAMES, SECONDS = 96, 4  # of the clip


@pytest.fixture(scope="session")
def demo(demo_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `dfer-run --demo` leaves it, of a shorter clip."""
    folder = tmp_path_factory.mktemp("examples")
    left = folder / "demo-output"
    left.mkdir()
    (left / "clip.mp4").symlink_to(demo_clip)
    result = run_command(left / "clip.mp4", "--csv", left / "predictions.csv", "--quiet")
    assert result.exit_code == 0, result.output
    return folder


def run_example(name: str, folder: Path, *arguments: str) -> str:
    """What it prints."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_capture_loop_reads_what_dfer_run_reads_from_the_file(demo: Path) -> None:
    *changes, wrote = run_example("capture_loop.py", demo).splitlines()
    shown: dict[str, str] = {}
    expected = []
    for row in rows_of(demo / "demo-output" / "predictions.csv"):
        if shown.get(row["track"]) != row["label"]:
            expected.append((float(row["time_s"]), row["track"], row["label"]))
        shown[row["track"]] = row["label"]
    words = [line.replace(":", "").split() for line in changes]
    assert [(track, label) for _, _, _, track, label, _ in words] == [(track, label) for _, track, label in expected]
    # In INT8 the last digits depend on how many faces are encoded together: a change may come a sample sooner or later.
    assert [float(time) for time, *_ in words] == pytest.approx([time for time, *_ in expected], abs=0.131)
    assert {track for _, track, _ in expected} == {"1", "2"}
    assert wrote == "wrote captured.mp4"
    video = cv2.VideoCapture(str(demo / "captured.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES


def test_a_detector_of_ones_own_finds_the_people(demo: Path) -> None:
    lines = run_example("own_detector.py", demo).splitlines()
    labels = {(line.split()[0], line.split()[3]): line.rpartition(": ")[2] for line in lines}
    rows = rows_of(demo / "demo-output" / "predictions.csv")
    theirs = {(f"{float(row['time_s']):.2f}", row["track"]): row["label"] for row in rows}
    both = labels.keys() & theirs.keys()
    assert len(both) > 0.9 * len(theirs)
    assert sum(labels[key] == theirs[key] for key in both) > 0.8 * len(both)


def test_the_table_gives_mean_probabilities_per_person(demo: Path) -> None:
    text = run_example("read_table.py", demo)
    rows = [row for row in rows_of(demo / "demo-output" / "predictions.csv") if row["state"] == "ready"]
    head, _, *lines = text.splitlines()
    classes = head.split()
    told = {}
    for line in lines[:-1]:  # the last names the picture
        person, *means = line.split()[-1 - len(classes) :]
        told[person] = dict(zip(classes, map(float, means), strict=True))
    assert told.keys() == {"1", "2"}
    for person, means in told.items():
        own = [row for row in rows if row["track"] == person]
        own_means = {name: sum(float(row[name]) for row in own) / len(own) for name in classes}
        assert means == pytest.approx(own_means, abs=0.001)
    picture = cv2.imread(str(demo / "means.png"))
    assert picture is not None
    assert picture.std() > 20  # something is drawn


def test_a_table_without_rows_to_trust_is_told_so_in_a_line(demo: Path, tmp_path: Path) -> None:
    head, *lines = (demo / "demo-output" / "predictions.csv").read_text().splitlines()
    (tmp_path / "short.csv").write_text("\n".join([head, *(line for line in lines if ",warmup," in line)]))
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "read_table.py"), "short.csv"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("short.csv: no row is ready") and "shorter than the window" in line


def test_the_table_of_photographs_keeps_people_of_different_pictures_apart(
    face_frames: list[Any], tmp_path: Path
) -> None:
    for name in ("anna.png", "bert.png"):
        cv2.imwrite(str(tmp_path / name), face_frames[10][..., ::-1])
    assert run_command(f"{tmp_path}/*.png", "--csv", tmp_path / "album.csv", "--quiet").exit_code == 0
    assert [row["file"] for row in rows_of(tmp_path / "album.csv")] == ["anna.png", "bert.png"]
    lines = run_example("read_table.py", tmp_path, "album.csv").splitlines()
    assert [sum(name in line for line in lines) for name in ("anna.png", "bert.png")] == [1, 1]


def test_a_table_that_is_not_there_is_told_in_a_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "read_table.py")], cwd=tmp_path, capture_output=True, text=True
    )
    told = "demo-output/predictions.csv: no such file; dfer-run --demo makes one\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_an_example_without_its_clip_says_what_makes_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "capture_loop.py")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "dfer-run --demo makes a clip" in done.stderr


def test_the_notebook_draws_a_row_per_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_clip: Path) -> None:
    notebook = json.loads((EXAMPLES / "timeline.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells), "clear the outputs"
    (tmp_path / "demo.mp4").symlink_to(demo_clip)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
    axes = namespace["axes"][:, 0]
    assert [axis.get_ylabel() for axis in axes] == ["person 1", "person 2"]
    assert all(len(axis.collections) == len(namespace["classes"]) for axis in axes)  # an area per class
    assert namespace["seconds"].loc[1].sum() == pytest.approx(SECONDS, abs=0.2)


def test_examples_stay_small() -> None:
    for program in EXAMPLES.glob("*.py"):
        assert len(program.read_text(encoding="utf-8").splitlines()) <= 60, program

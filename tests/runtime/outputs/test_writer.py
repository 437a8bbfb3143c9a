"""The files of a run together: several sources, failures, what stays."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from dfer.runtime.errors import DferError
from dfer.runtime.outputs.writer import OutputPaths, Sinks, file_sinks
from dfer.runtime.predictions import Prediction, Step, VisibleFace
from dfer.runtime.sources import Frame
from dfer.runtime.timing import Stopwatch
from helpers import flat, run_command

CLASSES = ("happiness", "neutral")


def step(source: str, index: int, rate: float, size: tuple[int, int] = (120, 160)) -> Step:
    probabilities = np.array([0.75, 0.25], np.float32)
    prediction = Prediction(source, index, index / rate, 1, (40, 40, 40, 40), probabilities, CLASSES, "ready")
    face = VisibleFace(1, prediction.box, prediction)
    image = np.full((*size, 3), index, np.uint8)
    return Step(source, Frame(image, index, index / rate), (prediction,), (face,))


def frames_of(path: Path) -> list[tuple[int, ...]]:
    capture, shapes = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        shapes.append(read[1].shape[:2])
    return shapes


def outputs_in(folder: Path) -> OutputPaths:
    return OutputPaths(folder / "o.csv", folder / "o.jsonl", folder / "o.mp4", folder / "o.svg")


def test_a_file_has_one_writer_at_a_time(face_video: Path, tmp_path: Path) -> None:
    """Rows of two runs in one table could not be told apart."""
    paths = outputs_in(tmp_path)
    (tmp_path / "o.csv").write_text("rows of the other run\n")
    with paths.reserved(1), OutputPaths(tmp_path / "other.csv").reserved(1):
        result = run_command(face_video, "--csv", tmp_path / "o.csv")
        assert result.exit_code == 1
        assert "o.csv: another run is writing it" in flat(result.stderr)
        assert (tmp_path / "o.csv").read_text() == "rows of the other run\n"
        with pytest.raises(DferError, match="another run"), outputs_in(tmp_path).reserved(1):
            pass
    assert run_command(face_video, "--csv", tmp_path / "o.csv").exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"o.csv"}
    with OutputPaths(Path("/dev/null")).reserved(1), OutputPaths(Path("/dev/null")).reserved(1):
        pass


def test_several_sources_share_the_tables_and_have_a_video_each(tmp_path: Path) -> None:
    rates, sizes = {"a.mp4": 25.0, "camera 0": None}, {"a.mp4": (120, 160), "camera 0": (90, 60)}
    sinks = file_sinks(outputs_in(tmp_path), CLASSES, rates, Stopwatch(), lambda: {"sources": list(rates)})
    with Sinks(sinks) as outputs:
        for index in range(20):
            for source in ("camera 0", "a.mp4"):  # not in their order
                outputs.write(step(source, index, 25, sizes[source]))
    with (tmp_path / "o.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    objects = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert objects[0]["sources"] == ["a.mp4", "camera 0"]
    assert [row["source"] for row in rows] == [entry["source"] for entry in objects[1:]] == ["camera 0", "a.mp4"] * 20
    assert frames_of(tmp_path / "o-1.mp4") == [(120, 160)] * 20
    assert frames_of(tmp_path / "o-2.mp4") == [(90, 60)] * 20
    notes = outputs_in(tmp_path).describe(2, {})
    assert [note.split(" ")[0] for note in notes] == [
        str(tmp_path / name) for name in ("o.csv", "o.jsonl", "o-1.mp4", "o-2.mp4", "o.svg")
    ]
    assert notes[2].endswith(("(H.264)", "(MPEG-4)"))


def test_an_error_in_the_middle_leaves_what_was_written(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        Sinks(file_sinks(outputs_in(tmp_path), CLASSES, {"a": 25.0}, Stopwatch())) as outputs,
    ):
        for index in range(30):
            outputs.write(step("a", index, 25))
        raise RuntimeError
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 31
    assert len(frames_of(tmp_path / "o.mp4")) == 30
    assert not (tmp_path / "o.svg").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("name", ["o.csv", "o.jsonl", "o.mp4"])
def test_a_disk_that_is_full_for_one_output_ends_the_run_and_the_others_are_whole(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(DferError, match=name) as error:  # noqa: SIM117
        with Sinks(file_sinks(outputs_in(tmp_path), CLASSES, {"a": 25.0}, Stopwatch())) as outputs:
            for index in range(5000):
                outputs.write(step("a", index % 256, 25))
    assert "No space left" in str(error.value) and "\n" not in str(error.value)
    for other in {"o.csv", "o.jsonl"} - {name}:
        if (tmp_path / other).exists():
            assert (tmp_path / other).read_text().endswith("\n")
    assert (tmp_path / name).is_symlink()


def test_nothing_is_opened_before_the_first_frame(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Sinks(file_sinks(outputs_in(tmp_path), CLASSES, {"a": 25.0}, Stopwatch())):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_videos_of_several_sources_are_checked_by_their_own_names(tmp_path: Path) -> None:
    paths = OutputPaths(video=tmp_path / "o.mp4")
    (tmp_path / "o-2.mp4").write_bytes(b"mine")
    paths.check([tmp_path / "o-2.mp4"])
    with pytest.raises(DferError, match=r"o-2\.mp4 is the source"):
        paths.check([tmp_path / "o-2.mp4", 0])


def test_a_plot_needs_its_folder_and_a_table_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be put into a folder; root may, so the system's answer is made here."""
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    for name in ("o.csv", "o.svg"):
        (tmp_path / name).touch()
    OutputPaths(csv=tmp_path / "o.csv").check(["clip.mp4"])
    for paths in (OutputPaths(csv=tmp_path / "new.csv"), OutputPaths(plot=tmp_path / "o.svg")):
        with pytest.raises(DferError, match="no permission to write there"):
            paths.check(["clip.mp4"])


@pytest.mark.parametrize("name", ["o.csv", "o.jsonl", "o.mp4"])
def test_an_output_that_is_deleted_meanwhile_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(DferError, match=f"{name}: was deleted while it was written"):  # noqa: SIM117
        with Sinks(file_sinks(outputs_in(tmp_path), CLASSES, {"a": 25.0}, Stopwatch())) as outputs:
            for index in range(40):
                outputs.write(step("a", index, 25))
                if index == 30:
                    limit = time.monotonic() + 60
                    while not (tmp_path / name).exists() and time.monotonic() < limit:
                        time.sleep(0.01)  # a video begins when ffmpeg has taken its first frames
                    (tmp_path / name).unlink()

"""Corpora: every row once and as dfer-run gives it, whatever crashes; going on; refusals."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from triton_servers import StubTriton

from dfer.export.model_repository import write_repository
from dfer.runtime.bundle import DEMO, Bundle
from dfer.runtime.cli.corpus.folder import CorpusFolder
from dfer.runtime.cli.corpus.label import LabelOptions, label
from dfer.runtime.cli.corpus.plan import Segment, Unit, find_videos, from_json, to_json
from dfer.runtime.cli.corpus.sections import START, Cut, Place
from dfer.runtime.cli.corpus.settings import LabelSettings
from dfer.runtime.cli.label import main
from dfer.runtime.errors import DferError
from dfer.runtime.outputs.tables import to_dataframe
from dfer.runtime.recognizer import Recognizer
from helpers import write_video

parquet = pytest.importorskip("pyarrow.parquet")
SETTINGS = LabelSettings(str(DEMO), provider="cpu")


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in [*arguments, "--provider", "cpu"]])


def rows_in(out: Path) -> list[dict[str, Any]]:
    files = sorted((out / "predictions").glob("*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def rows_of_run(videos: list[Path]) -> list[dict[str, Any]]:
    """What `dfer-run` gives for each alone."""
    with Recognizer(DEMO, provider="cpu", threads=1) as recognizer:
        predictions = [one for video in videos for one in recognizer.stream(video)]
    rows: list[dict[str, Any]] = to_dataframe(predictions).to_dict("records")
    return rows


def same(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    assert len(rows) == len(others) > 0
    for row, other in zip(rows, others, strict=True):
        for name, value in other.items():
            assert row[name] == (pytest.approx(value, rel=1e-6, abs=1e-6) if isinstance(value, float) else value), name


def lines_of(out: Path) -> list[dict[str, str]]:
    with (out / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def leftovers(out: Path) -> list[Path]:
    return [file for file in out.rglob("*") if ".part" in file.name or file.parent.name == "attempts"]


def test_videos_below_a_linked_folder_are_found_and_each_once(tmp_path: Path) -> None:
    videos, disk = tmp_path / "videos", tmp_path / "disk"
    for file in (videos / "b" / "1.mp4", videos / ".hidden" / "2.mp4", disk / "deep" / "3.mp4", tmp_path / "4.mp4"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (videos / "b" / "upward").symlink_to(tmp_path, target_is_directory=True)  # is no part of what was named
    for link, target in ((videos / "a", videos / "b"), (videos / "disk", disk), (disk / "circle", videos)):
        link.symlink_to(target, target_is_directory=True)
    assert find_videos([videos]) == [videos / "b" / "1.mp4", videos / "disk" / "deep" / "3.mp4"]


@pytest.fixture(scope="module")
def labelled(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("labelled") / "out"
    return out, command(clips, out, "--workers", 2)


def test_rows_are_those_of_dfer_run_and_failures_are_told(clips: Path, labelled: tuple[Path, Result]) -> None:
    out, result = labelled
    assert result.exit_code == 3, result.output
    videos = sorted(clips.glob("day*/*.mp4"))
    same(rows_in(out), rows_of_run(videos))
    (failure,) = [json.loads(file.read_text()) for file in (out / "failures").iterdir()]
    assert failure == [{"source": str(clips / "broken.mp4"), "segment": 0, "reason": failure[0]["reason"]}]
    assert "not a video" in failure[0]["reason"]
    lines = {line["source"]: line for line in lines_of(out)}
    assert len(lines) == 5
    assert lines[str(clips / "broken.mp4")]["state"] == "failed"
    assert lines[str(videos[0])]["state"] == "read"
    assert float(lines[str(videos[0])]["seconds"]) == pytest.approx(2.0)
    assert leftovers(out) == []


def test_the_seconds_of_a_video_that_is_cut_short_are_those_that_were_read(
    face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    whole = write_video(tmp_path / "whole.avi", face_frames, 24).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    assert command(tmp_path / "*.avi", tmp_path / "out", "--workers", 1).exit_code == 0
    cut, read = lines_of(tmp_path / "out")
    assert float(read["seconds"]) == pytest.approx(3.0)
    assert (cut["state"], "truncated" in cut["remarks"], int(cut["frames"]) < 60) == ("read", True, True)
    assert float(cut["seconds"]) == pytest.approx(int(cut["frames"]) / 24, abs=0.05)


def test_the_same_command_goes_on_and_another_is_refused(clips: Path, labelled: tuple[Path, Result]) -> None:
    out, _ = labelled
    before = {file: file.stat().st_mtime_ns for file in (out / "predictions").iterdir()}
    assert command(clips, out).exit_code == 3
    assert {file: file.stat().st_mtime_ns for file in (out / "predictions").iterdir()} == before
    refused = command(clips, out, "--min-face", 60)
    assert refused.exit_code == 1
    assert "other settings (min_face)" in refused.output
    other = command(clips / "day0", out)
    assert "other settings (videos)" in other.output


def test_after_a_model_that_does_not_open_other_settings_are_taken(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused = command(clips / "day0", out, "--precision", "bf16", "--workers", 2)
    assert (refused.exit_code, "bf16" in refused.output) == (1, True)
    done = command(clips / "day0", out, "--workers", 1)
    assert done.exit_code == 0, done.output
    assert len(lines_of(out)) == 2


@pytest.mark.long
def test_failed_videos_are_done_again_when_asked(clips: Path, labelled: tuple[Path, Result], tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    shutil.copytree(clips, videos)
    shutil.move(videos / "broken.mp4", tmp_path / "mended.mp4")
    shutil.copy(videos / "day0" / "clip0.mp4", videos / "broken.mp4")
    (videos / "broken.mp4").write_bytes(bytes((videos / "broken.mp4").stat().st_size))
    assert command(videos, out).exit_code == 3
    shutil.copy(videos / "day0" / "clip0.mp4", videos / "broken.mp4")
    assert command(videos, out).exit_code == 3
    again = command(videos, out, "--retry-failed")
    assert again.exit_code == 0, again.output
    assert {line["state"] for line in lines_of(out)} == {"read"}


@pytest.mark.long
def test_a_long_video_in_parts_has_the_rows_of_the_whole(film: Path, tmp_path: Path) -> None:
    label(LabelOptions([film], tmp_path / "out", SETTINGS, workers=2, longest=4.0))
    rows, whole = rows_in(tmp_path / "out"), rows_of_run([film])
    assert [(row["frame"], row["time_s"]) for row in rows] == [(row["frame"], row["time_s"]) for row in whole]
    assert {row["segment"] for row in rows} == {0, 1, 2, 3}
    unlike = [(row, other) for row, other in zip(rows, whole, strict=True) if row["label"] != other["label"]]
    assert len(unlike) <= 0.03 * len(rows)
    assert all(min(row["confidence"], other["confidence"]) < 0.6 for row, other in unlike)  # where one is in doubt
    tracks = parquet.read_table(tmp_path / "out" / "tracks.parquet").to_pylist()
    persons = {(one["segment"], one["track"]): one["person"] for one in tracks}
    joined = {(row["track"], persons[other["segment"], other["track"]]) for row, other in zip(whole, rows, strict=True)}
    assert len(joined) == len({row["track"] for row in whole}) == 2  # a person is a track of the whole
    (line,) = lines_of(tmp_path / "out")
    assert (line["segments"], line["persons"], line["frames"]) == ("4", "2", "336")


@pytest.mark.long
def test_shards_make_one_result_and_the_last_ends_it(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = [label(LabelOptions([film], out, SETTINGS, workers=1, shard=(part, 2), longest=4.0)) for part in (1, 2)]
    assert [result.left for result in results] == [2, 0]
    assert (out / "summary.csv").is_file()
    assert Counter(row["segment"] for row in rows_in(out)).keys() == {0, 1, 2, 3}


def test_a_shard_tells_of_its_own_failures_only(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.cli.corpus.plan._GROUP", 0.5)  # a unit for each video
    videos = clips / "broken.mp4", clips / "day0" / "clip0.mp4"
    codes = {
        part: command(*videos, tmp_path / "out", "--shard", part, "--workers", 1).exit_code for part in ("1/2", "2/2")
    }
    assert codes == {"1/2": 3, "2/2": 0}
    assert command(*videos, tmp_path / "out").exit_code == 3


def test_shards_that_end_together_all_finish(labelled: tuple[Path, Result], tmp_path: Path) -> None:
    out = shutil.copytree(labelled[0], tmp_path / "out")
    (out / "predictions" / ".0.abcd.part.parquet").touch()  # by who was killed
    with ThreadPoolExecutor(8) as shards:
        for finishing in [shards.submit(CorpusFolder(out).finish) for _ in range(80)]:
            finishing.result()
    assert (out / "summary.csv").read_bytes() == (labelled[0] / "summary.csv").read_bytes()
    assert leftovers(out) == []


def test_a_shard_that_looks_while_another_begins_joins_it(tmp_path: Path) -> None:
    class Late(CorpusFolder):
        def _is_begun(self) -> bool:
            CorpusFolder(self.path).begin({"bundle": "a"}, lambda: [])
            return super()._is_begun()

    (tmp_path / "out").mkdir()
    assert Late(tmp_path / "out").begin({"bundle": "a"}, lambda: []) == []


def test_shards_that_begin_together_share_the_plan_on_the_disk(tmp_path: Path) -> None:
    first, second = (Unit("000000", (Segment(name, name),)) for name in ("first.mp4", "second.mp4"))

    def plan() -> list[Unit]:
        assert CorpusFolder(tmp_path / "out").begin({"bundle": "a"}, lambda: [first]) == [first]
        return [second]

    assert CorpusFolder(tmp_path / "out").begin({"bundle": "a"}, plan) == [first]


@pytest.mark.parametrize("moment", ["planning", "progress"])
def test_shards_with_other_settings_never_mix_rows(film: Path, tmp_path: Path, moment: str) -> None:
    """Another shard takes the folder while the first plans, or before its workers have read anything."""
    out = tmp_path / "out"
    one = LabelOptions([film], out, replace(SETTINGS, fps=8.0), workers=1, shard=(1, 2), longest=7.0)
    other = replace(one, settings=replace(SETTINGS, fps=4.0), shard=(2, 2))

    def begin_other(done: float, total: float) -> None:
        if not (out / "run.json").exists() or not CorpusFolder(out).done():
            label(other)

    with pytest.raises(DferError, match=r"other settings \(fps\)"):
        label(one, **{moment: begin_other})
    assert CorpusFolder(out).done() == {"000001"}
    assert json.loads((out / "run.json").read_text())["fps"] == 4.0


@pytest.mark.long
def test_a_video_that_kills_workers_fails_and_the_others_are_read(poison: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = label(LabelOptions([poison], out, SETTINGS, workers=2))
    assert len(result.failed) == 1
    lines = {Path(line["source"]).name: line for line in lines_of(out)}
    for name in ("poison.mp4", "poison_huge.mp4"):
        assert "crashed 3 times" in lines[name]["remarks"]
    assert {name for name, line in lines.items() if line["state"] == "read"} == {f"clip{n}.mp4" for n in range(4)}
    same(rows_in(out), rows_of_run([file for file in sorted(poison.glob("day*/*.mp4")) if "poison" not in file.name]))
    assert leftovers(out) == []


def test_a_server_that_fails_ends_the_run_and_the_same_command_goes_on(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with StubTriton(write_repository(Bundle.open(DEMO), tmp_path / "models", "fp32")) as server:
        options = LabelOptions([clips], out, replace(SETTINGS, provider=server.address), workers=1)
        asked: list[str] = []

        def unload(path: str) -> tuple[int, dict[str, str], bytes] | None:
            asked.extend([path] if path.endswith("/infer") else [])
            return (404, {}, b'{"error": "the model is gone"}') if len(asked) > 4 else None  # a video is being read

        server.respond = unload
        with pytest.raises(DferError, match="answers 404: the model is gone"):
            label(options)
        server.respond = lambda path: None
        label(options)
    assert [Path(line["source"]).name for line in lines_of(out) if line["state"] == "failed"] == ["broken.mp4"]
    expected = rows_of_run(sorted(clips.glob("day*/*.mp4")))  # in another precision
    assert [(row["source"], row["frame"]) for row in rows_in(out)] == [
        (row["source"], row["frame"]) for row in expected
    ]


def started(film: Path, out: Path) -> subprocess.Popen[bytes]:
    """A run of two workers as a process of its own, which writes to `out`."""
    program = (
        "import sys; from pathlib import Path; from dfer.runtime.cli.corpus.label import *;"
        "from dfer.runtime.cli.corpus.settings import LabelSettings\n"
        f"if __name__ == '__main__': label(LabelOptions([Path({str(film)!r})], Path({str(out)!r}),"
        f" LabelSettings({str(DEMO)!r}, provider='cpu'), workers=2, longest=2.0))"
    )
    script = out.with_name("run.py")
    script.write_text(program)
    return subprocess.Popen([sys.executable, script], start_new_session=True)


def test_workers_end_with_a_killed_run_in_the_midst_of_a_unit(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    psutil = pytest.importorskip("psutil")
    hook = (
        "import pathlib, time; from dfer.runtime.cli.corpus import unit\n"
        f"unit._open = lambda *_: (pathlib.Path({str(tmp_path / 'reading')!r}).touch(), time.sleep(600))"
    )
    (tmp_path / "sitecustomize.py").write_text(hook)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    run = started(film, tmp_path / "out")
    begun = time.monotonic()
    while not (tmp_path / "reading").exists() and time.monotonic() - begun < 120:
        time.sleep(0.05)
    workers = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    _, left = psutil.wait_procs(workers, timeout=15)
    left = [worker for worker in left if worker.status() != psutil.STATUS_ZOMBIE]  # where nobody collects them
    for worker in left:
        worker.kill()
    assert len(workers) >= 2
    assert not left


@pytest.mark.long
def test_a_killed_run_leaves_nothing_half_done_and_goes_on(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = started(film, out)
    begun = time.monotonic()
    done = CorpusFolder(out).done
    while not ((out / "run.json").exists() and done()) and time.monotonic() - begun < 300:
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert 0 < len(done()) < 7
    label(LabelOptions([film], out, SETTINGS, workers=2, longest=2.0))
    rows, whole = rows_in(out), rows_of_run([film])
    assert [(row["frame"], row["time_s"]) for row in rows] == [(row["frame"], row["time_s"]) for row in whole]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.mp4", "out"], "nothing.mp4: no such file"),
        (["", "out"], "'' names no source"),
        (["empty", "out"], "empty: no videos in this folder"),
        (["clip.mp4", "full"], "full: is there, and holds no results of dfer-label"),
        (["clip.mp4", "out", "--shard", "5/4"], "'5/4' is not K/N"),
        (["clip.mp4", "out", "--shard", "1/2", "--cluster", "h:1"], "--shard: a Ray cluster divides the work itself"),
        (["clip.mp4", "out", "--cpus", "4"], "--cpus: is for a Ray cluster; name one (cluster), or leave it out"),
        (["clip.mp4", "out", "--gpus", "1"], "--gpus: is for a Ray cluster"),
        (["clip.mp4", "out", "--cluster", "h:1", "--workers", "2"], "--workers: is for this machine, not a cluster"),
        (["clip.mp4", "out", "--window", "0.01"], "--window"),
        (["clip.mp4", "out", "--window", "0"], "--window"),
        (["clip.mp4", "out", "--bundle", "empty"], "manifest"),
    ],
)
def test_what_cannot_work_ends_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    (tmp_path / "clip.mp4").write_bytes(b"")
    result = command(*arguments)
    assert result.exit_code in (1, 2)
    assert words in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", [{"end": 5}, {"cut": 5}, {"cut": {"clock": 0.0}}, {"seen": 1}])
def test_a_damaged_plan_is_refused_in_a_line(tmp_path: Path, damage: dict[str, object]) -> None:
    cut, end = Cut(START, Place(40, 1.6), 0.5), Place(80, 3.2)
    unit = Unit("000000", (Segment("a.mp4", "/a.mp4", 1, 1.6, cut, end),))
    assert from_json(to_json(unit)) == unit
    entry = json.loads(to_json(unit))
    entry["segments"][0] |= damage
    (tmp_path / "plan.jsonl").write_text(json.dumps(entry) + "\n")
    with pytest.raises(DferError, match=r"plan\.jsonl: not a plan that dfer-label wrote"):
        CorpusFolder(tmp_path).units()


def test_numbers_too_small_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    few = replace(SETTINGS, max_faces=0)
    for options in (LabelOptions([], tmp_path / "out", SETTINGS, workers=-1), LabelOptions([], tmp_path / "out", few)):
        with pytest.raises(DferError, match="must be at least 1, not "):
            label(options)


def test_a_model_that_kills_workers_ends_the_run(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = (
        "import os; from dfer.runtime.cli.corpus import unit; unit._open_recognizer = lambda _: os.kill(os.getpid(), 9)"
    )
    (tmp_path / "sitecustomize.py").write_text(hook)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with pytest.raises(DferError, match="worker processes crash while they open bundle"):
        label(LabelOptions([clips], tmp_path / "out", SETTINGS, workers=1))

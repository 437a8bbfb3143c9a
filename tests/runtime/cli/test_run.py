"""`dfer-run` as people use it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dfer.runtime.bundle import DEMO
from dfer.runtime.cli.run_options import RunOptions
from dfer.runtime.cli.runner import run as run_sources
from dfer.runtime.engines.trt_library import is_installed
from dfer.runtime.errors import DferError, ParameterError
from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.predictions import Step
from dfer.runtime.procedural.demo import film_demo
from dfer.runtime.recognizer import Recognizer
from helpers import edit_manifest, flat, rows_of, write_video
from helpers import run_command as run

COLUMNS = [
    "source",
    "frame",
    "time_s",
    "track",
    "x",
    "y",
    "w",
    "h",
    "label",
    "confidence",
    "entropy",
    *EXPRESSIONS,
    "state",
    "quality",
    "file",
]


def test_a_file_gives_all_outputs_and_they_agree(face_video: Path, tmp_path: Path) -> None:
    table, lines, video, plot = (tmp_path / name for name in ("o.csv", "o.jsonl", "o.mp4", "o.png"))
    result = run(
        *(face_video, "--bundle", DEMO, "--provider", "cpu"),
        *("--csv", table, "--jsonl", lines, "--save-video", video, "--plot", plot),
    )
    assert result.exit_code == 0, result.output
    rows = rows_of(table)
    assert list(rows[0]) == COLUMNS
    assert len(rows) == 24
    assert sum(float(rows[0][name]) for name in EXPRESSIONS) == pytest.approx(1, abs=2e-3)
    header, *objects = [json.loads(line) for line in lines.read_text().splitlines()]
    assert (header["schema"], header["provider"], header["sources"]) == (2, "cpu", [str(face_video)])
    assert header["bundle"] == hashlib.sha256((DEMO / "manifest.json").read_bytes()).hexdigest()
    assert header["classes"] == list(EXPRESSIONS)
    for row, entry in zip(rows, objects, strict=True):
        assert {name: str(value) for name, value in entry.items() if name in ("frame", "label", "state", "track")} == {
            name: row[name] for name in ("frame", "track", "label", "state")
        }
        assert entry["time_s"] == float(row["time_s"])
    annotated = cv2.VideoCapture(str(video))
    assert annotated.get(cv2.CAP_PROP_FRAME_COUNT) == 72
    assert annotated.get(cv2.CAP_PROP_FPS) == pytest.approx(24)
    assert cv2.imread(str(plot)).std() > 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.csv", "o.jsonl", "o.mp4", "o.png"]
    assert "encode" not in result.output  # the latency table, which is for --verbose


def test_the_annotated_video_shows_box_and_bars(face_video: Path, tmp_path: Path) -> None:
    assert run(face_video, "--bundle", DEMO, "--save-video", tmp_path / "a.mp4").exit_code == 0
    plain, drawn = cv2.VideoCapture(str(face_video)), cv2.VideoCapture(str(tmp_path / "a.mp4"))
    for _ in range(40):
        (_, before), (_, after) = plain.read(), drawn.read()
    changed = np.abs(before.astype(int) - after.astype(int)).max(axis=2) > 60
    assert 0.02 < changed.mean() < 0.5


def test_a_video_without_faces_gives_a_header_and_no_rows(tmp_path: Path) -> None:
    video = write_video(tmp_path / "wall.mp4", [np.full((120, 160, 3), 128, np.uint8)] * 20, 10)
    result = run(video, "--bundle", DEMO, "--csv", tmp_path / "o.csv", "--plot", tmp_path / "o.svg")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "o.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert (tmp_path / "o.svg").exists()
    assert "no face was found in 20 pictures, not even one smaller than --min-face 40" in flat(result.output)


def test_no_face_in_black_pictures_or_of_that_size_is_told_so(face_video: Path, tmp_path: Path) -> None:
    black = write_video(tmp_path / "black.mp4", [np.zeros((120, 160, 3), np.uint8)] * 20, 10)
    assert "the pictures are black" in flat(run(black).output)
    assert "they are smaller than --min-face 200" in flat(run(face_video, "--min-face", 200).output)


def test_videos_without_a_face_are_named_where_others_have_some(face_video: Path, tmp_path: Path) -> None:
    wall = write_video(tmp_path / "wall.mp4", [np.full((120, 160, 3), 128, np.uint8)] * 20, 10)
    result = run(wall, face_video, "--json")
    assert result.exit_code == 0, result.output
    told = flat(result.stderr)
    table, _, named = told.partition("no face read in: ")
    assert ("source" in table, "face.mp4" in table, named) == (True, True, str(wall))
    assert json.loads(result.stdout)["faceless"] == [str(wall)]
    _, _, named = flat(run(*[wall] * 8, face_video).output).partition("no face read in: ")
    assert (named.count("wall.mp4"), named.endswith(" and 3 more")) == (5, True)


def test_the_bundle_of_the_environment_is_used_and_named(face_video: Path) -> None:
    result = run(face_video, DFER_BUNDLE=str(DEMO))
    assert result.exit_code == 0, result.output
    assert "from $DFER_BUNDLE" in result.output.replace("\n", "")


def test_images_have_the_rate_of_the_model_as_in_python(
    face_frames: list[np.ndarray], bundle: Path, tmp_path: Path
) -> None:
    edit_manifest(bundle, sampling={"seconds": 1.0, "fps": 6.0})
    film = tmp_path / "film"
    film.mkdir()
    for index in range(12):
        cv2.imwrite(str(film / f"{index:02}.png"), face_frames[index][..., ::-1])
    assert run(film, "--bundle", bundle, "--csv", tmp_path / "o.csv").exit_code == 0
    with Recognizer(bundle) as recognizer:
        times = [one.time for one in recognizer.stream(film)]
    assert [float(row["time_s"]) for row in rows_of(tmp_path / "o.csv")] == pytest.approx(times, abs=1e-3)
    assert times[1] == pytest.approx(1 / 6)


def test_photographs_can_be_asked_for_and_are_named(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for index in (0, 40):
        cv2.imwrite(str(album / f"{index}.png"), cv2.cvtColor(face_frames[index], cv2.COLOR_RGB2BGR))
    result = run(album, "--photos", "--csv", tmp_path / "o.csv", "--json", "--quiet")
    assert result.exit_code == 0, result.output
    rows = rows_of(tmp_path / "o.csv")
    assert [(row["file"], row["track"], row["state"]) for row in rows] == [
        ("0.png", "1", "ready"),
        ("40.png", "1", "ready"),
    ]
    assert [face["source"] for face in json.loads(result.stdout)["faces"]] == [f"{album}/0.png", f"{album}/40.png"]


def test_a_single_picture_is_a_photograph_under_its_own_name(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    picture = tmp_path / "me.png"
    cv2.imwrite(str(picture), cv2.cvtColor(face_frames[40], cv2.COLOR_RGB2BGR))
    result = run(picture, "--csv", tmp_path / "o.csv", "--json", "--quiet")
    assert result.exit_code == 0, result.output
    assert [(row["source"], row["file"], row["state"]) for row in rows_of(tmp_path / "o.csv")] == [
        (str(picture), "me.png", "ready")
    ]
    assert [face["source"] for face in json.loads(result.stdout)["faces"]] == [str(picture)]


def test_a_folder_of_images_is_sampled_image_by_image(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    for index in range(5):
        cv2.imwrite(str(tmp_path / f"{index}.jpg"), face_frames[index][..., ::-1])
    table = tmp_path / "o.csv"
    assert run(tmp_path, "--bundle", DEMO, "--fps", 4, "--csv", table).exit_code == 0
    assert [(row["frame"], float(row["time_s"])) for row in rows_of(table)] == [(str(i), i / 4) for i in range(5)]


def test_the_demo_runs_with_the_bundled_model_and_finds_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DFER_BUNDLE", raising=False)
    monkeypatch.setattr("dfer.runtime.procedural.demo.film_demo", partial(film_demo, seconds=4))  # both have come then
    result = run("--demo")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "demo-output").iterdir())
    assert names == ["annotated.mp4", "clip.mp4", "predictions.csv", "timeline.png"]
    assert "bundled demo bundle" in result.output.replace("\n", " ")
    assert {row["track"] for row in rows_of(tmp_path / "demo-output" / "predictions.csv")} == {"1", "2"}


def test_bad_input_gives_one_line_status_1_and_no_files(bundle: Path, face_video: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fake = tmp_path / "fake.mp4"
    fake.write_text("this is not a video")
    good = ("--bundle", DEMO)
    table = ("--csv", out / "o.csv", "--save-video", out / "o.mp4", "--plot", out / "o.png")
    head = bundle / "head.fp32.onnx"
    head.write_bytes(head.read_bytes()[:-1] + b"!")
    newer = tmp_path / "newer.dfer"
    newer.mkdir()
    (newer / "manifest.json").write_text("{}")
    edit_manifest(newer, schema=2)
    calls = [
        ((tmp_path / "absent.mp4", *good, *table), "absent.mp4: no such file"),
        ((fake, *good, *table), "fake.mp4: not a video"),
        (
            (face_video, "--bundle", bundle, "--precision", "fp32", *table),
            "head.fp32.onnx is not the file that was exported",
        ),
        ((face_video, "--bundle", newer, *table), "newer than this dfer-edge"),
        ((face_video, "--bundle", tmp_path / "none.dfer", *table), "no such folder"),
        (("--camera", 63, *good, *table), "camera 63 does not open"),
        ((face_video, *good, "--csv", tmp_path / "nowhere" / "o.csv"), "does not exist"),
        ((face_video, *good, "--csv", out), "is a folder"),
        ((face_video, *good, "--plot", out / "o.txt"), "must end in"),
        ((face_video, *good, "--save-video", face_video), "is the source"),
        ((face_video, *good, "--fps", 0), "--fps: 0 must be above 0 and at most 240"),
        ((face_video, *good, "--csv", out / "o.csv", "--jsonl", out / "." / ".." / "out" / "o.csv"), "two outputs"),
        ((face_video, *good, "--save-video", out / "o.avi"), "must end in .mp4"),
        ((face_video, *good, "--csv", "/dev/full"), "No space left"),
        ((face_video, *good, "--csv", out / "o.csv", "--save-video", "/proc/o.mp4"), "/proc/o.mp4"),
    ]
    for arguments, words in calls:
        result = run(*arguments)
        assert result.exit_code == 1, (words, result.output)
        assert words in result.output
        assert result.output.strip().splitlines()[-1].startswith("Error: ")
        assert isinstance(result.exception, SystemExit)  # and not the error itself, which would be a traceback
    assert not list(out.iterdir())
    assert face_video.stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token": "secret"}, "token: is for the live page; name its port"),
        ({"size": (640, 480)}, "size: is for cameras, and no source is live"),
        ({"camera_fps": 15.0}, "camera_fps: is for cameras"),
        ({"photos": True}, "photos: is for images, and no source is one"),
        ({"boxes": "b.csv", "min_face": 60}, "min_face: is for the detector, which boxes replace"),
        ({"boxes": "b.csv", "detect_every": 2}, "detect_every: is for the detector"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], words: str, face_video: Path) -> None:
    with pytest.raises(ParameterError, match=words):
        run_sources(RunOptions([face_video], **options))


def test_no_output_goes_over_a_picture_that_is_read(tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for name in ("01.png", "02.png", "album.png"):
        cv2.imwrite(str(album / name), np.full((60, 80, 3), 90, np.uint8))
    before = {path: path.read_bytes() for path in album.iterdir()}
    for source, option, path in (
        (album, "--plot", album / "02.png"),
        (album / "*.png", "--csv", album / "02.png"),
        (album / "%02d.png", "--jsonl", album / "02.png"),
        (album, "--out-dir", album),
    ):
        result = run(source, "--photos", option, path)
        assert result.exit_code == 1
        assert "source; name another" in flat(result.output)
    assert {path: path.read_bytes() for path in album.iterdir()} == before


def test_ctrl_c_ends_a_run_with_its_rows_kept(
    face_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow = Recognizer.follow

    def interrupted(self: Recognizer, *arguments: Any) -> Iterator[Step]:
        yield from islice(follow(self, *arguments), 40)
        raise KeyboardInterrupt

    monkeypatch.setattr(Recognizer, "follow", interrupted)
    table, video = tmp_path / "o.csv", tmp_path / "o.mp4"
    result = run(face_video, "--bundle", DEMO, "--csv", table, "--save-video", video)
    assert result.exit_code == 0, result.output
    assert "stopped" in result.output
    assert [int(row["frame"]) for row in rows_of(table)] == list(range(0, 40, 3))
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == 40


def test_a_truncated_video_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 120, 160, 3), dtype=np.uint8)
    whole = write_video(tmp_path / "whole.avi", list(noise), 25).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    result = run(tmp_path / "cut.avi", "--bundle", DEMO, "--csv", tmp_path / "o.csv")
    assert result.exit_code == 0
    assert "truncated" in result.output
    assert (tmp_path / "o.csv").exists()


def test_two_turned_sources_of_one_name_are_told_apart_in_warnings(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 120, 160, 3), dtype=np.uint8)
    whole = write_video(tmp_path / "whole.avi", list(noise), 25).read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: len(whole) // 2])
    told = flat(run(cut, cut, "--rotate", 180, "--bundle", DEMO).output)
    assert "cut.avi: ends after" in told and "cut.avi #2: ends after" in told


def test_files_played_as_if_live_have_no_jobs(face_video: Path) -> None:
    result = run(face_video, "--realtime", "--jobs", 2)
    assert result.exit_code == 1
    assert "--jobs: files that play as if live are all read at once" in flat(result.output)


@pytest.mark.parametrize("settings", [{"jobs": -1}, {"jobs": 0}, {"threads": 0}, {"max_faces": -1}])
def test_numbers_too_small_are_refused_before_anything_is_read(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ParameterError, match=f"^{name}: must be at least 1, not "):
        run_sources(RunOptions(["gone.mp4"], **settings))


def test_ctrl_c_while_the_outputs_are_finished_is_told(face_video: Path, tmp_path: Path) -> None:
    class Impatient:
        def write(self, step: Step) -> None: ...

        def close(self) -> None:
            raise KeyboardInterrupt

        discard = close

    with pytest.raises(DferError, match="stopped once more while the outputs were finished"):
        run_sources(RunOptions([face_video], csv=tmp_path / "o.csv", provider="cpu"), sinks=[Impatient()])
    assert len(rows_of(tmp_path / "o.csv")) == 24


def test_the_demo_says_what_is_in_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo-output").write_text("mine")
    result = run("--demo")
    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (1, True)
    assert "demo-output is a file" in result.output
    (tmp_path / "demo-output").unlink()
    assert "is the source" in run("--demo", "--save-video", "demo-output/clip.mp4").output


def test_wrong_options_are_usage_errors(face_video: Path) -> None:
    for arguments in ((), (face_video, "--demo"), (face_video, "--provider", "abacus"), (face_video, "--camera", -1)):
        assert run(*arguments).exit_code == 2


@pytest.mark.skipif(is_installed("tensorrt"), reason="TensorRT is installed")
def test_a_native_provider_that_is_absent_is_an_error_that_says_what_to_install(face_video: Path) -> None:
    result = run(face_video, "--bundle", DEMO, "--provider", "native-tensorrt")
    assert result.exit_code == 1
    assert "dfer-edge[tensorrt]" in " ".join(result.output.split())


def test_classes_of_ones_own_are_in_every_output(face_video: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps({"happiness": "good", "surprise": "good", "neutral": None}))
    result = run(
        *(face_video, "--classes", tmp_path / "classes.json", "--smooth", 0.5, "--neutral-prior", 0.3),
        *("--csv", tmp_path / "o.csv", "--plot", tmp_path / "o.html", "--json", "--quiet"),
    )
    assert (result.exit_code, result.stderr) == (0, "")
    rows = rows_of(tmp_path / "o.csv")
    names = ["good", "sadness", "anger", "disgust", "fear"]
    assert list(rows[0])[11:] == [*names, "state", "quality", "file"]
    for row in rows:
        assert sum(float(row[name]) for name in names) == pytest.approx(1, abs=1e-3)
    summary = json.loads(result.stdout)
    assert summary["predictions"] == len(rows) == 24
    assert set(summary["faces"][0]["shares"]) <= {*names, "unsure"}
    assert '"good"' in (tmp_path / "o.html").read_text()


def test_classes_that_pictures_cannot_have_are_told_once(face_video: Path, tmp_path: Path) -> None:
    names = {"happiness": "高兴", "fear": "悲?", "anger": "Größe"}
    told: list[str] = []
    options = RunOptions(face_video, classes=names, provider="cpu")
    for one in (replace(options, video=tmp_path / "o.mp4"), replace(options, csv=tmp_path / "o.csv")):
        run_sources(one, warn=told.append)
    assert len(told) == 1 and "letters of 高兴, 悲?; rows" in told[0]
    options = replace(options, classes={"happiness": "𒀀𒀁", "fear": "Страх"}, plot=tmp_path / "o.png")
    run_sources(options, warn=told.append)
    assert len(told) == 2 and "letters of 𒀀𒀁; rows" in told[1]


def test_smoothing_calms_the_probabilities(face_video: Path, tmp_path: Path) -> None:
    moved = []
    for seconds in (0, 2):
        assert run(face_video, "--csv", tmp_path / "o.csv", "--smooth", seconds).exit_code == 0
        values = np.array([[float(row[name]) for name in EXPRESSIONS] for row in rows_of(tmp_path / "o.csv")])
        moved.append(np.abs(np.diff(values, axis=0)).sum())
    assert moved[1] < 0.7 * moved[0]


def test_settings_of_the_predictions_that_mean_nothing_are_errors(face_video: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('{"joy": "happiness"}')
    for arguments, words in (
        (("--classes", tmp_path / "classes.json"), 'no "joy"'),
        (("--smooth", -1), "--smooth: -1"),
        (("--neutral-prior", 2), "--neutral-prior: 2"),
    ):
        result = run(face_video, *arguments, "--csv", tmp_path / "o.csv")
        assert (result.exit_code, isinstance(result.exception, SystemExit)) == (1, True)
        assert words in result.output
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.skipif("NONE" not in cv2.getBuildInformation().split("GUI:")[1][:40], reason="this OpenCV has windows")
def test_a_window_that_cannot_be_is_an_error_that_says_what_to_install(face_video: Path) -> None:
    result = run(face_video, "--show")
    assert result.exit_code == 1
    assert "pip install opencv-python" in result.output.replace("\n", " ")

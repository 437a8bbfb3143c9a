"""`dfer-prepare`: films in, aligned faces out; stopped runs go on."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from dfer.runtime.errors import DferError
from dfer.runtime.faces.alignment import TEMPLATE
from dfer.runtime.faces.detection import FaceDetector
from dfer.train.cli.prepare import main
from dfer.train.data.videos import folder_length
from dfer.train.preparation import films as module
from dfer.train.preparation.films import find_films, prepare
from helpers import write_video


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def report(out: Path) -> dict[str, dict[str, str]]:
    with (out / "report.csv").open(newline="") as lines:
        return {row["clip"]: row for row in csv.DictReader(lines)}


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, face_frames: list[np.ndarray]) -> Path:
    """Two faces (a video, a folder of frames), one that is covered for a while, no face, no video."""
    root = tmp_path_factory.mktemp("films")
    grey = np.full_like(face_frames[0], 90)
    (root / "day1").mkdir()
    write_video(root / "day1" / "face.mp4", face_frames[:12], 24)
    write_video(root / "leaves.avi", [*face_frames[:6], *[grey] * 4, *face_frames[6:10]], 24)
    write_video(root / "day1" / "wall.mp4", [grey] * 5, 24)
    (root / "broken.mp4").write_bytes(b"\0" * 1000)
    (root / "frames.v2").mkdir()
    for number in range(1, 12):
        cv2.imwrite(str(root / "frames.v2" / f"{number}.jpg"), cv2.cvtColor(face_frames[number], cv2.COLOR_RGB2BGR))
    (root / "cover.jpg").write_bytes(b"beside the videos, not a frame")
    return root


@pytest.fixture(scope="module")
def prepared(films: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("prepared") / "faces"
    return out, run(films, out, "--workers", 1)


def test_every_clip_is_reported(prepared: tuple[Path, Result]) -> None:
    out, result = prepared
    assert result.exit_code == 0, result.output
    assert [tuple(row.values())[:5] for row in report(out).values()] == [
        ("broken.mp4", "0", "0", "0.000", "unreadable"),
        ("day1/face.mp4", "12", "12", "1.000", "ok"),
        ("day1/wall.mp4", "5", "0", "0.000", "no-face"),
        ("frames.v2", "11", "11", "1.000", "ok"),
        ("leaves.avi", "14", "10", "0.714", "ok"),
    ]
    assert "5 clips: 3 ok, 1 without a face, 1 unreadable; faces in 33 of 42 frames" in result.output
    assert "without a face: day1/wall.mp4\nunreadable: broken.mp4\n" in result.output


def test_faces_lie_where_the_clips_lay(prepared: tuple[Path, Result]) -> None:
    out, _ = prepared
    folders = {"day1/face": 12, "frames.v2": 11, "leaves": 10}
    expected = {f"{folder}/{number:05}.jpg" for folder, count in folders.items() for number in range(count)}
    rates = {"day1/face/rate.txt": b"24\n", "leaves/rate.txt": b"17.1429\n"}  # none is known of a folder of frames
    assert set(contents(out)) == expected | {"report.csv", *rates}
    assert rates.items() <= contents(out).items()
    assert folder_length(out / "leaves", 10)[1] == pytest.approx(14 / 24, rel=1e-5)  # with the frames left out


def test_the_rate_of_a_folder_is_kept_and_a_wrong_one_told_before_a_face_is_cut(films: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(films / "frames.v2", tmp_path / "films" / name)
    (tmp_path / "films" / "a" / "rate.txt").write_text("12.5")
    (tmp_path / "films" / "b" / "rate.txt").write_text("12.5 fps")
    refused = run(tmp_path / "films", tmp_path / "out", "--workers", 1)
    assert refused.exit_code == 1
    assert "b/rate.txt: not a number of frames per second" in refused.output
    assert not (tmp_path / "out").exists()
    (tmp_path / "films" / "b" / "rate.txt").unlink()
    assert run(tmp_path / "films", tmp_path / "out", "--workers", 1).exit_code == 0
    assert (tmp_path / "out" / "a" / "rate.txt").read_text() == "12.5\n"
    assert not (tmp_path / "out" / "b" / "rate.txt").exists()


def test_faces_of_a_folder_are_followed_at_its_own_rate(tmp_path: Path, face_frames: list[np.ndarray]) -> None:
    """Three seconds out of sight end a track, as they do in a video; at 25 frames a second they would be 0.24."""
    frames = [*face_frames[:6], *[np.full_like(face_frames[0], 90)] * 6, *face_frames[6:9]]
    (tmp_path / "films" / "a").mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / "films" / "a" / f"{number:02}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    (tmp_path / "films" / "a" / "rate.txt").write_text("2")
    (outcome,) = prepare(tmp_path / "films", tmp_path / "out")
    assert (outcome.frames, outcome.faces) == (15, 6)
    assert (tmp_path / "out" / "a" / "rate.txt").read_text() == "2\n"


def test_faces_are_aligned_in_time_and_space(prepared: tuple[Path, Result], face_frames: list[np.ndarray]) -> None:
    out, _ = prepared
    detector, errors = FaceDetector(), []
    for path in sorted((out / "day1" / "face").glob("*.jpg")):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        assert image is not None
        assert image.shape == (128, 128, 3)
        padded = cv2.copyMakeBorder(image, 40, 40, 40, 40, cv2.BORDER_REPLICATE)
        if faces := detector.detect(np.asarray(padded, dtype=np.uint8)):
            errors.append(np.abs(faces[0].landmarks - 40 - TEMPLATE).mean())
    assert len(errors) >= 10
    assert np.mean(errors) < 4  # pixels of 128
    colour = cv2.imread(str(out / "frames.v2" / "00000.jpg"), cv2.IMREAD_COLOR_RGB)
    assert colour is not None
    assert colour[..., 0].mean() > colour[..., 2].mean()  # skin is red


def test_two_workers_write_what_one_writes(films: Path, prepared: tuple[Path, Result], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    prepare(films, tmp_path / "faces", workers=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 5) for done in range(6)]
    assert contents(tmp_path / "faces") == contents(prepared[0])


def test_a_stopped_run_goes_on(
    films: Path, prepared: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, calls = module.align, []

    def stop_in_the_second_clip(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 12 + 5:
            raise KeyboardInterrupt
        return cut(*arguments)  # type: ignore[arg-type]

    out = tmp_path / "faces"
    with monkeypatch.context() as patch:
        patch.setattr(module, "align", stop_in_the_second_clip)
        stopped = run(films, out, "--workers", 1)
    assert stopped.exit_code == 1
    assert "stopped; the same command goes on from here" in stopped.output
    assert len(list((out / "day1" / "face").glob("*.jpg"))) == 12
    assert not (out / "frames.v2").exists()
    assert list((out / ".partial" / "frames.v2").iterdir())

    with (out / "report.csv").open("a") as lines:
        lines.write("leaves.avi,14,1")  # killed while writing
    before = (out / "day1" / "face" / "00000.jpg").stat()
    assert run(films, out, "--workers", 1).exit_code == 0
    after = (out / "day1" / "face" / "00000.jpg").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert contents(out) == contents(prepared[0])


def test_a_second_run_cuts_nothing_again(
    films: Path, prepared: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, first = prepared
    before = contents(out)
    monkeypatch.delattr(module, "align")
    again = run(films, out, "--workers", 1)
    assert (again.exit_code, again.output[-200:]) == (0, first.output[-200:])
    assert contents(out) == before
    other = run(films, out, "--size", 64)
    assert other.exit_code == 1
    assert "holds faces of 128 pixels; give that or another folder" in other.output


@pytest.fixture
def clips(films: Path, tmp_path: Path) -> Path:
    """A video and a folder of frames of their own, to be changed."""
    root = tmp_path / "clips"
    (root / "day1").mkdir(parents=True)
    shutil.copy(films / "day1" / "face.mp4", root / "day1" / "face.mp4")
    shutil.copytree(films / "frames.v2", root / "frames.v2")
    return root


def test_a_clip_that_was_replaced_is_cut_again(films: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "faces"
    prepare(clips, out)
    shutil.copy2(films / "leaves.avi", clips / "day1" / "face.mp4")  # an older file, as from an archive
    os.utime(clips / "day1" / "face.mp4", (0, 0))
    (clips / "frames.v2" / "3.jpg").unlink()
    assert {outcome.clip: outcome.faces for outcome in prepare(clips, out)} == {"day1/face.mp4": 10, "frames.v2": 10}
    assert len(list((out / "day1" / "face").glob("*.jpg"))) == len(list((out / "frames.v2").glob("*.jpg"))) == 10

    (clips / "day1" / "face.mp4").write_bytes(b"no film")
    result = run(clips, out, "--workers", 1)
    assert "1 ok, 0 without a face, 1 unreadable" in result.output
    assert not (out / "day1" / "face").exists()


def test_faces_of_clips_that_are_gone_stay_and_are_told(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "faces"
    prepare(clips, out)
    before = contents(out)
    (clips / "day2").mkdir()
    (clips / "day1" / "face.mp4").rename(clips / "day2" / "face.mp4")
    for _ in range(2):  # a second run tells it again
        result = run(clips, out, "--workers", 1)
        assert "2 clips: 2 ok" in result.output and "faces in 23 of 23 frames" in result.output
        assert "delete their folders unless you want them: day1/face.mp4\n" in result.output
        assert report(out)["day1/face.mp4"]["state"] == "gone"
        assert before.keys() < contents(out).keys()
    shutil.rmtree(out / "day1")
    assert "no longer there" not in run(clips, out, "--workers", 1).output
    assert set(report(out)) == {"day2/face.mp4", "frames.v2"}

    (clips / "day2" / "face.mp4").rename(clips / "day2" / "face.mov")  # its faces go to the same folder
    result = run(clips, out, "--workers", 1)
    assert "2 clips: 2 ok" in result.output and "no longer there" not in result.output
    assert set(report(out)) == {"day2/face.mov", "frames.v2"}
    (clips / "day2" / "face.mov").unlink()
    (clips / "day2" / "face.avi").write_bytes(b"no film")
    assert "unreadable: day2/face.avi" in run(clips, out, "--workers", 1).output
    assert not (out / "day2" / "face").exists()


def test_reports_of_earlier_versions_are_continued(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "faces"
    first = prepare(clips, out)
    written = (out / "report.csv").read_text()
    old = [",".join(line.split(",")[:5]) for line in written.splitlines()]
    (out / "report.csv").write_text("\n".join(old) + "\n")
    with monkeypatch.context() as patch:
        patch.delattr(module, "align")
        assert prepare(clips, out) == first
    assert (out / "report.csv").read_text() == written


def test_the_main_face_is_the_one_seen_longest_and_largest(tmp_path: Path, face_frames: list[np.ndarray]) -> None:
    small = cv2.resize(face_frames[0], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    frames = []
    for index in range(10):
        frame = np.full((240, 640, 3), 90, np.uint8)
        frame[:120, :160] = small
        if index < 8:
            frame[:, 320:] = face_frames[index]
        frames.append(frame)
    write_video(tmp_path / "films.mp4", frames, 24)
    outcome = prepare(tmp_path, tmp_path / "faces", size=64)[0]
    assert (outcome.frames, outcome.faces) == (10, 8)
    image = cv2.imread(str(tmp_path / "faces" / "films" / "00000.jpg"))
    assert image is not None
    assert image.shape == (64, 64, 3)


def test_when_no_clip_gives_a_face_the_run_has_failed(tmp_path: Path) -> None:
    write_video(tmp_path / "wall.mp4", [np.full((64, 64, 3), 90, np.uint8)] * 2, 24)
    result = run(tmp_path, tmp_path / "out", "--workers", 1)
    assert result.exit_code == 1
    assert "none of the 1 clips gave a face" in result.output
    assert report(tmp_path / "out")["wall.mp4"]["state"] == "no-face"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.mp4", "a.avi"], "a.(mp4|avi) and a.(mp4|avi) would both be written to a"),
        (["a.mp4", "a/b.mp4"], "a/b.mp4 would be written among the frames of a.mp4"),
        ([], "holds neither videos"),
    ],
)
def test_clips_that_cannot_be_kept_apart_are_refused(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DferError, match=words):
        find_films(tmp_path, tmp_path / "out")


def test_places_that_do_not_serve_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(DferError, match="no such folder"):
        prepare(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(DferError, match="must not go among the videos"):
        prepare(tmp_path, tmp_path)
    with pytest.raises(DferError, match=r"a\.mp4: (File exists|Not a directory)"):
        prepare(tmp_path, tmp_path / "a.mp4")
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "mine.txt").touch()
    with pytest.raises(DferError, match=r"out/a exists but .* has no report.csv"):
        prepare(tmp_path, tmp_path / "out")
    assert (tmp_path / "out" / "a" / "mine.txt").exists()
    (tmp_path / "out" / "report.csv").write_text("my,own,report\n")
    with pytest.raises(DferError, match="is not a report of dfer-prepare"):
        prepare(tmp_path, tmp_path / "out")


def test_films_that_are_not_taken_are_told(clips: Path, tmp_path: Path) -> None:
    for name in ("day1/a.VOB", "b.gif", "c.rmvb", "d.gif", "day1/notes.txt", "day1/.hidden.gif"):
        (clips / name).touch()
    result = run(clips, tmp_path / "faces", "--workers", 1)
    assert result.exit_code == 0 and "2 clips: 2 ok" in result.output
    told = "clips: left out for their kinds (.VOB, .gif, .rmvb), number of files: 4; convert them to .mp4, or frames to"
    assert told in result.output
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "a.gif").touch()
    result = run(alone, tmp_path / "none", "--workers", 1)
    assert "(.gif), number of files: 1" in result.output and "holds neither videos" in result.output


def test_films_below_a_linked_folder_are_found(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "film.mp4").touch()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "linked").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert [film.name for film in find_films(tmp_path / "videos", tmp_path / "out")] == ["linked/film.mp4"]


def test_faces_written_below_the_videos_are_not_taken_for_clips(tmp_path: Path, face_frames: list[np.ndarray]) -> None:
    write_video(tmp_path / "a.mp4", face_frames[:2], 24)
    for _ in range(2):
        assert [outcome.clip for outcome in prepare(tmp_path, tmp_path / "faces")] == ["a.mp4"]


def test_real_videos_and_faces_that_are_not_upright_are_named_until_the_film_is_turned(
    shared_data: Path, tmp_path: Path
) -> None:
    films = tmp_path / "films"
    films.mkdir()
    (films / "upside.mp4").symlink_to(shared_data / "cases" / "upside.mp4")
    (films / "upright.mp4").symlink_to(shared_data / "videos" / "single_face.mp4")
    (films / "none.mp4").symlink_to(shared_data / "videos" / "no_face.mp4")
    for _ in range(2):  # a second run tells it again
        result = run(films, tmp_path / "faces", "--workers", 1)
        assert result.exit_code == 0, result.output
        assert "1 ok, 1 turned" in result.output
        assert "cuts them anew): upside.mp4\n" in result.output
        assert "without a face: none.mp4" in result.output
        rows = report(tmp_path / "faces")
        assert [rows["upright.mp4"][column] for column in ("frames", "faces", "state")] == ["72", "72", "ok"]
        assert [rows["none.mp4"][column] for column in ("frames", "faces", "state")] == ["95", "0", "no-face"]
        assert rows["upside.mp4"]["state"] == "turned"
    (films / "upside.mp4").unlink()
    (films / "upside.mp4").symlink_to(shared_data / "videos" / "single_face.mp4")
    assert "2 ok, 1 without a face" in run(films, tmp_path / "faces", "--workers", 1).output
    assert len(list((tmp_path / "faces" / "upside").glob("*.jpg"))) == 72


def test_preparing_needs_no_torch() -> None:
    program = "import sys; import dfer.train.preparation.films, dfer.train.cli.prepare; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    light = "import sys; import dfer.train.cli.prepare; print({'cv2', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

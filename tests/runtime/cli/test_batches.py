"""Many files in one run: read a few at a time, each with results of its own, none lost for another's fault."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from dfer.runtime import RunOptions, run
from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.predictions import Step
from helpers import flat, rows_of, run_command

EXACT = ("frame", "time_s", "track", "x", "y", "w", "h", "label", "state", "quality", "file")


@pytest.fixture(scope="module")
def clips(face_video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four videos, of which the second is broken, and something that is no video."""
    folder = tmp_path_factory.mktemp("clips")
    for name in ("1", "9", "10"):
        shutil.copy(face_video, folder / f"{name}.mp4")
    (folder / "2.mp4").write_bytes(face_video.read_bytes()[:3000])
    (folder / "notes.txt").write_text("about the clips")
    return folder


def test_a_photograph_that_cannot_be_read_fails_as_a_source_would(
    face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    for folder in ("album", "more"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "anna.png"), face_frames[10][..., ::-1])
        (tmp_path / folder / "bert.png").write_bytes(b"broken")
    broken = [str(tmp_path / folder / "bert.png") for folder in ("album", "more")]
    for folders in (("album",), ("album", "more")):  # which are opened now, or when it is their turn
        result = run_command(*(tmp_path / folder for folder in folders), "--json", "--rotate", "180")
        assert result.exit_code == 3, result.output
        assert list(json.loads(result.stdout)["failed"]) == broken[: len(folders)]
        assert f"error: {broken[0]}: not an image that OpenCV can read" in result.stderr
    film = run_command(tmp_path / "album", "--no-photos", "--json")
    assert (film.exit_code, json.loads(film.stdout)["failed"]) == (0, {})  # as of a video's damaged frames


def test_photographs_get_annotated_copies(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    album, out = tmp_path / "album", tmp_path / "out"
    (album / "more").mkdir(parents=True)
    names = ["anna.png", "bert.bmp", "more/carl.jpg", "more/dora.jpg"]
    for name, picture in zip(names, [*face_frames[10:13], np.full((90, 120, 3), 90, np.uint8)], strict=True):
        cv2.imwrite(str(album / name), picture[..., ::-1])
    result = run_command(album / "*.*", album / "more", "--photos", "--out-dir", out)
    assert result.exit_code == 0, result.output
    assert "out/: NAME.csv and NAME-pictures/ of 2 sources" in flat(result.stderr)
    copies = [path for path in out.rglob("*.*") if path.suffix != ".csv"]
    found = {path.name: cv2.imread(str(path)) for path in copies}
    assert set(found) == {"anna.png", "bert.bmp.png", "carl.jpg", "dora.jpg"}
    for name, picture in found.items():
        original = cv2.imread(str(next(album.rglob(name.removesuffix(".png") + "*"))))
        changed = np.abs(picture.astype(int) - original).max(axis=2) > 40
        assert (changed.mean() > 0.01) == (name != "dora.jpg")  # a box, a label and bars, where there is a face
    (tmp_path / "x-pictures").mkdir()
    cv2.imwrite(str(tmp_path / "x-pictures" / "x.png"), face_frames[10][..., ::-1])
    refused = run_command(tmp_path / "x-pictures" / "x.png", "--out-dir", tmp_path)
    assert refused.exit_code == 1
    assert "x-pictures is a source; name another folder" in flat(refused.stderr)


@pytest.fixture(scope="module")
def batch(clips: Path) -> tuple[Path, str]:
    """The results' folder of a run over `clips`, beside a common table, and what was printed."""
    out = clips.parent / f"{clips.name}-results"
    result = run_command(clips, "--out-dir", out, "--csv", out.with_suffix(".csv"), "--provider", "cpu")
    assert result.exit_code == 3, result.output
    return out, flat(result.stderr)


def test_each_source_gets_its_own_results(batch: tuple[Path, str], face_video: Path, tmp_path: Path) -> None:
    out, _ = batch
    names = {f"{name}{suffix}" for name in ("1", "9", "10") for suffix in (".csv", ".mp4", ".png")}
    assert {path.name for path in out.iterdir()} == names
    assert run_command(face_video, "--csv", tmp_path / "alone.csv", "--provider", "cpu").exit_code == 0
    wanted = rows_of(tmp_path / "alone.csv")
    assert wanted
    for name in ("1", "9", "10"):
        found = rows_of(out / f"{name}.csv")
        assert len(found) == len(wanted)
        for row, other in zip(found, wanted, strict=True):
            assert {column: row[column] for column in EXACT} == {column: other[column] for column in EXACT}
            for column in ("entropy", *EXPRESSIONS):  # of faces that go through the encoder together, to rounding
                assert float(row[column]) == pytest.approx(float(other[column]), abs=1e-2)
    assert len(rows_of(out.with_suffix(".csv"))) == 3 * len(wanted)
    assert cv2.VideoCapture(str(out / "9.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == pytest.approx(
        cv2.VideoCapture(str(face_video)).get(cv2.CAP_PROP_FRAME_COUNT), abs=1
    )
    rates = [cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) for path in (face_video, out / "9.mp4")]
    assert rates[0] == pytest.approx(rates[1], rel=0.01)


def test_what_could_not_be_read_is_told(batch: tuple[Path, str], clips: Path) -> None:
    out, told = batch
    assert f"error: {clips / '2.mp4'}: " in told
    assert f"wrote {out}/: NAME.csv, NAME.mp4 and NAME.png of 3 sources" in told


def test_results_of_an_earlier_run_are_not_told_as_this_ones(face_video: Path, tmp_path: Path) -> None:
    names = [tmp_path / "1.mp4", tmp_path / "2.mp4"]
    for name in names:
        shutil.copy(face_video, name)
    options = RunOptions(names, video=tmp_path / "v.mp4", out_dir=tmp_path / "out", provider="cpu")
    first = run(options).files
    assert [line.split(" ")[0] for line in first] == [f"{tmp_path}/v-1.mp4", f"{tmp_path}/v-2.mp4", f"{tmp_path}/out/:"]
    names[1].write_bytes(b"no longer a video")
    second = run(options).files
    assert second[0] == first[0] and len(second) == 2
    assert second[1].endswith("of 1 source")


def test_few_are_open_at_once_and_their_results_are_closed_on_the_way(clips: Path, tmp_path: Path) -> None:
    whole: list[int] = []  # results that are finished when a source begins
    begun: list[str] = []

    class Look:
        def write(self, step: Step) -> None:
            if step.source not in begun:
                begun.append(step.source)
                whole.append(len(list((tmp_path / "out").glob("*.png"))))

        def close(self) -> None: ...

        discard = close

    run(RunOptions([clips], out_dir=tmp_path / "out", jobs=1, provider="cpu"), sinks=[Look()])
    assert [Path(name).name for name in begun] == ["1.mp4", "9.mp4", "10.mp4"]
    assert whole[0] == 0
    assert whole[2] >= 1  # the plot of a source is drawn when it ends


def test_a_result_never_overwrites_a_source(clips: Path) -> None:
    before = {path: path.read_bytes() for path in clips.iterdir()}
    result = run_command(clips, "--out-dir", clips)
    assert result.exit_code == 1
    assert "1.mp4 is a source; name another folder" in flat(result.stderr)
    assert {path: path.read_bytes() for path in clips.iterdir()} == before


def test_folders_that_cannot_be_written_are_refused(face_video: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, reason in ((tmp_path / "file", "is a file; name a folder"), (tmp_path / "a" / "b", "must exist")):
        result = run_command(face_video, "--out-dir", folder)
        assert result.exit_code == 1
        assert reason in flat(result.stderr)


def test_a_camera_that_is_not_there_does_not_end_the_others(face_video: Path, tmp_path: Path) -> None:
    result = run_command(face_video, "--camera", 63, "--csv", tmp_path / "o.csv", "--provider", "cpu")
    assert result.exit_code == 3, result.output
    assert "error: camera 63 does not open" in flat(result.stderr)
    assert rows_of(tmp_path / "o.csv")


def test_a_source_that_does_not_fit_the_window_fails_alone(face_video: Path, tmp_path: Path) -> None:
    """Two pictures a minute hold no window of 1.2 s; the film beside them is read."""
    slow = tmp_path / "slow.mp4"
    import av

    with av.open(str(slow), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    result = run_command(slow, face_video, "--csv", tmp_path / "o.csv", "--provider", "cpu")
    assert result.exit_code == 3, result.output
    assert "hold fewer than two frames" in flat(result.stderr)
    assert {row["source"] for row in rows_of(tmp_path / "o.csv")} == {str(face_video)}

"""The annotated video: it lasts as long as what it shows, plays when its writer was killed, and no error is silent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from dfer.runtime import RunOptions, open_source, run
from dfer.runtime.errors import DferError
from dfer.runtime.outputs import video
from dfer.runtime.outputs.video import VideoSink, find_ffmpeg

ENCODERS = ["opencv", pytest.param("ffmpeg", marks=pytest.mark.skipif(find_ffmpeg() is None, reason="no ffmpeg here"))]


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to encode that this machine has."""
    if request.param == "opencv":
        monkeypatch.setattr(video, "find_ffmpeg", lambda: None)
    return str(request.param)


def shown(path: Path) -> tuple[float, list[float]]:
    """Rate and the brightness of each frame of a video."""
    capture, values = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        values.append(float(read[1].mean()))
    return capture.get(cv2.CAP_PROP_FPS), values


def test_the_video_of_a_run_says_how_much_of_it_a_label_is_about(face_video: Path, tmp_path: Path) -> None:
    run(RunOptions([face_video], video=tmp_path / "o.mp4", provider="cpu"))
    with open_source(tmp_path / "o.mp4") as drawn, open_source(face_video) as filmed:
        *_, last = (abs(one.image.astype(int) - other.image) for one, other in zip(drawn, filmed, strict=True))
    assert last[-14:, :110].mean() > 10 > last[-14:, -110:].mean()


@pytest.mark.parametrize(("rate", "size"), [(89.927, (64, 48)), (239.761, (64, 48)), (24, (1, 300)), (25, (9000, 30))])
def test_odd_rates_and_sizes_are_written(encoder: str, tmp_path: Path, rate: float, size: tuple[int, int]) -> None:
    path = tmp_path / "o.mp4"
    with VideoSink(path, rate, size) as sink:
        for index in range(10):
            sink.write(np.full((size[1], size[0], 3), 20 * index, np.uint8), index / rate)
    written, values = shown(path)
    assert written == pytest.approx(rate, abs=0.5)
    assert len(values) == 10


def test_pictures_that_turn_keep_their_shape(encoder: str, tmp_path: Path) -> None:
    path = tmp_path / "o.mp4"
    with VideoSink(path, 25, (96, 64)) as sink:
        for index in range(10):
            sink.write(np.full((64, 96, 3) if index < 5 else (96, 64, 3), 200, np.uint8), index / 25)
    capture = cv2.VideoCapture(str(path))
    bright = [capture.read()[1].mean(axis=(0, 2)) > 100 for _ in range(10)]
    assert bright[2].all()
    assert bright[8].sum() == pytest.approx(64 * 64 / 96, abs=3) and bright[8][48]  # 43 columns, in the middle


def test_the_codec_is_told_and_is_the_files(encoder: str, tmp_path: Path) -> None:
    with VideoSink(tmp_path / "o.mp4", 25, (64, 48)) as sink:
        sink.write(np.zeros((48, 64, 3), np.uint8), 0)
    code = int(cv2.VideoCapture(str(tmp_path / "o.mp4")).get(cv2.CAP_PROP_FOURCC))
    assert {"H.264": b"h264", "MPEG-4": b"FMP4"}[sink.codec] == code.to_bytes(4, "little")
    assert encoder == "opencv" or sink.codec == "H.264"


def test_colours_are_those_of_the_frames(encoder: str, tmp_path: Path) -> None:
    with VideoSink(tmp_path / "o.mp4", 25, (64, 48)) as sink:
        sink.write(np.full((48, 64, 3), (200, 100, 30), np.uint8), 0)
    _, image = cv2.VideoCapture(str(tmp_path / "o.mp4")).read()
    assert np.abs(image[24, 32].astype(int) - (30, 100, 200)).max() < 8


def test_frames_stand_as_long_as_in_the_source(encoder: str, tmp_path: Path) -> None:
    with VideoSink(tmp_path / "o.mp4", 10, (64, 48)) as sink:
        for brightness, time in ((0, 0.0), (100, 0.5), (120, 0.52), (200, 0.6)):  # a stall, then a burst
            sink.write(np.full((48, 64, 3), brightness, np.uint8), time)
    _, values = shown(tmp_path / "o.mp4")
    assert np.abs(np.array(values) - [0, 0, 0, 0, 0, 100, 200]).max() < 12


@pytest.mark.parametrize("plain", [True, False])
def test_a_video_begins_with_its_first_frame(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    if not plain:  # an ffmpeg that cannot finish a file as a plain MP4
        monkeypatch.setattr(video, "_ends_plain", lambda _: False)
    with VideoSink(tmp_path / "o.mp4", 4, (64, 48)) as sink:
        for index in range(9):
            sink.write(np.full((48, 64, 3), 20 * index, np.uint8), index / 4)
    with av.open(tmp_path / "o.mp4") as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx([index / 4 for index in range(9)])


def test_a_source_that_was_away_for_hours_is_not_a_video_of_hours(encoder: str, tmp_path: Path) -> None:
    with VideoSink(tmp_path / "o.mp4", 2, (64, 48)) as sink:
        for time in (0.0, 30_000.0, 30_000.5):
            sink.write(np.zeros((48, 64, 3), np.uint8), time)
    assert len(shown(tmp_path / "o.mp4")[1]) == 23


def test_an_unfinished_video_is_removed(encoder: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), VideoSink(tmp_path / "o.mp4", 25, (64, 48)) as sink:
        sink.write(np.zeros((48, 64, 3), np.uint8), 0)
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_is_an_error_that_names_the_file(encoder: str, tmp_path: Path) -> None:
    with pytest.raises(DferError, match=r"missing/o\.mp4: .*No such file"):
        VideoSink(tmp_path / "missing" / "o.mp4", 25, (64, 48))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_ends_the_writing_with_an_error_that_names_the_file(encoder: str, tmp_path: Path) -> None:
    path = tmp_path / "o.mp4"
    path.symlink_to("/dev/full")
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    with pytest.raises(DferError, match=r"o\.mp4: the video cannot be written: .*No space left"):  # noqa: SIM117
        with VideoSink(path, 25, (320, 240)) as sink:
            for index in range(1000):
                sink.write(noise, index / 25)


WRITER = """
import sys, time, numpy as np
from pathlib import Path
from dfer.runtime.outputs import video
if sys.argv[2] == "opencv":
    video.find_ffmpeg = lambda: None
sink = video.VideoSink(Path(sys.argv[1]), 25, (320, 240))
rng = np.random.default_rng(0)
for index in range(200):
    image = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    sink.write(image, index / 25)
print("written", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("whole_group", [False, True])
def test_a_killed_run_leaves_a_video_that_plays(encoder: str, tmp_path: Path, whole_group: bool) -> None:
    """Either our process alone is killed, or the encoder with it (as when a container is stopped)."""
    path = tmp_path / "o.mp4"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), encoder], stdout=subprocess.PIPE)
    assert writer.stdout is not None and writer.stdout.readline() == b"written\n"
    children = Path(f"/proc/{writer.pid}/task/{writer.pid}/children")
    if whole_group and children.exists():
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)
    writer.kill()
    writer.wait()
    writer.stdout.close()
    _, values = wait_for(path, 100)
    assert len(values) >= 100


def wait_for(path: Path, frames: int) -> tuple[float, list[float]]:
    """The video, as soon as an encoder that was left alone has finished it."""
    import time

    for _ in range(600):
        read = shown(path)
        if len(read[1]) >= frames:
            break
        time.sleep(0.1)
    return read


def test_ctrl_c_is_not_for_ffmpeg_on_windows_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Process(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, creationflags: int = 0, **options: Any) -> None:
            started.append(creationflags)
            super().__init__(*arguments, **options)

    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\ncase $2 in -h) exit; esac\nexec cat > /dev/null\n")
    program.chmod(0o755)
    monkeypatch.setattr("dfer.runtime.outputs.video.find_ffmpeg", lambda: str(program))
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    monkeypatch.setattr(subprocess, "Popen", Process)
    VideoSink(tmp_path / "o.mp4", 25, (64, 48)).discard()
    assert started[-1] == 512


@pytest.mark.parametrize("at", ["the end", "a frame"])
def test_an_ffmpeg_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    monkeypatch.setattr("dfer.runtime.outputs.video._PATIENCE", 0.5)
    hanging = tmp_path / "ffmpeg"
    hanging.write_text("#!/bin/sh\ncase $2 in -version) echo --enable-libx264; exit;; -h) exit; esac\nexec sleep 600\n")
    hanging.chmod(0o755)
    monkeypatch.setattr("dfer.runtime.outputs.video.find_ffmpeg", lambda: str(hanging))
    video = VideoSink(tmp_path / "o.mp4", 25, (1280, 720))
    if at == "a frame":  # which is larger than a pipe
        with pytest.raises(DferError, match=r"o.mp4: ffmpeg took nothing for 0.5 s and was killed"):
            video.write(np.zeros((720, 1280, 3), np.uint8), 0.0)
        video.close()
        return
    with pytest.raises(DferError, match=r"o.mp4: ffmpeg did not end within 0.5 s and was killed"):
        video.close()

"""Sources: every frame of a file with its time, only the newest of a stream, clear words for what is neither."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from dfer.runtime import sources
from dfer.runtime.errors import DferError
from dfer.runtime.sources import LiveSource, VideoFile, open_source, without_credentials
from helpers import write_video


def counting_frames(count: int) -> list[np.ndarray]:
    """Frames whose brightness tells their number."""
    return [np.full((64, 96, 3), 2 * index, np.uint8) for index in range(count)]


def test_a_video_gives_every_frame_in_rgb_at_its_time(tmp_path: Path) -> None:
    red = [np.tile(np.array([200, 20, 20], np.uint8), (64, 96, 1)) for _ in range(20)]
    with open_source(write_video(tmp_path / "v.mp4", red, 25)) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(20))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(20) / 25, atol=1e-3)
    assert np.abs(frames[5].image.mean(axis=(0, 1)) - [200, 20, 20]).max() < 12
    assert (source.rate, source.count, source.live) == (25, 20, False)


def test_a_truncated_video_gives_what_decodes_and_one_warning(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 120, 160, 3), dtype=np.uint8)
    whole = write_video(tmp_path / "whole.avi", list(noise), 25).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    warnings: list[str] = []
    with open_source(tmp_path / "cut.avi", warn=warnings.append) as source:
        count = len(list(source))
    assert 10 < count < 60
    assert source.count == 60
    assert len(warnings) == 1
    assert "truncated" in warnings[0]


@pytest.mark.parametrize("content", [b"", b"not a video", bytes(range(256)) * 50])
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(DferError, match=r"x.mp4: (not a video|no frame)"):
        open_source(tmp_path / "x.mp4")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DferError, match=r"gone.mp4: no such file"):
        open_source(tmp_path / "gone.mp4")


def test_a_folder_is_read_in_natural_order_at_the_rate_asked_for(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8, 3), number, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    with open_source(tmp_path, image_rate=4) as source:
        frames = list(source)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 2, 10]
    assert [frame.time for frame in frames] == [0.0, 0.25, 0.5]


def test_a_broken_image_is_left_out_with_a_warning_and_a_folder_without_images_refused(tmp_path: Path) -> None:
    with pytest.raises(DferError, match="holds no images"):
        open_source(tmp_path)
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "2.png").write_bytes(b"broken")
    warnings: list[str] = []
    with open_source(tmp_path, warn=warnings.append) as source:
        assert len(list(source)) == 1
    assert "2.png" in warnings[0]
    (tmp_path / "0.png").write_bytes(b"also broken, and first")
    with open_source(tmp_path) as source:
        assert [frame.index for frame in source] == [1]
    (tmp_path / "1.png").unlink()
    with pytest.raises(DferError, match="not an image"):
        open_source(tmp_path)


def test_a_camera_that_does_not_open_says_so() -> None:
    with pytest.raises(DferError, match="camera 63 does not open"):
        open_source(63)


class FakeCapture:
    """A camera of 50 frames a second that ends, breaks, or never gives a picture, after `count` frames."""

    def __init__(self, count: int, fault: Exception | None = None) -> None:
        self.count, self.fault, self.released = count, fault, False

    def isOpened(self) -> bool:
        return True

    def get(self, _: int) -> float:
        return 50.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.02)
        self.count -= 1
        if self.count < 0:
            if self.fault is not None:
                raise self.fault
            return False, None
        return True, np.zeros((4, 4, 3), np.uint8)

    def release(self) -> None:
        self.released = True


def live(capture: FakeCapture, monkeypatch: pytest.MonkeyPatch, warnings: list[str]) -> LiveSource:
    monkeypatch.setattr(sources, "_open_capture", lambda _: capture)
    return LiveSource(0, "camera 0", "", warnings.append)


def test_a_live_source_drops_what_is_not_taken_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, warnings = [], list[str]()
    with live(FakeCapture(60), monkeypatch, warnings) as source:
        for frame in source:
            frames.append(frame)
            time.sleep(0.1)
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    assert indices[-1] == 59  # the newest there is
    assert len(indices) < 40
    assert all(later.time > earlier.time for earlier, later in pairwise(frames))
    assert warnings == ["camera 0: gives no more pictures"]


def test_closing_a_live_source_ends_its_thread_and_frees_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    capture = FakeCapture(1_000_000)
    source = live(capture, monkeypatch, warnings)
    next(iter(source))
    source.close()
    assert not source._thread.is_alive()
    assert capture.released
    assert list(source) == [] or warnings == []
    assert not warnings


def test_a_camera_without_pictures_and_one_that_breaks_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = FakeCapture(0)
    with pytest.raises(DferError, match="opens but gives no picture"):
        live(capture, monkeypatch, [])
    assert capture.released
    source = live(FakeCapture(3, RuntimeError("USB went away")), monkeypatch, [])
    with pytest.raises(DferError, match="camera 0: reading failed: USB went away"):
        list(source)


def test_time_rises_where_stamps_do_not(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", counting_frames(6), 10)
    source = VideoFile(str(path), "v", "", lambda _: None)
    stamps = iter([0.0, 0.0, 0.1, 0.05, 0.9])
    source._first = (source._first[0], 0.0)  # type: ignore[index]
    read = source._read
    source._read = lambda: (found[0], next(stamps)) if (found := read()) else None  # type: ignore[method-assign]
    times = [frame.time for frame in source]
    assert len(times) == 6
    assert (np.diff(times) > 0).all()
    assert times[-1] == pytest.approx(0.9)


@pytest.mark.parametrize("password", ["s3cret", "s3c/ret", "s3c#ret", "s3c?ret", "s3c@ret", "s3c:ret", "s3c[ret"])
def test_names_hold_no_credentials(password: str) -> None:
    name = without_credentials(f"rtsp://admin:{password}@10.0.0.7:554/live?token=abc#x")
    assert name == "rtsp://10.0.0.7:554/live"


@pytest.mark.parametrize(
    "url", ["rtsp://admin:s3c/ret@127.0.0.1:9/live", "http://a:s3c@127.0.0.1:9/v.mp4", "http://[a/x"]
)
def test_an_address_that_does_not_open_says_so_without_its_password(url: str) -> None:
    with pytest.raises(DferError, match="does not open; check the address") as caught:
        open_source(url)
    assert "s3c" not in str(caught.value)

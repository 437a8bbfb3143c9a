"""Live sources: the newest picture, through damage, silence, lost connections and closing; nothing leaks or hangs."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dfer.runtime.errors import DferError
from dfer.runtime.sources import Frame, LiveSource, Source, SourceReaders, open_source
from dfer.runtime.sources.captures import Capture
from dfer.runtime.sources.deferred import DeferredSource
from dfer.runtime.sources.live import pauses
from helpers import ctrl_c_as_on_windows
from streams import MjpegServer, RtspServer, StreamServer


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses in which a test can wait, and limits that a machine which stands still for seconds does not reach."""
    monkeypatch.setattr("dfer.runtime.sources.live.FIRST_PAUSE", 0.05)
    monkeypatch.setattr("dfer.runtime.sources.live.LONGEST_PAUSE", 0.2)
    monkeypatch.setattr("dfer.runtime.sources.captures.READ_TIMEOUT", 30.0)
    monkeypatch.setattr("dfer.runtime.sources.captures.OPEN_TIMEOUT", 30.0)
    monkeypatch.setattr("dfer.runtime.sources.readers._PATIENCE", 30.0)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    yield
    for _ in range(1000):
        if not any(thread.name.startswith(("reader of", "opening")) for thread in threading.enumerate()):
            return
        time.sleep(0.02)
    pytest.fail("a reader thread was left behind")


class Device:
    """What stands for a camera in OpenCV: 100 frames a second, `count` of them; then it is gone, breaks, or hangs."""

    def __init__(self, count: int, fault: Exception | None = None, hang: threading.Event | None = None) -> None:
        self.count, self.fault, self.hang = count, fault, hang
        self.released = threading.Event()
        self.given: dict[int, float] = {cv2.CAP_PROP_FPS: 30, cv2.CAP_PROP_FRAME_WIDTH: 640}
        self.given[cv2.CAP_PROP_FRAME_HEIGHT] = 480
        self.asked: list[tuple[int, float]] = []

    def isOpened(self) -> bool:
        return True

    def get(self, key: int) -> float:
        return self.given.get(key, 0.0)

    def set(self, key: int, value: float) -> bool:
        self.asked.append((key, value))
        return True

    def grab(self) -> bool:
        assert not self.released.is_set(), "read after release"
        if self.count == 0:
            if self.hang is not None:
                self.hang.wait()
            if self.fault is not None:
                raise self.fault
            return False
        time.sleep(0.01)
        self.count -= 1
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.zeros((4, 4, 3), np.uint8)

    def release(self) -> None:
        self.released.set()


def camera(*devices: Device, warnings: list[str] | None = None, tries: int = 0) -> LiveSource:
    """A camera that is `devices`, one after the other, each time it is looked for again."""
    found = iter(devices)

    def connect() -> Capture | None:
        return None if (device := next(found, None)) is None else Capture(device)

    first = connect()
    assert first is not None
    return LiveSource(first, connect, "camera 0", ([] if warnings is None else warnings).append, tries)


def test_a_live_source_drops_what_is_not_taken_in_time() -> None:
    frames, warnings = [], list[str]()
    with camera(Device(60), warnings=warnings) as source:
        for frame in source:
            frames.append(frame)
            time.sleep(0.05)
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    assert indices[-1] == 59  # the newest there is
    assert len(indices) < 40
    assert all(early.time < late.time and early.arrived < late.arrived for early, late in pairwise(frames))
    assert all((frame.time == 0) == (frame.index == 0) for frame in frames)  # the first may be dropped
    assert warnings == ["camera 0: gives no more pictures"]


def test_time_rises_though_the_clock_ticks_less_often_than_pictures_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.sources.live.monotonic", lambda: 5.0)
    with camera(Device(5)) as source:
        times = [frame.time for frame in source.frames()]
    assert times[0] == 0 and len(times) == 5
    assert all(early < late for early, late in pairwise(times))


def test_a_camera_pulled_out_and_put_back_goes_on_in_time_and_number() -> None:
    warnings: list[str] = []
    devices = [Device(20), Device(0), Device(1_000_000)]  # the second opens, but gives no picture yet
    with SourceReaders([camera(*devices, warnings=warnings, tries=3)]) as readers:
        frames = []
        for [(_, frame)] in readers.batches():
            frames.append(frame)
            if frame.index >= 30:
                break
        assert readers.readers[0].state == "running"
    assert all(device.released.is_set() for device in devices)
    assert all(early.time < late.time for early, late in pairwise(frames))
    assert frames[-1].time > 0.4  # 29 pictures and two pauses of reconnecting
    assert warnings[0] == "camera 0: lost; reconnecting"
    assert warnings[1].startswith("camera 0: back after ")
    assert len(warnings) == 2


def test_a_camera_that_stays_away_is_an_error_after_the_tries() -> None:
    warnings: list[str] = []
    with SourceReaders([camera(Device(3), warnings=warnings, tries=2)]) as readers:
        with pytest.raises(DferError, match="camera 0: lost, and not back after 2 tries"):
            list(readers.batches())
        assert readers.readers[0].state == "failed"
    assert warnings == ["camera 0: lost; reconnecting"]


def test_pauses_double_up_to_the_longest_however_often_it_is_tried() -> None:
    assert list(pauses(5)) == [0.05, 0.1, 0.2, 0.2, 0.2]
    assert list(pauses(3000))[-1] == 0.2


def test_the_state_tells_of_reconnecting_and_closing_cuts_the_pause_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.sources.live.FIRST_PAUSE", 60.0)
    monkeypatch.setattr("dfer.runtime.sources.live.LONGEST_PAUSE", 60.0)
    with SourceReaders([camera(Device(3), tries=1), camera(Device(1_000_000))]) as readers:
        assert readers.readers[1].name == "camera 0 #2"
        for batch in readers.batches():
            if readers.readers[0].state == "reconnecting" and batch[-1][1].index > 20:
                break
    assert [reader.state for reader in readers.readers] == ["ended", "ended"]


def test_a_camera_that_breaks_or_never_gives_a_picture_is_an_error() -> None:
    device = Device(0)
    with pytest.raises(DferError, match="camera 0 opens but gives no picture"):
        camera(device)
    assert device.released.is_set()
    with pytest.raises(DferError, match="camera 0: reading failed: USB went away"):
        list(camera(Device(3, RuntimeError("USB went away"))))


def test_closing_a_live_source_ends_its_reader_and_frees_the_device() -> None:
    device, warnings = Device(1_000_000), list[str]()
    source = camera(device, warnings=warnings, tries=5)
    frames = iter(source)
    assert next(frames).index >= 0
    source.close()
    list(frames)
    assert device.released.wait(60)
    assert warnings == []


def test_a_stream_that_is_not_up_when_a_run_begins_is_tried_again() -> None:
    warnings: list[str] = []
    answers = iter([DferError("camera 0 does not open"), DferError("camera 0 does not open"), None])

    def opening() -> Source:
        if error := next(answers):
            raise error
        return camera(Device(5))

    frames = list(DeferredSource("camera 0", opening, warnings.append, live=True, tries=2).frames())
    assert len(frames) == 5
    assert warnings == ["camera 0 does not open; trying again"] * 2
    answers = iter([DferError("camera 0 does not open")] * 3)
    with pytest.raises(DferError, match=r"does not open$"):
        list(DeferredSource("camera 0", opening, warnings.append, live=True, tries=2).frames())


def test_closing_during_a_read_that_hangs_returns_and_frees_the_device_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.sources.readers._PATIENCE", 0.1)
    driver, warnings = threading.Event(), list[str]()
    device = Device(3, hang=driver)
    with SourceReaders([camera(device, warnings=warnings, tries=5)]) as readers:
        for [(_, frame)] in readers.batches():
            if frame.index == 2:
                break
    assert not device.released.is_set()  # releasing under a running read crashes OpenCV
    driver.set()
    assert device.released.wait(60)
    assert warnings == []


def test_a_first_picture_that_never_comes_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.sources.live._FIRST_PICTURE", 0.1)
    driver = threading.Event()
    device = Device(0, hang=driver)
    with pytest.raises(DferError, match="opens but gives no picture"):
        camera(device)
    driver.set()
    assert device.released.wait(60)


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_ctrl_c_ends_the_waiting_for_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.sources.readers._PATIENCE", 0.1)
    device = Device(1, hang=(driver := threading.Event()))
    with camera(device) as source, ctrl_c_as_on_windows():
        list(source)
    driver.set()


def test_macos_may_ask_for_the_permission_to_use_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which it does in the main thread only."""
    threads: list[str] = []
    camera = "dfer.runtime.sources.opening.open_camera"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(camera, lambda *_: threads.append(threading.current_thread().name))
    with pytest.raises(DferError, match=r"camera 63 does not open.*Privacy & Security, Camera"):
        open_source(63)
    assert threads == ["MainThread"]


@pytest.mark.parametrize(
    ("size", "fps", "motion_jpeg"),
    [(None, None, False), ((640, 480), 30.0, False), ((640, 480), 60.0, True), ((1280, 720), None, True)],
)
def test_a_camera_is_asked_for_mjpg_where_raw_video_does_not_fit_through_usb(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int] | None, fps: float | None, motion_jpeg: bool
) -> None:
    device = Device(5)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: device)
    open_source(0, size=size, fps=fps).close()
    asked = dict(device.asked)
    assert (asked.get(cv2.CAP_PROP_FOURCC) == cv2.VideoWriter.fourcc(*"MJPG")) == motion_jpeg
    assert (asked.get(cv2.CAP_PROP_FRAME_WIDTH), asked.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (size or (None, None))
    assert asked.get(cv2.CAP_PROP_FPS) == fps
    if motion_jpeg:
        assert device.asked[0][0] == cv2.CAP_PROP_FOURCC


def test_a_camera_that_gives_something_else_than_asked_for_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: Device(5))
    warnings: list[str] = []
    open_source("/dev/video7", warn=warnings.append, size=(1920, 1080), fps=60).close()
    assert warnings == [
        "/dev/video7: gives 640×480 pixels, not the 1920×1080 asked for",
        "/dev/video7: gives 30 frames per second, not the 60 asked for",
    ]


@pytest.mark.parametrize("place", [63, "/dev/video63"])
def test_a_camera_that_does_not_open_says_so(place: int | str) -> None:
    with pytest.raises(DferError, match=r"(camera 63|/dev/video63) does not open"):
        open_source(place)


@pytest.fixture(params=["http", "rtsp"])
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StreamServer]:
    with MjpegServer() if request.param == "http" else RtspServer(_transport_stream(tmp_path / "v.ts")) as server:
        yield server


def _transport_stream(path: Path) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    for index in range(200):
        writer.write(np.full((48, 64, 3), index, np.uint8))
    writer.release()
    return path


def test_a_stream_gives_pictures_and_its_name_no_password(stream: Any) -> None:
    with open_source(stream.url) as source:
        frames = [frame for frame, _ in zip(source, range(10), strict=False)]
    assert source.live
    assert source.name == f"{stream.url.split(':')[0]}://127.0.0.1:{stream.port}/live"
    assert frames[0].image.shape == (48, 64, 3)
    assert all(early.time < late.time for early, late in pairwise(frames))


def test_a_stream_killed_and_restarted_goes_on(stream: Any) -> None:
    warnings: list[str] = []
    with SourceReaders([open_source(stream.url, warn=warnings.append, reconnect_tries=50)]) as readers:
        (reader,) = readers.readers
        frames: list[Frame] = []
        enough = 10**9
        for [(_, frame)] in readers.batches():
            frames.append(frame)
            if len(frames) == 10:
                stream.close()
                threading.Timer(0.3, stream.open).start()
            if len(warnings) == 2:  # lost, and back
                enough = min(enough, len(frames) + 10)
                if len(frames) == enough:
                    break
        assert reader.state == "running"
    assert all(early.time < late.time for early, late in pairwise(frames))
    assert all(early.index < late.index for early, late in pairwise(frames))
    assert frames[-1].index + 1 >= len(frames) + reader.dropped
    assert "lost; reconnecting" in warnings[0]
    assert "back after" in warnings[1]
    assert len(warnings) == 2
    assert "s3cret" not in "".join(warnings)


def test_a_stream_that_falls_silent_counts_as_lost_and_stalls_no_other(
    stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    with MjpegServer() as other:
        always = open_source(other.url)
        monkeypatch.setattr("dfer.runtime.sources.captures.READ_TIMEOUT", 1.0)
        sources = [open_source(stream.url, warn=warnings.append, reconnect_tries=2), always]
        monkeypatch.setattr("dfer.runtime.sources.captures.OPEN_TIMEOUT", 0.4)
        with SourceReaders(sources) as readers:
            quiet, steady = readers.readers
            after = 0
            for batch in readers.batches():
                if batch[0][1].index >= 5:  # just the fifth may have been dropped
                    stream.silent.set()
                if quiet.state == "failed":
                    after += any(reader is steady for reader, _ in batch)
                    if after == 5:
                        break
            assert steady.state == "running"
    assert warnings[-2:] == [f"{quiet.name}: lost; reconnecting", quiet.error]  # before, where this machine stood still
    assert quiet.error == f"{quiet.name}: lost, and not back after 2 tries to reconnect"


def test_a_damaged_picture_in_a_stream_does_not_end_it() -> None:
    warnings: list[str] = []
    with MjpegServer(frozenset({5, 6, 20})) as server, open_source(server.url, warn=warnings.append) as source:
        last = next(frame for frame in source if frame.index >= 40)
    assert last.image.shape == (48, 64, 3)
    assert warnings == []


@pytest.mark.long
def test_a_server_that_never_answers_does_not_hold_up_opening(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.sources.captures.OPEN_TIMEOUT", 0.4)
    with StreamServer() as mute:
        mute.serve = lambda client: mute.silent.wait(30)  # type: ignore[method-assign]
        with pytest.raises(DferError, match="does not open; check the address"):
            open_source(stream.url.replace(str(stream.port), str(mute.port)))
        mute.silent.set()


def test_opencv_stays_quiet_and_talks_again_afterwards(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfer.runtime.sources.captures.READ_TIMEOUT", 0.4)
    log: Any = getattr(cv2.utils, "logging", cv2)
    before = log.getLogLevel()
    with MjpegServer() as server, open_source(server.url, reconnect_tries=0) as source:
        for frame in source:
            if frame.index >= 3:
                server.silent.set()
    assert capfd.readouterr().err == ""
    assert log.getLogLevel() == before


def test_an_opencv_before_4_13_is_quietened_by_its_own_name_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = [3]

    def set_level(level: int) -> int:
        levels.append(level)
        return levels[-2]

    monkeypatch.delattr(cv2.utils, "logging", raising=False)
    monkeypatch.setattr(cv2, "setLogLevel", set_level, raising=False)
    with pytest.raises(DferError, match="camera 63 does not open"):
        open_source(63)
    assert levels == [3, 0, 3]

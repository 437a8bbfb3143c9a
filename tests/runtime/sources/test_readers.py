"""Feeds: several sources at once, none of which can stall, starve or break the others."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfer.runtime.errors import DferError
from dfer.runtime.sources import Feeds, Frame, Source, open_source, open_sources
from helpers import write_video


class Written(Source):
    """A source of `length` frames, each after `pause` seconds; then it ends, or raises `fault`, or hangs on a gate."""

    def __init__(
        self,
        length: int,
        pause: float = 0.0,
        *,
        name: str = "written",
        live: bool = False,
        fault: Exception | None = None,
        gate: threading.Event | None = None,
    ) -> None:
        self.name, self.rate, self.count = name, 50.0, length
        self.live = live  # type: ignore[misc]
        self.length, self.pause, self.fault, self.gate = length, pause, fault, gate
        self.warnings: list[str] = []
        self.warn = self.warnings.append
        self.read = 0
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.length):
            time.sleep(self.pause)
            self.read += 1
            yield Frame(np.zeros((4, 4, 3), np.uint8), index, index / 50, arrived=time.monotonic())
        if self.gate is not None:
            self.gate.wait()
        if self.fault is not None:
            raise self.fault

    def close(self) -> None:
        self.closed.set()


def readers() -> int:
    return sum(thread.name.startswith("reader of") for thread in threading.enumerate())


def film(path: Path, count: int, rate: float = 25) -> Path:
    return write_video(path, [np.full((48, 64, 3), index % 250, np.uint8) for index in range(count)], rate)


def test_several_files_give_every_frame_in_order_and_at_most_one_of_each_a_tick(tmp_path: Path) -> None:
    places = [film(tmp_path / f"{name}.mp4", 20 + 5 * number) for number, name in enumerate("abc")]
    seen: dict[str, list[int]] = {str(place): [] for place in places}
    with Feeds(open_sources(places)) as feeds:
        assert [feed.number for feed in feeds.feeds] == [0, 1, 2]
        assert [feed.count for feed in feeds.feeds] == [20, 25, 30]
        for tick in feeds.ticks():
            assert tick
            numbers = [feed.number for feed, _ in tick]
            assert numbers == sorted(set(numbers))
            for feed, frame in tick:
                seen[feed.name].append(frame.index)
        assert {feed.state for feed in feeds.feeds} == {"ended"}
    assert [seen[str(place)] for place in places] == [list(range(length)) for length in (20, 25, 30)]
    assert readers() == 0


def test_when_frames_are_used_slowly_files_wait_and_advance_together() -> None:
    sources = [Written(30, name=name) for name in "abcd"]
    taken: Counter[str] = Counter()
    with Feeds(sources) as feeds:
        for tick in feeds.ticks():
            time.sleep(0.005)
            taken.update(feed.name for feed, _ in tick)
            if 10 < sum(taken.values()) < 100:
                assert max(taken.values()) - min(taken.values()) <= 5
            assert all(source.read <= taken[source.name] + 4 for source in sources)  # two waiting, one in hand
    assert set(taken.values()) == {30}
    assert {feed.dropped for feed in feeds.feeds} == {0}


def test_a_source_that_stalls_holds_up_no_other() -> None:
    gate = threading.Event()
    stalled, swift = Written(2, name="stalled", gate=gate), Written(200, name="swift")
    last: dict[str, int] = {}
    with Feeds([stalled, swift]) as feeds:
        for tick in feeds.ticks():
            for feed, frame in tick:
                last[feed.name] = frame.index
            if last.get("swift") == 199 and last.get("stalled") == 1:
                assert feeds.feeds[0].state == "running"
                gate.set()  # only now does the first source end, and with it all
    assert last == {"stalled": 1, "swift": 199}


def test_one_of_several_that_fails_is_warned_of_and_the_others_go_on() -> None:
    broken = Written(3, name="broken", fault=DferError("broken: lost for good"))
    odd = Written(3, name="odd", fault=ValueError("a bug"))
    whole = Written(50, 0.001, name="whole")
    taken: Counter[str] = Counter()
    with Feeds([broken, odd, whole]) as feeds:
        for tick in feeds.ticks():
            taken.update(feed.name for feed, _ in tick)
    assert taken == {"broken": 3, "odd": 3, "whole": 50}
    assert [feed.state for feed in feeds.feeds] == ["failed", "failed", "ended"]
    assert [feed.error for feed in feeds.feeds] == ["broken: lost for good", "odd: reading failed: a bug", None]
    assert (broken.warnings, odd.warnings) == (["broken: lost for good"], ["odd: reading failed: a bug"])
    assert all(source.closed.is_set() for source in (broken, odd, whole))


@pytest.mark.parametrize(
    ("fault", "message"), [(DferError("alone: lost"), "alone: lost"), (OSError("bad disk"), "written: .*: bad disk")]
)
def test_the_failure_of_a_single_source_is_raised_after_its_last_frame(fault: Exception, message: str) -> None:
    source, taken = Written(3, fault=fault), []
    with Feeds([source]) as feeds, pytest.raises(DferError, match=message) as caught:
        for tick in feeds.ticks():
            taken += tick
    assert len(taken) == 3
    assert caught.value.__cause__ is fault
    assert source.warnings == []
    assert feeds.feeds[0].state == "failed"


def test_of_a_live_source_the_newest_frame_is_taken_and_the_others_counted() -> None:
    frames = []
    with Feeds([Written(60, 0.005, live=True)]) as feeds:
        for [(_, frame)] in feeds.ticks():
            frames.append(frame)
            time.sleep(0.03)
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    assert indices[-1] == 59
    assert len(indices) < 40
    assert len(indices) + feeds.feeds[0].dropped == 60


def test_a_file_played_as_if_live_takes_its_time_and_drops_what_nobody_took(tmp_path: Path) -> None:
    path = film(tmp_path / "v.mp4", 26, rate=50)
    begin = time.monotonic()
    with Feeds([open_source(path)], realtime=True) as feeds:
        assert feeds.feeds[0].live
        frames = [frame for [(_, frame)] in feeds.ticks()]
    assert time.monotonic() - begin >= 0.5
    offsets = [frame.arrived - frame.time for frame in frames]
    assert min(offsets) >= offsets[0] - 1e-3  # never early
    assert len(frames) + feeds.feeds[0].dropped == 26
    with Feeds([open_source(path)], realtime=True) as feeds:
        frames = []
        for [(_, frame)] in feeds.ticks():
            frames.append(frame)
            time.sleep(0.08)
    assert len(frames) < 16
    assert feeds.feeds[0].dropped == 26 - len(frames)
    assert frames[-1].index == 25
    assert all(early.time < late.time for early, late in pairwise(frames))


def test_sources_of_one_name_are_told_apart() -> None:
    sources = [Written(1, name=name) for name in ("a", "b", "a", "a #2", "a")]
    with Feeds(sources) as feeds:
        names = [feed.name for feed in feeds.feeds]
    assert names == ["a", "b", "a #3", "a #2", "a #4"]
    assert [source.name for source in sources] == names


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "a #2", "a #3", "b", "a #2 #2"]), max_size=8))
def test_however_sources_are_named_no_two_share_a_name(names: list[str]) -> None:
    with Feeds([Written(0, name=name) for name in names]) as feeds:
        given_names = [feed.name for feed in feeds.feeds]
    assert len(set(given_names)) == len(names)
    assert all(new == old or new.startswith(f"{old} #") for new, old in zip(given_names, names, strict=True))
    assert set(names) <= set(given_names)


def test_closing_ends_readers_that_wait_for_room_or_for_their_time() -> None:
    full, paced = Written(1000), Written(1000)
    with Feeds([full]) as feeds, Feeds([paced], realtime=True) as slow:
        next(feeds.ticks())
        next(slow.ticks())
    assert readers() == 0
    assert full.closed.is_set()
    assert paced.closed.is_set()
    assert list(feeds.ticks()) == []


def test_closing_does_not_wait_for_a_read_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.sources.readers._PATIENCE", 0.1)
    gate = threading.Event()
    hanging = Written(1, gate=gate, fault=OSError("after all"))
    feeds = Feeds([hanging])
    ticks = feeds.ticks()
    next(ticks)
    threading.Timer(0.1, feeds.close).start()  # as Ctrl-C does, while the next frame is waited for
    assert list(ticks) == []
    assert hanging.closed.is_set()
    gate.set()
    for _ in range(100):
        if readers() == 0:
            break
        time.sleep(0.02)
    assert readers() == 0
    assert hanging.warnings == []


def test_no_sources_give_no_ticks() -> None:
    with Feeds([]) as feeds:
        assert list(feeds.ticks()) == []


def test_images_and_films_can_run_together_and_release_their_files(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((8, 8, 3), np.uint8))
    film(tmp_path / "v.mp4", 5)
    with Feeds(open_sources([tmp_path, tmp_path / "*.mp4"])) as feeds:
        taken = Counter(feed.number for tick in feeds.ticks() for feed, _ in tick)
    assert taken == {0: 3, 1: 5}
    if Path("/proc/self/fd").exists():
        links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        assert not [link for link in links if link.suffix == ".mp4"]

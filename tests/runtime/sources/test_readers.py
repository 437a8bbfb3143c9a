"""SourceReaders: several sources at once, none of which can stall, starve or break the others."""

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
from hypothesis import given
from hypothesis import strategies as st

from dfer.runtime.errors import DferError
from dfer.runtime.sources import Frame, Source, SourceReaders, open_source, open_sources
from helpers import write_video


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing waits for the readers' threads, though this machine stands still for seconds."""
    monkeypatch.setattr("dfer.runtime.sources.readers._PATIENCE", 30.0)


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


def reader_threads() -> int:
    return sum(thread.name.startswith("reader of") for thread in threading.enumerate())


def film(path: Path, count: int, rate: float = 25) -> Path:
    return write_video(path, [np.full((48, 64, 3), index % 250, np.uint8) for index in range(count)], rate)


def test_several_files_give_every_frame_in_order_and_at_most_one_of_each_a_tick(tmp_path: Path) -> None:
    places = [film(tmp_path / f"{name}.mp4", 20 + 5 * number) for number, name in enumerate("abc")]
    seen: dict[str, list[int]] = {str(place): [] for place in places}
    with SourceReaders(open_sources(places)) as readers:
        assert [reader.number for reader in readers.readers] == [0, 1, 2]
        for batch in readers.batches():
            assert batch
            numbers = [reader.number for reader, _ in batch]
            assert numbers == sorted(set(numbers))
            for reader, frame in batch:
                seen[reader.name].append(frame.index)
        assert {reader.state for reader in readers.readers} == {"ended"}
        assert [reader.count for reader in readers.readers] == [20, 25, 30]
    assert [seen[str(place)] for place in places] == [list(range(length)) for length in (20, 25, 30)]
    assert reader_threads() == 0


def test_when_frames_are_used_slowly_files_wait_and_advance_together() -> None:
    sources = [Written(30, name=name) for name in "abcd"]
    taken: Counter[str] = Counter()
    with SourceReaders(sources) as readers:
        for batch in readers.batches():
            taken.update(reader.name for reader, _ in batch)
            if 10 < sum(taken.values()) < 100:
                assert max(taken.values()) - min(taken.values()) <= 5
            assert all(source.read <= taken[source.name] + 4 for source in sources)  # two waiting, one in hand
            while not all(reader.waiting or reader.state in ("ended", "failed") for reader in readers.readers):
                time.sleep(0.001)  # slower than any of them
    assert set(taken.values()) == {30}
    assert {reader.dropped for reader in readers.readers} == {0}


def test_a_source_that_stalls_holds_up_no_other() -> None:
    gate = threading.Event()
    stalled, swift = Written(2, name="stalled", gate=gate), Written(200, name="swift")
    last: dict[str, int] = {}
    with SourceReaders([stalled, swift]) as readers:
        for batch in readers.batches():
            for reader, frame in batch:
                last[reader.name] = frame.index
            if last.get("swift") == 199 and last.get("stalled") == 1:
                assert readers.readers[0].state == "running"
                gate.set()  # only now does the first source end, and with it all
    assert last == {"stalled": 1, "swift": 199}


def test_one_of_several_that_fails_is_warned_of_and_the_others_go_on() -> None:
    broken = Written(3, name="broken", fault=DferError("broken: lost for good"))
    odd = Written(3, name="odd", fault=ValueError("a bug"))
    whole = Written(50, 0.001, name="whole")
    taken: Counter[str] = Counter()
    with SourceReaders([broken, odd, whole]) as readers:
        for batch in readers.batches():
            taken.update(reader.name for reader, _ in batch)
    assert taken == {"broken": 3, "odd": 3, "whole": 50}
    assert [reader.state for reader in readers.readers] == ["failed", "failed", "ended"]
    assert [reader.error for reader in readers.readers] == ["broken: lost for good", "odd: reading failed: a bug", None]
    assert (broken.warnings, odd.warnings) == (["broken: lost for good"], ["odd: reading failed: a bug"])
    assert all(source.closed.is_set() for source in (broken, odd, whole))


@pytest.mark.parametrize(
    ("fault", "message"), [(DferError("alone: lost"), "alone: lost"), (OSError("bad disk"), "written: .*: bad disk")]
)
def test_the_failure_of_a_single_source_is_raised_after_its_last_frame(fault: Exception, message: str) -> None:
    source, taken = Written(3, fault=fault), []
    with SourceReaders([source]) as readers, pytest.raises(DferError, match=message) as caught:
        for batch in readers.batches():
            taken += batch
    assert len(taken) == 3
    assert caught.value.__cause__ is fault
    assert source.warnings == []
    assert readers.readers[0].state == "failed"


def test_of_a_live_source_the_newest_frame_is_taken_and_the_others_counted() -> None:
    frames = []
    with SourceReaders([Written(60, 0.005, live=True)]) as readers:
        for [(_, frame)] in readers.batches():
            frames.append(frame)
            time.sleep(0.03)
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    assert indices[-1] == 59
    assert len(indices) < 40
    assert len(indices) + readers.readers[0].dropped == 60


def test_what_a_frame_of_a_file_waited_to_be_taken_is_none_of_its_latency() -> None:
    with SourceReaders([Written(2)]) as readers:
        while not readers.readers[0].waiting:
            time.sleep(0.001)
        time.sleep(0.05)
        asked = time.monotonic()
        [(_, frame)] = next(readers.batches())
    assert asked <= frame.arrived <= time.monotonic()


def test_a_file_played_as_if_live_takes_its_time_and_drops_what_nobody_took(tmp_path: Path) -> None:
    path = film(tmp_path / "v.mp4", 26, rate=50)
    begin = time.monotonic()
    with SourceReaders([open_source(path)], realtime=True) as readers:
        assert readers.readers[0].live
        frames = [frame for [(_, frame)] in readers.batches()]
        begun = readers.readers[0]._begin
    assert time.monotonic() - begin >= 0.5
    assert begun is not None and all(frame.arrived >= begun + frame.time - 1e-3 for frame in frames)  # never early
    assert len(frames) + readers.readers[0].dropped == 26
    with SourceReaders([open_source(path)], realtime=True) as readers:
        frames = []
        for [(_, frame)] in readers.batches():
            frames.append(frame)
            time.sleep(0.08)
    assert len(frames) < 16
    assert readers.readers[0].dropped == 26 - len(frames)
    assert frames[-1].index == 25
    assert all(early.time < late.time for early, late in pairwise(frames))


def test_sources_of_one_name_are_told_apart() -> None:
    sources = [Written(1, name=name) for name in ("a", "b", "a", "a #2", "a")]
    with SourceReaders(sources) as readers:
        names = [reader.name for reader in readers.readers]
    assert names == ["a", "b", "a #3", "a #2", "a #4"]
    assert [source.name for source in sources] == names


@given(st.lists(st.sampled_from(["a", "a #2", "a #3", "b", "a #2 #2"]), max_size=8))
def test_however_sources_are_named_no_two_share_a_name(names: list[str]) -> None:
    with SourceReaders([Written(0, name=name) for name in names]) as readers:
        given_names = [reader.name for reader in readers.readers]
    assert len(set(given_names)) == len(names)
    assert all(new == old or new.startswith(f"{old} #") for new, old in zip(given_names, names, strict=True))
    assert set(names) <= set(given_names)


def test_closing_ends_readers_that_wait_for_room_or_for_their_time() -> None:
    full, paced = Written(1000), Written(1000)
    with SourceReaders([full]) as readers, SourceReaders([paced], realtime=True) as slow:
        next(readers.batches())
        next(slow.batches())
    assert reader_threads() == 0
    assert full.closed.is_set()
    assert paced.closed.is_set()
    assert list(readers.batches()) == []


def test_closing_does_not_wait_for_a_read_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.sources.readers._PATIENCE", 0.1)
    gate = threading.Event()
    hanging = Written(1, gate=gate, fault=OSError("after all"))
    readers = SourceReaders([hanging])
    batches = readers.batches()
    next(batches)
    threading.Timer(0.1, readers.close).start()  # as Ctrl-C does, while the next frame is waited for
    assert list(batches) == []
    assert hanging.closed.wait(30)
    gate.set()
    for _ in range(1500):
        if reader_threads() == 0:
            break
        time.sleep(0.02)
    assert reader_threads() == 0
    assert hanging.warnings == []


def test_no_sources_give_no_ticks() -> None:
    with SourceReaders([]) as readers:
        assert list(readers.batches()) == []


def test_images_and_films_can_run_together_and_release_their_files(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "films").mkdir()
    film(tmp_path / "films" / "v.mp4", 5)
    with SourceReaders(open_sources([tmp_path, tmp_path / "films"])) as readers:
        taken = Counter(reader.number for batch in readers.batches() for reader, _ in batch)
    assert taken == {0: 3, 1: 5}
    if Path("/proc/self/fd").exists():
        links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        assert not [link for link in links if link.is_relative_to(tmp_path)]  # other tests may leave theirs to Python


@pytest.mark.parametrize("jobs", [1, 3])
def test_so_many_files_are_read_at_once_and_live_sources_besides(jobs: int) -> None:
    files = [Written(5, 0.002, name=f"file {number}", fault=OSError() if number == 2 else None) for number in range(8)]
    camera = Written(5, 0.002, name="camera", live=True)
    with SourceReaders([*files, camera], jobs=jobs) as readers:
        for _ in readers.batches():
            with readers._ready:  # no thread starts meanwhile
                started = {thread.name for thread in threading.enumerate()}
                assert sum(f"reader of {one.name}" in started and not one.closed.is_set() for one in files) <= jobs
        assert [reader.taken for reader in readers.readers[:8]] == [5] * 8
        assert all(reader.ended_after(5) and not reader.ended_after(4) for reader in readers.readers[:8])
    assert reader_threads() == 0


def test_sources_that_wait_are_never_opened_when_the_run_ends() -> None:
    files = [Written(500, 0.001, name=f"file {number}") for number in range(4)]
    with SourceReaders(files, jobs=1) as readers:
        next(readers.batches())
    assert [file.read > 0 for file in files] == [True, False, False, False]
    assert reader_threads() == 0


def test_nothing_that_opens_at_all_is_an_error() -> None:
    with pytest.raises(DferError, match="camera 63 does not open"):
        open_sources([62, 63])

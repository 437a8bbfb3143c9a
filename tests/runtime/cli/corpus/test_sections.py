"""Parts of a video: the frames of the whole, with their indices and times, wherever a seek arrives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dfer.runtime.cli.corpus.sections import Cut, VideoSection, find_cuts, is_before
from dfer.runtime.sources import Frame, open_source
from dfer.runtime.sources.films import Film


def frames_of(path: Path) -> list[Frame]:
    with open_source(path) as source:
        return list(source)


def part_of(path: Path, cut: Cut) -> list[Frame]:
    with VideoSection(path, "film", cut) as source:
        return list(source)


def test_parts_are_the_whole(film: Path) -> None:
    whole = frames_of(film)
    cuts = find_cuts(film, 4.0, 2.0)
    assert [cut.start.index for cut in cuts] == [96, 192, 288]
    assert [cut.lead.index for cut in cuts] == [48, 144, 240]
    for cut in cuts:
        part = part_of(film, cut)
        assert [(one.index, one.time) for one in part] == [(one.index, one.time) for one in whole[cut.lead.index :]]
        np.testing.assert_array_equal(part[0].image, whole[cut.lead.index].image)
        np.testing.assert_array_equal(part[-1].image, whole[-1].image)


def test_a_seek_saves_reading_and_one_that_does_not_arrive_is_no_loss(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    read = Film.read

    def counted(self: Film) -> object:
        nonlocal reads
        reads += 1
        return read(self)

    monkeypatch.setattr(Film, "read", counted)
    cut = find_cuts(film, 4.0, 2.0)[-1]
    reads = 0
    arrived = [frame.index for frame in part_of(film, cut)]
    by_seek = reads
    seek = Film.seek
    monkeypatch.setattr(Film, "seek", lambda self, stamp: seek(self, stamp + 3.0))  # past the lead, as in odd files
    reads = 0
    assert [frame.index for frame in part_of(film, cut)] == arrived == list(range(240, 336))
    assert by_seek < 200 < reads


def test_short_videos_and_those_with_uneven_clocks_are_not_cut(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_cuts(film, 30.0, 2.0) == []
    stamps = Film.stamps
    monkeypatch.setattr(Film, "stamps", lambda self: [*stamps(self), 5.0])  # two pictures at one time
    assert find_cuts(film, 4.0, 2.0) == []
    monkeypatch.setattr(Film, "stamps", lambda self: [])
    assert find_cuts(film, 4.0, 2.0) == []


def test_what_comes_before_a_place(film: Path) -> None:
    start = find_cuts(film, 4.0, 2.0)[0].start
    assert is_before(start.time - 0.01, start)
    assert not is_before(start.time - 1e-9, start)

"""Clips on disk: which frames are read, in which order, and what happens to those that are not there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfer.runtime.errors import DferError
from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.sources import open_source
from dfer.train.data import WINDOW, ClipSet
from dfer.train.data.lists import Entry
from dfer.train.data.videos import VideoClips, choose_frames, film_length
from helpers import write_video


def write_frames(folder: Path, values: list[int], name: str = "{}.png", size: int = 128) -> Path:
    """A folder of grey frames; `name` numbers them from 1, as DFEW does."""
    folder.mkdir(parents=True)
    for number, value in enumerate(values, 1):
        assert cv2.imwrite(str(folder / name.format(number)), np.full((size, size, 3), value, np.uint8))
    return folder


def shades(clips: VideoClips, index: int, rng: np.random.Generator | None = None) -> list[int]:
    return [round(float(frame.mean())) for frame in clips.frames(index, rng)]


def open_clips(root: Path, *names: str, max_missing: float = 0.01, size: int = 128) -> VideoClips:
    return VideoClips([Entry(name, "fear") for name in names], root, EXPRESSIONS, size, max_missing)


def test_clips_that_are_no_crops_of_faces_are_told(tmp_path: Path) -> None:
    write_frames(tmp_path / "face", [10, 20])
    write_frames(tmp_path / "scene", [10, 20])
    write_video(tmp_path / "face.mp4", [np.zeros((64, 72, 3), np.uint8)] * 3, 24)
    told: list[str] = []
    entries = [Entry(name, "fear") for name in ("face", "scene", "face.mp4", "uncut.mp4")]
    write_video(tmp_path / "uncut.mp4", [np.zeros((72, 128, 3), np.uint8)] * 3, 24)
    VideoClips(entries, tmp_path, EXPRESSIONS, warn=told.append)
    (line,) = told
    assert line.startswith("1 of 4 clips are no square crops of a face") and "uncut.mp4, 128×72" in line
    assert line.endswith("cut the faces out first: dfer-prepare VIDEOS FACES")
    cv2.imwrite(str(tmp_path / "scene" / "1.png"), np.zeros((128, 96, 3), np.uint8))
    VideoClips(entries, tmp_path, EXPRESSIONS, warn=told.append)
    assert told[1].startswith("2 of 4 clips") and "1.png, 96×128" in told[1]


@given(st.integers(1, 2000), st.none() | st.integers(0, 2**32 - 1))
def test_one_frame_of_each_segment_in_order(count: int, seed: int | None) -> None:
    chosen = choose_frames(count, None if seed is None else np.random.default_rng(seed))
    assert chosen.shape == (WINDOW,)
    assert 0 <= chosen.min() <= chosen.max() < count
    assert (np.diff(chosen) >= 0).all()
    if count >= WINDOW:
        edges = [count * segment // WINDOW for segment in range(WINDOW + 1)]
        assert all(edges[i] <= chosen[i] < edges[i + 1] for i in range(WINDOW))
    else:
        assert chosen.tolist() == [*range(count), *[count - 1] * (WINDOW - count)]


def test_the_test_choice_is_the_centre_and_the_training_choice_reaches_every_frame() -> None:
    assert choose_frames(48, None).tolist() == list(range(1, 48, 3))
    rng = np.random.default_rng(0)
    assert {index for _ in range(100) for index in choose_frames(48, rng).tolist()} == set(range(48))


@pytest.mark.parametrize("name", ["{}.png", "00012_{}.png", "frame{}.bmp"])
def test_frames_come_in_natural_order(tmp_path: Path, name: str) -> None:
    write_frames(tmp_path / "00012", [10 * i for i in range(16)], name)
    (tmp_path / "00012" / "Thumbs.db").touch()
    clips = open_clips(tmp_path, "00012")
    assert shades(clips, 0) == [10 * i for i in range(16)]


def test_a_short_clip_ends_with_its_last_frame_again(tmp_path: Path) -> None:
    write_frames(tmp_path / "short", [10, 20, 30])
    assert shades(open_clips(tmp_path, "short"), 0) == [10, 20, *[30] * 14]


def test_frames_are_rgb_squares_of_the_size_asked_for(tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    image = np.zeros((60, 90, 3), np.uint8)
    image[..., 2] = 200  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "red" / "1.png"), image)
    frames = open_clips(tmp_path, "red", size=32).frames(0)
    assert frames.shape == (WINDOW, 32, 32, 3)
    assert frames.dtype == np.uint8
    assert (frames == [200, 0, 0]).all()


def test_large_frames_are_averaged_down(tmp_path: Path) -> None:
    (tmp_path / "fine").mkdir()
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 200
    cv2.imwrite(str(tmp_path / "fine" / "1.png"), stripes)
    assert (open_clips(tmp_path, "fine", size=32).frames(0) == 100).all()


def test_a_video_gives_what_its_frames_in_a_folder_give(tmp_path: Path) -> None:
    frames = [np.full((128, 128, 3), 5 * index, np.uint8) for index in range(48)]
    write_video(tmp_path / "film.mp4", frames, 24)
    (tmp_path / "folder").mkdir()
    with open_source(tmp_path / "film.mp4") as source:
        for frame in source:
            cv2.imwrite(str(tmp_path / "folder" / f"{frame.index}.png"), frame.image[..., ::-1])
    clips = open_clips(tmp_path, "film.mp4", "folder")
    np.testing.assert_array_equal(clips.frames(0), clips.frames(1))
    by_chance = [clips.frames(index, np.random.default_rng(4)) for index in (0, 1)]
    np.testing.assert_array_equal(by_chance[0], by_chance[1])
    assert (by_chance[0] != clips.frames(0)).any()


def test_a_folder_of_frames_may_tell_its_rate(tmp_path: Path) -> None:
    write_frames(tmp_path / "told", [9] * 15)
    write_frames(tmp_path / "untold", [9] * 15)
    (tmp_path / "told" / "rate.txt").write_text("29.97\n", encoding="utf-8-sig")
    assert open_clips(tmp_path, "told", "untold").seconds == [15 / 29.97, None]
    for wrong in ("fast", "0", "nan", ""):
        (tmp_path / "told" / "rate.txt").write_text(wrong)
        with pytest.raises(DferError, match=r"rate\.txt: .*number"):
            open_clips(tmp_path, "told")


def test_a_video_that_ends_early_is_sampled_over_what_there_is(shared_data: Path) -> None:
    path = shared_data / "videos" / "no_face.mp4"
    clips = open_clips(path.parent, path.name)
    assert film_length(path)[0] == 93  # of the header; 95 decode
    rng = np.random.default_rng(0)
    for _ in range(4):
        frames = clips.frames(0, rng).astype(int)
        assert frames.shape == (WINDOW, 128, 128, 3)
        assert (np.diff(frames, axis=0) != 0).any(axis=(1, 2, 3)).all()  # none is repeated


def test_a_listed_video_may_have_been_prepared_into_a_folder(tmp_path: Path) -> None:
    write_frames(tmp_path / "03747", [50])
    clips = open_clips(tmp_path, "03747.mp4")
    assert clips.paths == [tmp_path / "03747"]


@pytest.fixture
def holey(tmp_path: Path) -> tuple[Path, list[str]]:
    """Twenty clips; one is absent, one an empty folder, one no video."""
    names = [f"{number:02}" for number in range(17)]
    for number, name in enumerate(names):
        write_frames(tmp_path / name, [number])
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    return tmp_path, ["absent", *names[:9], "empty", *names[9:], "broken.mp4"]


def test_missing_clips_are_left_out_and_listed(holey: tuple[Path, list[str]]) -> None:
    root, names = holey
    clips = open_clips(root, *names, max_missing=0.15)
    assert [path.name for path in clips.missing] == ["absent", "empty", "broken.mp4"]
    assert len(clips) == len(clips.labels) == len(clips.paths) == len(clips.groups) == 17
    assert [shades(clips, index)[0] for index in range(17)] == list(range(17))


def test_too_many_missing_clips_are_refused(holey: tuple[Path, list[str]]) -> None:
    root, names = holey
    with pytest.raises(DferError, match=r"3 of 20 clips \(15.0%\) .* more than the 14.0% allowed: .*absent, .*empty"):
        open_clips(root, *names, max_missing=0.14)
    with pytest.raises(DferError, match="12 of 12 clips") as caught:
        open_clips(root, *(f"gone{number}" for number in range(12)), max_missing=1)
    assert "gone9" in str(caught.value)
    assert "gone10" not in str(caught.value)


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """Ten clips of twenty pictures; in one the first and the last cannot be read, a third is a link to nowhere."""
    for number in range(10):
        write_frames(tmp_path / f"clip{number}", list(range(1, 21)), size=16)
    whole = (tmp_path / "clip7" / "1.png").read_bytes()
    (tmp_path / "clip7" / "1.png").write_bytes(b"no image")
    (tmp_path / "clip7" / "20.png").write_bytes(whole[:20])
    (tmp_path / "clip7" / "5.png").unlink()
    (tmp_path / "clip7" / "5.png").symlink_to("nowhere.png")
    return tmp_path


def test_damaged_pictures_are_left_out_of_their_clip_and_told(spoilt: Path) -> None:
    told: list[str] = []
    heard: list[tuple[int, int]] = []
    entries = [Entry(f"clip{number}", "fear") for number in range(10)]
    clips = VideoClips(entries, spoilt, EXPRESSIONS, 16, 0.02, told.append, lambda *done: heard.append(done))
    (message,) = told
    assert message.startswith("3 of 200 pictures of clips (1.5%) are missing or cannot be read and are left out: ")
    assert all(f"clip7/{number}.png" in message for number in (1, 5, 20))
    assert heard[-1] == (10, 10)
    assert len(clips) == 10
    assert not clips.missing
    left = [value for value in range(1, 21) if value not in (1, 5, 20)]
    assert shades(clips, 7) == [left[index] for index in choose_frames(17).tolist()]
    rng = np.random.default_rng(0)
    assert {shade for _ in range(20) for shade in shades(clips, 7, rng)} == set(left)
    before = clips.fingerprint
    (spoilt / "clip7" / "1.png").unlink()  # one that was not used
    assert open_clips(spoilt, *(entry.clip for entry in entries), max_missing=0.02, size=16).fingerprint == before


def test_too_many_damaged_pictures_are_refused_and_all_named(spoilt: Path) -> None:
    with pytest.raises(DferError, match=r"3 of 200 pictures of clips \(1.5%\) .* more than the 1.0% allowed") as caught:
        open_clips(spoilt, *(f"clip{number}" for number in range(10)))
    assert all(f"clip7/{number}.png" in str(caught.value) for number in (1, 5, 20))


def test_a_clip_whose_pictures_are_all_damaged_is_missing(tmp_path: Path) -> None:
    for number in range(30):
        write_frames(tmp_path / f"clip{number}", [number], size=16)
    (tmp_path / "clip3" / "1.png").write_bytes(b"")
    told: list[str] = []
    clips = VideoClips(
        [Entry(f"clip{number}", "fear") for number in range(30)], tmp_path, EXPRESSIONS, 16, 0.05, told.append
    )
    assert [message.split(" (")[0] for message in told] == ["1 of 30 pictures of clips", "1 of 30 clips"]
    assert (clips.missing, len(clips)) == ([tmp_path / "clip3"], 29)


def test_a_clip_that_breaks_later_is_named(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", [1])
    write_frames(tmp_path / "b", [1])
    write_video(tmp_path / "c.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3, 24)
    clips = open_clips(tmp_path, "a", "b", "c.mp4")
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    (tmp_path / "b" / "1.png").unlink()
    (tmp_path / "c.mp4").unlink()
    for index, words in enumerate(["a/1.png: not an image", "b: this clip has lost its frames", "c.mp4: no such file"]):
        with pytest.raises(DferError, match=words):
            clips.frames(index)


def test_the_fingerprint_tells_what_frames_depend_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_frames(tmp_path / "a", [1, 2])
    write_frames(tmp_path / "b", [1])
    clips: ClipSet = open_clips(tmp_path, "a", "b")
    monkeypatch.chdir(tmp_path)
    assert open_clips(Path(), "a", "b").fingerprint == clips.fingerprint
    relabelled = VideoClips([Entry("a", "fear"), Entry("b", "anger")], tmp_path, EXPRESSIONS)
    others = [open_clips(tmp_path, "b", "a"), open_clips(tmp_path, "a", "b", size=64), relabelled]
    (tmp_path / "b" / "1.png").rename(tmp_path / "a" / "3.png")
    write_frames(tmp_path / "c", [1])
    (tmp_path / "c" / "1.png").rename(tmp_path / "b" / "1.png")
    others.append(open_clips(tmp_path, "a", "b"))
    assert len({clips.fingerprint, *(other.fingerprint for other in others)}) == 5

"""Sources that end: every frame of a file with its time; patterns; clear words for what is no source."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
import zlib
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfer.runtime.errors import DferError
from dfer.runtime.sources import VideoFile, expand, open_source, open_sources, without_credentials
from dfer.runtime.sources.captures import built_with
from dfer.runtime.sources.films import Film, Picture
from helpers import flat, write_video


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
    with pytest.raises(DferError, match="holds no images and no videos"):
        open_source(tmp_path)
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "2.png").write_bytes(b"broken")
    warnings: list[str] = []
    with open_source(tmp_path, warn=warnings.append) as source:
        assert len(list(source)) == 1
    assert "2.png" in warnings[-1]
    (tmp_path / "0.png").write_bytes(b"also broken, and first")
    with open_source(tmp_path) as source:
        assert [frame.index for frame in source] == [1]
    (tmp_path / "1.png").unlink()
    with pytest.raises(DferError, match="not an image"):
        open_source(tmp_path)


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A PNG of zeros: 30,000 × 30,000 pixels in 900 kB and less."""
    row = b"\0" * (30_000 // 8 + 1)
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(row) for _ in range(30_000)) + packer.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)), (b"IDAT", pixels), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    command = [sys.executable, "-c", "from dfer.runtime.cli.run import main; main()", tmp_path / "bomb.png"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "bomb.png: more than 100 million pixels; to read it, raise $OPENCV_IO_MAX_IMAGE_PIXELS" in flat(told.stderr)


def test_a_camera_that_does_not_open_says_so() -> None:
    with pytest.raises(DferError, match="camera 63 does not open"):
        open_source(63)


def test_time_rises_where_stamps_do_not(tmp_path: Path) -> None:
    film = Film(write_video(tmp_path / "v.mp4", counting_frames(6), 10).open("rb"), "v")
    stamps = iter([0.0, 0.0, 0.0, 0.1, 0.05, 0.12])
    read = film.read

    def wrongly_stamped() -> Picture | None:
        return (found := read()) and replace(found, stamp=next(stamps))

    film.read = wrongly_stamped  # type: ignore[method-assign]
    times = [frame.time for frame in VideoFile(film, "v", lambda _: None)]
    assert len(times) == 6
    assert (np.diff(times) > 0).all()
    assert times[3:] == pytest.approx([0.1, 0.1, 0.12], abs=0.002)  # which are true again at once


def test_a_frame_tells_how_long_it_took_and_since_when_it_waits(tmp_path: Path) -> None:
    with open_source(write_video(tmp_path / "v.mp4", counting_frames(6), 10)) as source:
        frames = list(source)
    assert all(0 < frame.decode < 60 for frame in frames)
    assert all(early.arrived < late.arrived for early, late in pairwise(frames))


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv"])
@pytest.mark.parametrize("kind", ["zeros", "noise"])
def test_damage_in_the_middle_costs_the_damaged_frames_and_one_warning(tmp_path: Path, suffix: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    path = write_video(tmp_path / f"v.{suffix}", [np.roll(scene, shift, 1) for shift in range(60)], 25)
    video = bytearray(path.read_bytes())
    start, length = len(video) // 2, len(video) // 8
    video[start : start + length] = bytes(length) if kind == "zeros" else rng.bytes(length)
    path.write_bytes(video)
    warnings: list[str] = []
    with open_source(path, warn=warnings.append) as source:
        frames = list(source)
    assert 45 <= len(frames) < 60
    assert frames[-1].time > 1.9  # of 2.4: it goes on behind the damage
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert all(early.time < late.time for early, late in pairwise(frames))
    assert len(warnings) == 1
    assert "damaged" in warnings[0]


def test_a_damaged_mp4_is_told_with_the_number_of_its_damaged_frames(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 120, 160, 3), dtype=np.uint8)
    path = write_video(tmp_path / "v.mp4", list(noise), 20)
    video = bytearray(path.read_bytes())
    start, length = len(video) // 2, len(video) // 4
    video[start : start + length] = bytes(length)
    path.write_bytes(video)
    warnings: list[str] = []
    with open_source(path, warn=warnings.append) as source:
        good = len(list(source))
    assert warnings == [f"{path}: {40 - good} frames are damaged and left out, {good} are good"]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A second of video in three containers."""
    folder = tmp_path_factory.mktemp("films")
    scene = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    frames = [np.roll(scene, shift, 1) for shift in range(25)]
    return {name: write_video(folder / f"v.{name}", frames, 25).read_bytes() for name in ("mp4", "avi", "mkv")}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from(["mp4", "avi", "mkv"]),
    holes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=200)), min_size=1, max_size=8),
    kept=st.floats(0.05, 1),
)
def test_however_a_film_is_damaged_it_is_read_or_refused(
    films: dict[str, bytes], tmp_path: Path, suffix: str, holes: list[tuple[float, bytes]], kept: float
) -> None:
    video = bytearray(films[suffix])
    for place, content in holes:
        start = int(place * len(video))
        video[start : start + len(content)] = content[: len(video) - start]
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(video[: int(kept * len(video))])
    warnings: list[str] = []
    try:
        with open_source(path, warn=warnings.append) as source:
            times = [frame.time for frame in source]
    except DferError as error:
        assert str(path) in str(error)
    else:
        assert times[0] == 0
        assert all(early < late for early, late in pairwise(times))
        assert len(warnings) <= 1


def film(path: Path) -> Path:
    return write_video(path, counting_frames(3), 10)


def test_a_pattern_of_videos_is_several_sources_and_one_of_images_a_single_one(tmp_path: Path) -> None:
    clips = [film(tmp_path / f"clip{number}.mp4") for number in (1, 2, 10)]
    for number in (1, 2, 10):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8, 3), number, np.uint8))
    images = str(tmp_path / "*.png")
    assert expand([str(tmp_path / "clip*.mp4"), images, 0, "rtsp://host/a?b=*"]) == [
        *clips,
        images,
        0,
        "rtsp://host/a?b=*",
    ]
    with open_source(images, image_rate=2) as source:
        assert [int(frame.image[0, 0, 0]) for frame in source] == [1, 2, 10]
        assert source.name == images
    opened = open_sources([str(tmp_path / "clip*.mp4"), images])
    assert [len(list(source)) for source in opened] == [3, 3, 3, 3]
    with pytest.raises(DferError, match="as many sources"):
        open_source(str(tmp_path / "clip*.mp4"))
    (folder := tmp_path / "films").mkdir()
    for number, path in enumerate(clips):
        path.rename(folder / f"{number}.MTS")  # as camcorders call theirs
    assert [path.name for path in map(Path, map(str, expand([folder])))] == ["0.MTS", "1.MTS", "2.MTS"]
    with pytest.raises(DferError, match="films: 3 files, which are as many sources; name one"):
        open_source(folder)


def test_a_numbered_sequence_takes_the_numbers_written_that_way_in_order(tmp_path: Path) -> None:
    for name, level in {"f_0002": 2, "f_0010": 10, "f_0001": 1, "f_3": 30, "f_0004b": 40}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((8, 8, 3), level, np.uint8))
    with open_source(tmp_path / "f_%04d.png") as source:
        assert [int(frame.image[0, 0, 0]) for frame in source] == [1, 2, 10]
    assert expand([tmp_path / "f_%04d.png"]) == [tmp_path / "f_%04d.png"]
    film(tmp_path / "v_1.mp4")
    film(tmp_path / "v_2.mp4")
    assert expand([tmp_path / "v_%d.mp4"]) == [tmp_path / "v_1.mp4", tmp_path / "v_2.mp4"]


def test_patterns_that_match_nothing_or_too_much_say_so_and_files_named_like_patterns_open(tmp_path: Path) -> None:
    for pattern in ("*.mp4", "f_%04d.png", "gone/f_%04d.png"):
        with pytest.raises(DferError, match="matches no file"):
            open_source(tmp_path / pattern)
    film(tmp_path / "a[1].mp4")
    assert expand([tmp_path / "a[1].mp4"]) == [tmp_path / "a[1].mp4"]
    with open_source(tmp_path / "a[1].mp4") as source:
        assert len(list(source)) == 3
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DferError, match="images and other files"):
        expand([tmp_path / "a*"])


def test_of_several_sources_all_open_or_none(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("counts open files by /proc")

    def open_films() -> int:
        links = (link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
        return sum(link.is_relative_to(tmp_path) for link in links)

    with pytest.raises(DferError, match=r"gone.mp4: no such file"):
        open_sources([film(tmp_path / "a.mp4"), film(tmp_path / "b.mp4"), tmp_path / "gone.mp4"])
    assert open_films() == 0


@pytest.mark.skipif(built_with("GStreamer"), reason="this OpenCV has GStreamer")
@pytest.mark.parametrize(
    "place", ["rtspsrc location=rtsp://u:s3cret@h/x user-pw=s3cret ! decodebin ! appsink", "csi://0"]
)
def test_a_pipeline_without_gstreamer_says_what_to_install(place: str) -> None:
    with pytest.raises(DferError, match=r"built without GStreamer.*in place of opencv-python-headless") as caught:
        open_source(place)
    assert "s3cret" not in str(caught.value)


def test_a_csi_camera_needs_a_sensor_number() -> None:
    with pytest.raises(DferError, match="csi://front: a CSI camera is named by its sensor number"):
        open_source("csi://front")


def test_a_film_behind_http_is_read_whole_as_a_file_is(tmp_path: Path) -> None:
    film(tmp_path / "v.mp4")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with open_source(f"http://me:s3cret@127.0.0.1:{server.server_port}/v.mp4?token=s3cret") as source:
            assert (source.live, source.count, len(list(source))) == (False, 3, 3)
            assert source.name == f"http://127.0.0.1:{server.server_port}/v.mp4"
        server.shutdown()


@pytest.mark.parametrize("password", ["s3cret", "s3c/ret", "s3c#ret", "s3c?ret", "s3c@ret", "s3c:ret", "s3c[ret"])
def test_names_hold_no_credentials(password: str) -> None:
    name = without_credentials(f"rtsp://admin:{password}@10.0.0.7:554/live?token=abc#x")
    assert name == "rtsp://10.0.0.7:554/live"


@pytest.mark.parametrize(
    "url", ["rtsp://admin:s3c/ret@127.0.0.1:9/live", "http://a:s3c@127.0.0.1:9/v.mp4", "http://[a/x"]
)
def test_an_address_that_does_not_open_says_so_without_its_password(url: str) -> None:
    with pytest.raises(DferError, match=r"does not open; (check the|nothing listens|127\.0\.0\.1 does)") as caught:
        open_source(url)
    assert "s3c" not in str(caught.value)


def picture(path: Path, level: int, side: int = 8) -> Path:
    cv2.imwrite(str(path), np.full((side, side, 3), level, np.uint8))
    return path


def test_what_systems_leave_beside_pictures_is_no_picture(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", 1)
    picture(tmp_path / ".2.png", 2)
    for folder in ("@eaDir", "__MACOSX", "more"):
        (tmp_path / folder).mkdir()
        picture(tmp_path / folder / "3.png", 3)
    (tmp_path / "4.png").mkdir()
    (tmp_path / "Thumbs.db").write_bytes(b"thumbs")
    with open_source(tmp_path) as source:
        assert [frame.file for frame in source] == ["1.png"]
    with open_source(tmp_path / "**" / "[0-9].png") as source:
        assert [frame.file for frame in source if frame.image.mean() < 9] == ["1.png", "more/3.png"]


@pytest.mark.parametrize(
    ("names", "sides", "reason"),
    [
        (("anna.png", "bert.png"), (8, 8), "names that are not numbered"),
        (("1.png", "2.png", "3.png"), (8, 8, 16), "different sizes"),
        (("f_1.png", "f_2.png"), (8, 8), None),
    ],
)
def test_pictures_that_look_like_photographs_are_read_as_such_unless_told(
    tmp_path: Path, names: tuple[str, ...], sides: tuple[int, ...], reason: str | None
) -> None:
    for name, side in zip(names, sides, strict=True):
        picture(tmp_path / name, 1, side)
    warnings: list[str] = []
    with open_source(tmp_path, warn=warnings.append) as source:
        assert {frame.photo for frame in source} == {reason is not None}
    told = f"with {reason} are read as photographs, each on its own, not as film"
    if reason is None:
        told = "are read as film, 8 a second; if each stands alone: --photos"
    assert warnings == [f"{tmp_path}: {len(names)} pictures {told}"]
    for photos in (True, False):
        with open_source(tmp_path, warn=lambda line: pytest.fail(line), photos=photos) as source:
            frames = list(source)
            assert ([frame.photo for frame in frames], [frame.file for frame in frames]) == (
                [photos] * len(names),
                list(names),
            )


def test_a_folder_of_videos_is_as_many_sources(tmp_path: Path) -> None:
    for name in ("10.mp4", "2.MOV", ".hidden.mp4", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert expand([tmp_path]) == [tmp_path / "2.MOV", tmp_path / "10.mp4"]
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DferError, match="holds videos and images"):
        expand([tmp_path])


def test_of_several_a_missing_file_is_an_error_and_a_broken_one_waits_for_its_turn(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"broken")
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DferError, match=r"gone.mp4: no such file"):
        open_sources([tmp_path / "broken.mp4", tmp_path / "gone.mp4"])
    broken, picture = open_sources([tmp_path / "broken.mp4", tmp_path / "1.png"])
    assert broken.name == str(tmp_path / "broken.mp4")
    with pytest.raises(DferError, match=r"broken.mp4: not a video"):
        next(broken.frames())
    assert len(list(picture.frames())) == 1

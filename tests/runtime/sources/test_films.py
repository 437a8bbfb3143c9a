"""Recordings as people have them: interlaced, with oblong pixels, cut, joined, from pipes, under any name."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from dfer.runtime.errors import DferError
from dfer.runtime.sources import Frame, Source, images, open_source

NEEDS_UNIX = pytest.mark.skipif(sys.platform != "linux", reason="names are bytes, and pipes have names, on Linux")


def numbered(count: int) -> list[np.ndarray]:
    """Pictures whose brightness tells their number."""
    return [np.full((64, 96, 3), 20 + 8 * (index % 28), np.uint8) for index in range(count)]


def encode(
    path: Path | str,
    images: Iterable[np.ndarray],
    *,
    codec: str = "mpeg4",
    rate: int = 25,
    times: Iterable[float] | None = None,
    container: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    **settings: Any,
) -> Path:
    """A film with exactly these times (seconds; else at `rate`), codec options and properties of the stream."""
    base = Fraction(1, rate if times is None else 1000)
    moments = [index / rate for index in range(1000)] if times is None else list(times)
    with av.open(str(path), "w", options=container or {}) as out:
        stream: Any = out.add_stream(codec, rate=rate, options=options or {})
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = base
        for name, value in settings.items():
            setattr(stream, name, value)
        for index, image in enumerate(images):
            if index == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.time_base = base
            frame.pts = round(moments[index] / base)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return Path(path)


def read(place: Path | str, **options: Any) -> tuple[Source, list[Frame], list[str]]:
    warnings: list[str] = []
    with open_source(place, warn=warnings.append, **options) as source:
        return source, list(source), warnings


def levels(frames: Iterable[Frame]) -> list[int]:
    """Which of `numbered` the pictures are."""
    return [round((float(frame.image.mean()) - 20) / 8) for frame in frames]


def test_oblong_pixels_are_made_square(tmp_path: Path) -> None:
    path = encode(tmp_path / "wide.mp4", numbered(3), sample_aspect_ratio=Fraction(3, 2))
    assert {(frame.shape, frame.image.shape) for frame in read(path)[1]} == {((64, 144, 3),) * 2}
    path = encode(tmp_path / "tall.mp4", numbered(3), sample_aspect_ratio=Fraction(1, 2))
    assert {(frame.shape, frame.image.shape) for frame in read(path)[1]} == {((128, 96, 3),) * 2}


def test_interlaced_pictures_are_made_whole_and_none_is_lost(tmp_path: Path) -> None:
    combed = []
    for index in range(20):  # a bright bar that moves between the two fields of a picture, too
        image = np.full((96, 192, 3), 40, np.uint8)
        image[0::2, 8 * index : 8 * index + 24] = 220
        image[1::2, 8 * index + 4 : 8 * index + 28] = 220
        combed.append(image)
    interlaced = {"flags": "+ilme+ildct", "x264-params": "interlaced=1:tff=1"}
    path = encode(tmp_path / "i.mp4", combed, codec="libx264", options={**interlaced, "crf": "10"})
    _, frames, warnings = read(path)
    assert len(frames) == 20
    assert warnings == []
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(20) / 25, atol=2e-3)
    assert all(frame.image.max() > 150 for frame in frames)  # OpenCV 4.13 and 4.14 hand over black pictures
    rows = np.stack([frame.image[8:-8].mean(axis=2) for frame in frames[1:-1]])
    assert np.abs(np.diff(rows, axis=1)).mean() < 4  # alternating lines differ by 7.5


def test_a_start_beyond_zero_and_uneven_times_are_no_damage(tmp_path: Path) -> None:
    _, frames, warnings = read(encode(tmp_path / "late.mkv", numbered(20), times=7.5 + np.arange(20) / 25))
    assert (len(frames), warnings) == (20, [])
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(20) / 25, atol=2e-3)
    times = [0, 0.04, 0.08, 1.0, 1.04, 3.0, 3.1, 3.14]
    _, frames, warnings = read(encode(tmp_path / "uneven.mkv", numbered(8), times=times))
    assert [round(frame.time, 2) for frame in frames] == times
    assert warnings == []


def test_an_avi_whose_header_counts_wrongly_is_whole(tmp_path: Path) -> None:
    path = encode(tmp_path / "v.avi", numbered(20))
    film = bytearray(path.read_bytes())
    for place in (film.index(b"avih") + 8 + 16, film.index(b"strh") + 8 + 32):  # dwTotalFrames, dwLength
        assert film[place] == 20
        film[place] = 200
    path.write_bytes(film)
    source, frames, warnings = read(path)
    assert (source.count, len(frames), warnings) == (20, 20, [])


@pytest.mark.parametrize("jump", [5000.0, -20.0])
def test_a_clock_that_jumps_is_told_and_times_go_on(tmp_path: Path, jump: float) -> None:
    parts = []
    for number, start in enumerate((30.0, 30.0 + jump)):
        part = encode(tmp_path / f"{number}.ts", numbered(12), times=start + np.arange(12) / 25)
        parts.append(part.read_bytes())
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    _, frames, warnings = read(path)
    assert levels(frames) == [*range(12), *range(12)]
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(24) / 25, atol=2e-3)
    assert [frame.index for frame in frames if frame.cut] == [12]
    assert warnings == [f"{path}: its clock jumps at 0.48 s (discontinuity); times go on by one frame"]


def test_a_bare_stream_has_the_rate_that_it_names(tmp_path: Path) -> None:
    path = encode(tmp_path / "v.h264", numbered(30), codec="libx264", rate=30)
    source, frames, warnings = read(path)
    assert (source.rate, len(frames), warnings) == (30, 30, [])
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(30) / 30, atol=1e-6)


def test_of_two_videos_in_a_file_the_default_is_read_and_sound_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "two.mkv"), "w") as out:
        streams: list[Any] = [out.add_stream("mpeg4", rate=25) for _ in range(2)]
        streams[0].disposition = 0
        streams[1].disposition = av.stream.Disposition.default
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for stream, level in zip(streams, (60, 200), strict=True):
            for index in range(5):
                frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), level, np.uint8), format="rgb24")
                frame.pts = index
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    assert all(frame.image.mean() > 150 for frame in read(tmp_path / "two.mkv")[1])
    with av.open(str(tmp_path / "sound.m4a"), "w") as out:
        sound: Any = out.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        out.mux(sound.encode(silence))
        out.mux(sound.encode(None))
    with pytest.raises(DferError, match=r"sound.m4a: there is no video in it"):
        open_source(tmp_path / "sound.m4a")


def without_length(path: Path) -> Path:
    """A Matroska film as a live encoder writes it, which cannot go back to note how long it became."""
    return encode(path, numbered(24), container={"live": "1"})


def test_a_film_over_http_without_length_is_read_once_and_whole(tmp_path: Path) -> None:
    film = without_length(tmp_path / "v.mkv").read_bytes()
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "video/x-matroska")
            if self.path == "/cut":
                self.send_header("Content-Length", str(len(film)))
            self.end_headers()
            self.wfile.write(film[: len(film) // 2] if self.path == "/cut" else film)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source, frames, warnings = read(f"http://127.0.0.1:{server.server_port}/live")
        assert not source.live
        assert (levels(frames), warnings, asked) == (list(range(24)), [], ["/live"])
        _, frames, (warning,) = read(f"http://127.0.0.1:{server.server_port}/cut")
        server.shutdown()
    assert len(frames) < 24 and "/cut: cannot be read beyond" in warning


@NEEDS_UNIX
def test_named_pipes_and_standard_input_are_read(tmp_path: Path) -> None:
    film = without_length(tmp_path / "v.mkv")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_bytes(film.read_bytes()), daemon=True).start()
    source, frames, warnings = read(pipe)
    assert (source.name, levels(frames), warnings) == (str(pipe), list(range(24)), [])
    script = "from dfer.runtime.sources import open_source; s = open_source('-'); print(s.name, len(list(s)))"
    ended = subprocess.run([sys.executable, "-c", script], input=film.read_bytes(), capture_output=True)
    assert ended.stdout == b"standard input 24\n", ended.stderr
    with pytest.raises(DferError, match=r"standard input(: not a video| is a terminal)"):
        open_source("-")


@NEEDS_UNIX
def test_an_mp4_that_cannot_be_read_through_a_pipe_is_not_called_broken(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 240, 320, 3), dtype=np.uint8)
    film, pipe = encode(tmp_path / "v.mp4", noise), tmp_path / "pipe"
    os.mkfifo(pipe)

    def feed() -> None:
        with suppress(BrokenPipeError):
            pipe.write_bytes(film.read_bytes())

    threading.Thread(target=feed, daemon=True).start()
    with pytest.raises(DferError, match=r"pipe: no frame .* from a pipe, as of most MP4s; name the file, or pipe Matr"):
        open_source(pipe)


@NEEDS_UNIX
def test_names_that_are_no_utf8_are_read_and_shown(tmp_path: Path) -> None:
    """In a locale without UTF-8, too, where OpenCV ends the process for any name beyond ASCII."""
    film, picture = os.fsdecode(b"caf\xe9.mp4"), os.fsdecode("größe.png".encode())
    encode(tmp_path / "v.mp4", numbered(3)).rename(tmp_path / film)
    (tmp_path / picture).write_bytes(cv2.imencode(".png", numbered(1)[0])[1].tobytes())
    source, frames, _ = read(tmp_path / film)
    assert source.name == f"{tmp_path}/caf\\xe9.mp4"
    assert levels(frames) == [0, 1, 2]
    script = """if True:
        import sys
        from pathlib import Path
        from dfer.runtime.sources import open_source
        for path in sorted(Path(sys.argv[1]).iterdir()):
            source = open_source(path)
            print(ascii(source.name.rpartition("/")[2]), len(list(source)))
    """
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, env=plain)
    assert ended.stdout == "'caf\\\\xe9.mp4' 3\n'gr\\xf6\\xdfe.png' 1\n", ended.stderr


def test_a_file_may_be_named_like_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encode("x ! y.mp4", numbered(3))
    assert levels(read("x ! y.mp4")[1]) == [0, 1, 2]


DELAYS = [100, 1000, 100, 50, 500]


def animation() -> Any:
    found: Any = cv2.Animation()
    found.frames, found.durations = [np.ascontiguousarray(image[..., ::-1]) for image in numbered(28)[::6]], DELAYS
    return found


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif"])
def test_animations_give_all_pictures_with_their_delays(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    assert cv2.imwriteanimation(str(path), animation())
    _, frames, warnings = read(path)
    assert levels(frames) == [0, 6, 12, 18, 24]
    np.testing.assert_allclose([frame.time for frame in frames], [0, 0.1, 1.1, 1.2, 1.25], atol=1e-3)
    assert warnings == []


def test_a_tiff_of_several_pages_gives_them_all(tmp_path: Path) -> None:
    assert cv2.imwritemulti(str(tmp_path / "p.tiff"), numbered(4))
    source, frames, _ = read(tmp_path / "p.tiff", image_rate=2)
    assert (levels(frames), [frame.time for frame in frames]) == ([0, 1, 2, 3], [0, 0.5, 1, 1.5])
    assert source.rate == 2


def test_an_opencv_before_4_11_gives_pictures_in_rgb_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JetPack's, which decodes to BGR and reads no animated WebP."""
    red = np.full((8, 8, 3), (10, 20, 200), np.uint8)
    assert cv2.imwrite(str(tmp_path / "r.png"), red) and cv2.imwritemulti(str(tmp_path / "r.tiff"), [red, red // 2])
    webp = tmp_path / "a.webp"
    webp.write_bytes(b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x02" + bytes(9))
    monkeypatch.setattr(images, "_COLOR", cv2.IMREAD_COLOR)
    monkeypatch.delattr(cv2, "imdecodeanimation", raising=False)
    assert [list(frame.image[0, 0]) for frame in read(tmp_path / "r.png")[1]] == [[200, 20, 10]]
    assert [list(frame.image[0, 0]) for frame in read(tmp_path / "r.tiff")[1]] == [[200, 20, 10], [100, 10, 5]]
    with pytest.raises(DferError, match=r"a.webp: an animated WebP needs OpenCV 4.12 or later"):
        open_source(webp)


def test_animations_that_are_cut_short_say_so(tmp_path: Path) -> None:
    webp, tiff = tmp_path / "a.webp", tmp_path / "p.tiff"
    assert cv2.imwriteanimation(str(webp), animation()) and cv2.imwritemulti(str(tiff), numbered(6))
    for path in (webp, tiff):
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(DferError, match=r"a.webp: no picture of this file can be decoded, for it is cut short"):
        open_source(webp)
    _, frames, warnings = read(tiff)
    assert 1 < len(frames) < 6
    assert warnings == [f"{tiff}: is cut short; {len(frames)} pictures are good"]


def test_a_film_closed_by_another_thread_ends(tmp_path: Path) -> None:
    path = encode(tmp_path / "v.mp4", numbered(50))
    with open_source(path, warn=lambda line: pytest.fail(line)) as source:
        frames = iter(source)
        next(frames)
        closer = threading.Thread(target=source.close)
        closer.start()
        closer.join()
        assert len(list(frames)) <= 1
    if Path("/proc/self/fd").exists():
        links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        assert path not in links


CASES: dict[str, tuple[int, float, tuple[int, ...]]] = {
    "h264i.mp4": (30, 0.967, (180, 320, 3)),
    "interlaced.mpg": (36, 2.333, (180, 320, 3)),
    "sar_pal.mp4": (180, 5.967, (512, 512, 3)),
    "sar_square.mp4": (180, 5.967, (512, 512, 3)),
    "editlist.mp4": (98, 4.087, (180, 320, 3)),
    "offset.mkv": (72, 2.367, (180, 320, 3)),
    "raw.h264": (72, 2.367, (180, 320, 3)),
    "two_streams.mkv": (72, 2.367, (180, 320, 3)),
    "live.mkv": (72, 2.367, (180, 320, 3)),
    "one_frame.mp4": (1, 0.0, (180, 320, 3)),
    "vfr_rot.mp4": (44, 3.2, (180, 320, 3)),
    "hevc10.mp4": (72, 2.367, (180, 320, 3)),
    "ok.mp4": (72, 2.367, (180, 320, 3)),
    "anim.webp": (9, 2.05, (135, 240, 3)),
}
"""Per file: pictures, time of the last, size."""


@pytest.mark.parametrize("name", CASES)
def test_cases_are_read_whole_without_a_warning(shared_data: Path, name: str) -> None:
    _, frames, warnings = read(shared_data / "cases" / name)
    count, last, shape = CASES[name]
    assert warnings == []
    assert (len(frames), round(frames[-1].time, 3)) == (count, last)
    assert all(early.time < late.time for early, late in pairwise(frames))
    assert {frame.shape for frame in frames} == {frame.image.shape for frame in frames} == {shape}
    assert min(frame.image.std() for frame in frames) > 20  # none is black


@pytest.mark.parametrize("name", ["cover.m4a", "audio_only.mp4"])
def test_cases_without_video_say_so(shared_data: Path, name: str) -> None:
    with pytest.raises(DferError, match=f"{name}: there is no video in it"):
        open_source(shared_data / "cases" / name)


def test_cases_that_change_on_the_way_go_on(shared_data: Path) -> None:
    _, frames, warnings = read(shared_data / "cases" / "jump_forward.ts")
    assert (len(frames), round(frames[-1].time, 3), len(warnings)) == (144, 4.767, 1)
    assert "discontinuity" in warnings[0]
    _, frames, warnings = read(shared_data / "cases" / "res_change.ts")
    assert (len(frames), round(frames[-1].time, 3), warnings) == (72, 2.334, [])  # one stamp goes back by a frame
    assert len({frame.image.shape for frame in frames}) == 2

"""Labelling of unusual videos: the whole of them, and with the remarks that the reading of the uncut video gives."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from test_label import SETTINGS, command, lines_of, rows_in, rows_of_run, same

from dfer.runtime import RunOptions, run
from dfer.runtime.cli.corpus.label import LabelOptions, label
from helpers import rows_of, write_video


@pytest.mark.parametrize(("kind", "codec"), [("avi", "mpeg4"), ("flv", "flv1")])
def test_a_long_video_that_cannot_be_rewound_is_read_whole(
    face_frames: list[np.ndarray], tmp_path: Path, kind: str, codec: str
) -> None:
    path = tmp_path / f"long.{kind}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for frame in face_frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    label(LabelOptions([path], tmp_path / "out", SETTINGS, workers=1, longest=1.0))
    same(rows_in(tmp_path / "out"), rows_of_run([path]))
    assert lines_of(tmp_path / "out")[0]["frames"] == "72"


def remarks(path: Path, out: Path, longest: float) -> tuple[str, str, str]:
    """Segments, state and remarks."""
    label(LabelOptions([path], out, SETTINGS, workers=1, longest=longest))
    (line,) = lines_of(out)
    return line["segments"], line["state"], line["remarks"]


def test_damage_in_any_part_of_a_cut_video_is_in_the_remarks(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.mp4"
    content = bytearray(film.read_bytes())
    with av.open(str(film)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        for number in (*range(30, 35), *range(250, 256)):
            at, size = packets[number].pos, packets[number].size
            assert at is not None
            content[at : at + size] = bytes(size)
    path.write_bytes(content)
    segments, state, told = remarks(path, tmp_path / "whole", 100.0)
    assert (segments, state, "11 frames are damaged and left out" in told) == ("1", "read", True)
    segments, state, told = remarks(path, tmp_path / "parts", 4.0)
    assert (segments, state) == ("4", "read")
    assert re.findall(r"(\d+) frames are damaged and left out, from (\S+) to", told) == [("5", "0.00"), ("6", "8.00")]


def test_the_early_end_of_a_cut_video_is_in_the_remarks(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "truncated.mkv"
    with av.open(str(film)) as source, av.open(str(tmp_path / "whole.mkv"), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    content = (tmp_path / "whole.mkv").read_bytes()
    path.write_bytes(content[: len(content) * 7 // 10])
    _, state, whole = remarks(path, tmp_path / "whole", 100.0)
    segments, state, told = remarks(path, tmp_path / "parts", 4.0)
    assert (int(segments) > 1, state) == (True, "read")
    assert "announced frames (truncated or damaged?)" in whole
    assert told == whole


def test_turned_videos_give_the_rows_of_dfer_run_with_the_same_rotation(
    face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    video = write_video(tmp_path / "upside.mp4", [frame[::-1, ::-1] for frame in face_frames], 24)
    run(RunOptions([video], csv=tmp_path / "run.csv", rotate=180, provider="cpu", threads=1))
    expected = [(int(row["frame"]), row["label"], float(row["x"])) for row in rows_of(tmp_path / "run.csv")]
    for name, longest in (("whole", 100.0), ("parts", 1.5)):  # parts are read by another source
        settings = replace(SETTINGS, rotate=180)
        label(LabelOptions([video], tmp_path / name, settings, workers=1, longest=longest))
        rows = [(row["frame"], row["label"], pytest.approx(row["x"], abs=1)) for row in rows_in(tmp_path / name)]
        assert expected == rows, name
        assert lines_of(tmp_path / name)[0]["remarks"] == ""
    assert command(video, tmp_path / "out", "--rotate", 180, "--workers", 1).exit_code == 0
    assert [row["label"] for row in rows_in(tmp_path / "out")] == [label for _, label, _ in expected]
    assert "other settings (rotate)" in command(video, tmp_path / "out", "--rotate", "auto").output

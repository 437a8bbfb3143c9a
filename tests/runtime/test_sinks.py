"""Result files: an annotated video that lasts as long as what it shows, rows that survive, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dfer.runtime.sinks import CsvSink, JsonlSink, VideoSink


def shown(path: Path) -> tuple[float, list[float]]:
    """Rate and the brightness of each frame of a video."""
    capture, values = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        values.append(float(read[1].mean()))
    return capture.get(cv2.CAP_PROP_FPS), values


@pytest.mark.parametrize(("rate", "size"), [(89.927, (64, 48)), (239.761, (64, 48)), (24, (1, 300)), (25, (9000, 30))])
def test_odd_rates_and_sizes_are_written(tmp_path: Path, rate: float, size: tuple[int, int]) -> None:
    path = tmp_path / "o.mp4"
    with VideoSink(path, rate, size) as sink:
        for index in range(10):
            sink.write(np.full((size[1], size[0], 3), 20 * index, np.uint8), index / rate)
    written, values = shown(path)
    assert written == pytest.approx(rate, abs=0.5)
    assert len(values) == 10


def test_frames_stand_as_long_as_in_the_source(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "o.mp4", 10, (64, 48)) as sink:
        for brightness, time in ((0, 0.0), (100, 0.5), (120, 0.52), (200, 0.6)):  # a stall, then a burst
            sink.write(np.full((48, 64, 3), brightness, np.uint8), time)
    _, values = shown(tmp_path / "o.mp4")
    assert np.abs(np.array(values) - [0, 0, 0, 0, 0, 100, 200]).max() < 12


def test_an_unfinished_video_is_removed_and_an_old_one_stays(tmp_path: Path) -> None:
    (tmp_path / "o.mp4").write_bytes(b"old")
    with pytest.raises(RuntimeError), VideoSink(tmp_path / "o.mp4", 25, (64, 48)) as sink:
        sink.write(np.zeros((48, 64, 3), np.uint8), 0)
        raise RuntimeError
    assert (tmp_path / "o.mp4").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["o.mp4"]


def test_tables_without_a_row_are_discarded(tmp_path: Path) -> None:
    CsvSink(tmp_path / "o.csv", ("a", "b")).discard()
    JsonlSink(tmp_path / "o.jsonl").discard()
    assert not list(tmp_path.iterdir())

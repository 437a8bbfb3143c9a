"""Captures: damaged pictures are passed over, what is gone is not waited for."""

from __future__ import annotations

import time

import pytest

from dfer.runtime.sources.captures import Capture


class Damaged:
    """What stands for a camera in OpenCV: every read fails, after `pause` seconds."""

    def __init__(self, pause: float) -> None:
        self.pause, self.reads = pause, 0

    def get(self, key: int) -> float:
        return 0.0

    def grab(self) -> bool:
        self.reads += 1
        time.sleep(self.pause)
        return False

    def release(self) -> None:
        pass


@pytest.mark.parametrize(("pause", "longest", "least", "most"), [(0.0, 60.0, 10, 10), (0.06, 0.1, 1, 2)])
def test_ten_damaged_pictures_are_passed_over_but_what_is_slow_to_fail_is_gone(
    monkeypatch: pytest.MonkeyPatch, pause: float, longest: float, least: int, most: int
) -> None:
    monkeypatch.setattr("dfer.runtime.sources.captures._LONGEST_STUMBLE", longest)
    device = Damaged(pause)
    capture = Capture(device)
    assert capture.read(10) is None
    capture.release()
    assert least <= device.reads <= most

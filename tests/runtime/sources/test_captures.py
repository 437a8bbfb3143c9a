"""Captures: opening them in time, or not at all."""

from __future__ import annotations

import os
import threading
import time

import pytest

from dfer.runtime.sources.captures import within
from helpers import ctrl_c_as_on_windows


def test_what_opens_too_late_is_let_go() -> None:
    gate, late = threading.Event(), list[str]()

    def slow() -> str:
        gate.wait()
        return "device"

    with pytest.raises(TimeoutError):
        within(0.05, slow, late.append)
    gate.set()
    for _ in range(1000):
        if late:
            break
        time.sleep(0.02)
    assert late == ["device"]


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_ctrl_c_ends_the_waiting_for_what_does_not_open() -> None:
    gate, late = threading.Event(), list[bool]()
    with ctrl_c_as_on_windows():
        within(600, lambda: gate.wait(60), late.append)
    gate.set()
    while not late:
        time.sleep(0.02)

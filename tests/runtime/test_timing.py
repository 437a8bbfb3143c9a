"""Stage times: percentiles to one per cent, extremes exact."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfer.runtime.timing import Stopwatch, call_within
from helpers import ctrl_c_as_on_windows


@given(st.lists(st.floats(1e-5, 30), min_size=1, max_size=300))
def test_percentiles_are_within_one_per_cent_of_the_exact_ones(seconds: list[float]) -> None:
    watch = Stopwatch()
    for value in seconds:
        watch.add("encode", value)
    (row,) = watch.report()
    exact = {share: 1000 * float(np.percentile(seconds, share, method="inverted_cdf")) for share in (50, 90, 95, 99)}
    assert (row.n, row.max) == (len(seconds), pytest.approx(1000 * max(seconds)))
    assert row.mean == pytest.approx(1000 * np.mean(seconds))
    for share, found in ((50, row.p50), (90, row.p90), (95, row.p95), (99, row.p99)):
        assert found == pytest.approx(exact[share], rel=0.01)
        assert found <= row.max


@given(
    st.lists(st.floats(1e-7, 2e4), max_size=300), st.lists(st.floats(1e-4, 10), max_size=20, unique=True).map(sorted)
)
def test_cumulative_counts_are_exact_but_for_half_a_per_cent_of_a_bound(
    seconds: list[float], bounds: list[float]
) -> None:
    watch = Stopwatch()
    for value in seconds:
        watch.add("encode", value)
    counts, total = watch.cumulative("encode", bounds)
    assert (len(counts), counts[-1]) == (len(bounds) + 1, len(seconds))
    assert total == pytest.approx(sum(seconds))
    assert counts == sorted(counts)
    for bound, count in zip(bounds, counts, strict=False):
        least, most = (sum(value <= share * bound for value in seconds) for share in (0.995, 1.0051))
        assert least <= count <= most


def test_stages_come_in_the_order_of_the_pipeline() -> None:
    watch = Stopwatch()
    for stage in ("total", "head", "decode", "detect"):
        watch.add(stage, 0.001)
    assert [row.stage for row in watch.report()] == ["decode", "detect", "head", "total"]


def test_a_call_within_its_time_gives_what_it_gives() -> None:
    assert call_within(60, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        call_within(60, lambda: 1 / 0)


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_call_that_takes_too_long_is_left_and_ctrl_c_ends_the_waiting() -> None:
    for_ever = threading.Event().wait
    with pytest.raises(TimeoutError, match=r"longer than 0\.01 s"):
        call_within(0.01, for_ever)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite run in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            call_within(600, for_ever)
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_comes_too_late_is_let_go() -> None:
    gate, late = threading.Event(), list[str]()

    def slow() -> str:
        gate.wait()
        return "device"

    with pytest.raises(TimeoutError):
        call_within(0.05, slow, discard=late.append)
    gate.set()
    for _ in range(1000):
        if late:
            break
        time.sleep(0.02)
    assert late == ["device"]


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_what_comes_after_ctrl_c_is_let_go() -> None:
    gate, late = threading.Event(), list[bool]()
    with ctrl_c_as_on_windows():
        call_within(600, lambda: gate.wait(60), discard=late.append)
    gate.set()
    while not late:
        time.sleep(0.02)

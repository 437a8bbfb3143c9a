"""Ctrl-C at the end of a run: while its outputs are finished."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from dfer.runtime import RunOptions, run
from dfer.runtime.cli.interruption import hold_back_interruption
from dfer.runtime.errors import DferError
from helpers import rows_of


class Interrupting:
    """A sink in whose close signals arrive."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self.numbers = numbers

    def write(self, step: object) -> None:
        pass

    def close(self) -> None:
        for number in self.numbers:
            signal.raise_signal(number)

    discard = close


@pytest.fixture
def terminable() -> object:
    """SIGTERM interrupts, as in `dfer-run`."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("terminable")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_lets_the_outputs_be_finished(face_video: Path, tmp_path: Path, number: signal.Signals) -> None:
    names = ("whole.csv", "stopped.csv")
    options = [RunOptions([face_video], csv=tmp_path / name, plot=tmp_path / f"{name}.png") for name in names]
    assert not run(options[0]).stopped
    assert run(options[1], sinks=[Interrupting(number)]).stopped
    assert rows_of(tmp_path / "stopped.csv") == rows_of(tmp_path / "whole.csv")
    assert (tmp_path / "stopped.csv.png").exists()
    assert signal.getsignal(number) is signal.default_int_handler


@pytest.mark.usefixtures("terminable")
def test_a_second_signal_breaks_off_and_says_so(face_video: Path, tmp_path: Path) -> None:
    sink = Interrupting(signal.SIGINT, signal.SIGTERM)
    with pytest.raises(DferError, match="stopped once more while the outputs were finished"):
        run(RunOptions([face_video], csv=tmp_path / "o.csv"), sinks=[sink])


def test_other_threads_and_handlers_stay_as_they_are() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with hold_back_interruption() as last:
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert not last.happened
    finally:
        signal.signal(signal.SIGINT, before)
    ended = []

    def work() -> None:
        with hold_back_interruption():
            ended.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]

"""A signal while the program still loads ends it as at any other moment."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helpers import write_video

PROGRAM = "from dfer.runtime.cli import dfer_run; dfer_run()"


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_a_signal_that_comes_twice_is_one(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    """As from a service that ends the whole group, and a wrapper in it that passes on what it gets."""
    video = write_video(tmp_path / "minute.mp4", face_frames * 20, 24)
    table, plot = tmp_path / "o.csv", tmp_path / "o.png"
    program = "import dfer.runtime.cli as cli; cli._ECHO = 60.0; cli.dfer_run()"
    command = [sys.executable, "-c", program, video, "--realtime", "--csv", table, "--plot", plot]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not table.exists() or table.stat().st_size < 1000:
        assert run.poll() is None
        time.sleep(0.05)
    for pause in (0.05, 0.2, 0.0):
        run.send_signal(signal.SIGTERM)
        time.sleep(pause)
    told = run.communicate(timeout=240)[1]
    assert run.returncode == 0, told
    assert plot.exists() and "stopped" in told


def test_a_signal_while_the_command_line_is_read_is_no_fault() -> None:
    """click makes `Aborted!` and status 1 of it."""
    interrupted = "import os, signal, click; click.Path.convert = lambda *_: os.kill(os.getpid(), signal.SIGTERM); "
    command = [sys.executable, "-c", interrupted + PROGRAM, "--demo", "--csv", "o.csv"]
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=240)
    assert (run.returncode, run.stderr.strip()) == (0, "")


def test_what_ends_too_early_is_no_signal() -> None:
    """click makes the same of both."""
    ended = "import click\ndef end(*_):\n    raise EOFError('lost')\nclick.Path.convert = end\n"
    command = [sys.executable, "-c", ended + PROGRAM, "--demo", "--csv", "o.csv"]
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=300)
    assert run.returncode == 1
    assert "EOFError: lost" in run.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_closed_streams_do_not_change_the_status(face_video: Path, tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(PROGRAM)} {shlex.quote(str(face_video))} --quiet"
    assert subprocess.run(f"{command} 2>&-", shell=True, timeout=300).returncode == 0
    told = subprocess.run(f"{command} --csv - >&-", shell=True, stderr=subprocess.PIPE, text=True, timeout=300)
    assert (told.returncode, told.stderr) == (1, "Error: standard output is closed; name a file in place of -\n")


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_libraries_and_model_load_is_no_fault(face_video: Path, number: signal.Signals) -> None:
    """Native modules turn an interruption into errors of their own, or abort at exit when an engine is half made."""
    told_when = """
import sys

class Finder:
    def find_spec(self, name, *_):
        if name == "click":
            print(flush=True)

sys.meta_path.insert(0, Finder())
"""
    program = told_when + PROGRAM
    command = [sys.executable, "-c", program, face_video, "--quiet"]
    for moment in range(24):
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert run.stdout is not None
        run.stdout.readline()  # signals are handled from just before click is loaded on
        time.sleep(0.02 + 0.04 * moment)
        run.send_signal(number)
        told = run.communicate(timeout=240)[1]
        assert run.returncode == 0, told
        assert "Traceback" not in told and "terminate" not in told

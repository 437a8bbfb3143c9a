"""A signal while the program still loads ends it as at any other moment."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = "from dfer.runtime.cli import dfer_run; dfer_run()"


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_libraries_and_model_load_is_no_fault(face_video: Path, number: signal.Signals) -> None:
    """Native modules turn an interruption into errors of their own, or abort at exit when an engine is half made."""
    command = [sys.executable, "-c", PROGRAM, face_video, "--quiet"]
    for moment in range(24):
        run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        time.sleep(0.2 + 0.04 * moment)
        run.send_signal(number)
        told = run.communicate(timeout=60)[1]
        assert run.returncode in (0, -number), told  # the system's own, before Python listens
        assert "Traceback" not in told and "terminate" not in told

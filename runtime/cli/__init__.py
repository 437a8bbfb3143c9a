"""The runtime's commands, one file each."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def dfer_run() -> None:
    """`dfer-run` as installed. A signal ends it cleanly from the first moment on, while its modules still load."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        from .run import main

        main()
    except KeyboardInterrupt:
        sys.exit(0)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does. Not by raising SIGINT: a job started in the background by a shell ignores that one."""
    raise KeyboardInterrupt

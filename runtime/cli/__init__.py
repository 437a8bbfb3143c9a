"""The runtime's commands, one file each."""

from __future__ import annotations

import signal
import sys


def dfer_run() -> None:
    """`dfer-run` as installed. A signal ends it cleanly from the first moment on, while its modules still load."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # both end it alike
    try:
        from .run import main

        main()
    except KeyboardInterrupt:
        sys.exit(0)

"""The runtime's commands, one file each."""

from __future__ import annotations

import _thread
import math
import os
import signal
import sys
import threading
from contextlib import suppress
from time import monotonic
from types import FrameType


def dfer_run() -> None:
    """Run `dfer-run` as installed. A signal ends it cleanly at any time, even while its modules are loading."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the parent process has it ignored
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _interrupt_again
    try:
        import click

        from .run import main

        try:
            _leave(main(standalone_mode=False) or 0)
        except click.ClickException as error:
            error.show()
            _leave(error.exit_code)
        except click.Abort as error:
            if not isinstance(error.__cause__, KeyboardInterrupt):
                raise
            _leave(0)  # interrupted while click read the command line
        finally:  # all is written; a signal during shutdown would only change the exit status
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except KeyboardInterrupt:
        _leave(0)
    except SystemExit as error:
        if not isinstance(error.code, int | None):
            raise
        _leave(error.code or 0)
    except ImportError as error:  # native modules turn an interruption during loading into this
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        _leave(0)


_ECHO = 1.0
"""Seconds in which a second signal counts as the same one: shells and services signal a group and its members."""
_interrupted = -math.inf  # time of the last interruption


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Interrupt like Ctrl-C. Does not raise SIGINT, which background jobs of a shell ignore."""
    global _interrupted
    if monotonic() - _interrupted > _ECHO:
        _interrupted = monotonic()
        raise KeyboardInterrupt


def _interrupt_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Repeat a Ctrl-C that arrived while an object was being destroyed, which Python would only print."""
    global _interrupted
    if unraisable.exc_type is KeyboardInterrupt:
        _interrupted = -math.inf
        threading.Timer(0.02, _signal_main_thread).start()
    else:
        sys.__unraisablehook__(unraisable)


def _signal_main_thread() -> None:
    if hasattr(signal, "pthread_kill"):  # it also interrupts blocking calls
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    else:
        _thread.interrupt_main(signal.SIGTERM)


def _leave(status: int) -> None:
    """Exit immediately. Regular shutdown would abort the process if an engine is half built or runs an endless
    graph."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None if they were closed at start
        with suppress(OSError):  # the reader is gone
            stream.flush()
    os._exit(status)

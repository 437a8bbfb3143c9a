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
    """`dfer-run` as installed. A signal ends it cleanly from the first moment on, while its modules still load."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started us has it ignored
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
        finally:  # all is written; while the interpreter ends, a signal would only change the exit status
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except KeyboardInterrupt:
        _leave(0)
    except SystemExit as error:
        if not isinstance(error.code, int | None):
            raise
        _leave(error.code or 0)
    except ImportError as error:  # what a native module makes of an interruption while it loads
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        _leave(0)


_ECHO = 1.0
"""Seconds after a signal in which the same is meant by another: shells and services tell a group and each of it."""
_interrupted = -math.inf  # when


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does. Not by raising SIGINT: a job started in the background by a shell ignores that one."""
    global _interrupted
    if monotonic() - _interrupted > _ECHO:
        _interrupted = monotonic()
        raise KeyboardInterrupt


def _interrupt_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Where Ctrl-C comes while an object is being destroyed, Python prints it and goes on: repeat it in a moment."""
    global _interrupted
    if unraisable.exc_type is KeyboardInterrupt:
        _interrupted = -math.inf
        threading.Timer(0.02, _signal_main_thread).start()
    else:
        sys.__unraisablehook__(unraisable)


def _signal_main_thread() -> None:
    if hasattr(signal, "pthread_kill"):  # it also ends what the thread waits for
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    else:
        _thread.interrupt_main(signal.SIGTERM)


def _leave(status: int) -> None:
    """End now. An engine that is half made, or runs a graph without an end, would abort the process if its library were
    closed in order."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where they were closed before we began
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(status)

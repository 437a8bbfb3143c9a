"""The one exception type users meet. Its message says what is wrong, with which input, and what to do."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class DferError(Exception):
    """An error with a one-line message for the user, safe to print in a terminal (see `printable`).

    >>> from dfer.runtime import DferError, Recognizer
    >>> try:
    ...     Recognizer("nowhere.dfer")
    ... except DferError as error:
    ...     print(error)
    bundle nowhere.dfer: no such folder
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class BundleError(DferError):
    """A bundle's file is not what was exported, or its graph is not allowed, so no backend can run it."""


class EngineError(DferError):
    """An engine, its device or its server failed while running; the input is not to blame."""


class ParameterError(DferError):
    """A problem with one parameter of a function.

    The message is "parameter: problem". A command decorated with `reports_errors` names its own option instead.

    >>> from dfer.runtime import ParameterError
    >>> print(ParameterError("window", "must hold at least two sampled frames"))
    window: must hold at least two sampled frames
    """

    def __init__(self, parameter: str, problem: str) -> None:
        super().__init__(parameter, problem)
        self.parameter = parameter
        self.problem = problem

    def __str__(self) -> str:
        return printable(f"{self.parameter}: {self.problem}")


_LEAST = {"threads": 1, "max_faces": 1, "min_face": 0, "detect_every": 1, "jobs": 1, "reconnect_tries": 0, "workers": 1}


def check_least(settings: Mapping[str, Any]) -> None:
    """Raise ParameterError for a whole number below the minimum for its name; None and other names are ignored.

    >>> check_least({"threads": 2, "max_faces": None, "provider": "cpu"})
    """
    for name, least in _LEAST.items():
        if (value := settings.get(name)) is not None and value < least:
            raise ParameterError(name, f"must be at least {least}, not {value}")


def check_unset(options: object, problem: str, *names: str) -> None:
    """Raise ParameterError with `problem` for the first of these fields that is not at its class's default."""
    for name in names:
        if getattr(options, name) != getattr(type(options), name):
            raise ParameterError(name, problem)


def printable(value: object) -> str:
    r"""Return a value as one line without terminal control characters; names and errors may come from untrusted input.

    >>> printable("two\nlines, \x1b[31mred")
    'two lines, ?[31mred'
    """
    return "".join(mark if mark.isprintable() else " " if mark.isspace() else "?" for mark in str(value))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty.

    >>> first_line(ValueError("too long\\nsince ...")), first_line(MemoryError())
    ('too long', 'MemoryError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a click command so that a `DferError`, or a failing file or device, ends it with one line on stderr and
    exit status 1."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        import click

        try:
            return command(*args, **kwargs)
        except ParameterError as error:
            raise click.ClickException(f"{_option(error.parameter)}: {printable(error.problem)}") from error
        except DferError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # the reader (`| head`) has closed the pipe; click ends quietly
            place = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{place}{error.strerror or error}") from error

    return wrapper


@contextmanager
def explains_interruption(way_on: str) -> Iterator[None]:
    """Turn a Ctrl-C into a `DferError` that says how to go on. A context manager or, in parentheses, a decorator.

    >>> with explains_interruption("the same command goes on from here"):
    ...     raise KeyboardInterrupt
    Traceback (most recent call last):
        ...
    dfer.runtime.errors.DferError: stopped; the same command goes on from here
    """
    try:
        yield
    except (KeyboardInterrupt, ImportError) as error:
        if isinstance(error, ImportError) and not isinstance(error.__cause__, KeyboardInterrupt):
            raise  # native modules turn an interruption while they load into this
        raise DferError(f"stopped; {way_on}") from None


def _option(parameter: str) -> str:
    """Return how the running click command spells a parameter: its longest option, its argument, or the name itself."""
    import click

    for declared in click.get_current_context().command.params:
        if declared.name == parameter:
            return max(declared.opts, key=len) if isinstance(declared, click.Option) else declared.human_readable_name
    return parameter


def require(module: str, extra: str) -> None:
    """Raise a `DferError` naming the extra to install when `module` is absent.

    >>> require("json", "train")
    """
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise DferError(f"{module} is not installed; run: pip install 'dfer-edge[{extra}]'")

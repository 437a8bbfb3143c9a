"""The command class and the options shared by several commands."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..engines import BACKENDS, PRECISIONS, find_backend
from ..errors import DferError, ParameterError

if TYPE_CHECKING:
    from rich.console import Console

Option = Callable[[Callable[..., Any]], Callable[..., Any]]


class Command(click.Command):
    """Writes UTF-8 to files and pipes, whatever the system's encoding, and "?" for what a terminal cannot display."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")
        return super().main(*args, **kwargs)


def command(epilog: str) -> Callable[[Callable[..., Any]], click.Command]:
    return click.command(cls=Command, epilog=epilog)


class Provider(click.ParamType):  # type: ignore[type-arg]  # generic in click's later versions only
    """A backend's name, an address of Triton, or "auto". The registry is read on demand, so that it includes backends
    registered by others."""

    name = "provider"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(('auto', *BACKENDS, 'triton://HOST/MODEL'))}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value != "auto":
            try:
                find_backend(value)
            except ParameterError as error:
                self.fail(error.problem, param, ctx)
        return value


def provider_option(default: str = "auto", text: str = "Where to run; auto: what is fastest here.") -> Option:
    return click.option("--provider", type=Provider(), default=default, show_default=True, help=text)


version_option = click.version_option(package_name="dfer-edge", message="%(prog)s %(version)s")

bundle_option = click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    envvar="DFER_BUNDLE",
    help="Model to run; default: $DFER_BUNDLE, else the demo bundle.",
)


def tell_warning(console: Console, message: str) -> None:
    """Print a warning."""
    from rich.markup import escape

    console.print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True)


def tell_bundle(console: Console) -> None:
    """Print the running command's bundle if $DFER_BUNDLE named it."""
    context = click.get_current_context()
    if context.get_parameter_source("bundle") is ParameterSource.ENVIRONMENT:
        console.print(f"bundle {context.params['bundle']}, from $DFER_BUNDLE", soft_wrap=True, markup=False)


precision_option = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help="Which of the bundle's graphs to run; auto: what it recommends for the provider.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="CPU threads of the model, at most; graphs below 4 MB run on one. Default: physical cores.",
)
window_option = click.option(
    "--window", type=float, help="Seconds of video behind each prediction; default: as the bundle says."
)
rotate_option = click.option(
    "--rotate",
    type=click.Choice(["90", "180", "270", "auto"]),
    callback=lambda _context, _option, value: int(value) if value and value != "auto" else value,
    help="Turn pictures clockwise by so many degrees before reading them; auto: as the first clear face asks for, in "
    "each photograph anew.",
)
max_faces_option = click.option(
    "--max-faces", type=click.IntRange(min=1), metavar="N", help="Read the N largest faces only."
)
min_face_option = click.option(
    "--min-face",
    type=click.IntRange(min=0),
    default=40,
    show_default=True,
    metavar="PIXELS",
    help="Side of the smallest face that is read; the larger, the faster.",
)
detect_every_option = click.option(
    "--detect-every",
    type=click.IntRange(min=1),
    metavar="FRAMES",
    help="Search for faces in every so many frames; between, they follow the motion in the picture. Default: in "
    "sampled frames, five to ten times a second, half as often while no face moves.",
)


def given_options() -> dict[str, str]:
    """Return the options and arguments on the running command's command line as they are spelled, by parameter."""
    context = click.get_current_context()
    return {
        str(option.name): option.opts[0]
        for option in context.command.params
        if context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    }


def refuse_given(names: Iterable[str], why: str) -> None:
    """Raise DferError if the running command's command line has one of these parameters."""
    given = given_options()
    if idle := [given[name] for name in names if name in given]:
        raise DferError(f"{', '.join(idle)}: {why}")

"""Errors name the parameter of a function from Python, and the option from a command."""

from __future__ import annotations

import pickle
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dfer.runtime.errors import DferError, ParameterError, reports_errors


def print_of(parameter: str) -> str:
    """What a command prints when the library it calls finds fault with `parameter`."""

    @click.command()
    @click.argument("video", type=click.Path(path_type=Path))
    @click.option("-w", "--window", default=1)
    @click.option("--calib-min", "minimum", default=500)
    @click.option("--smooth/--no-smooth", default=True)
    @reports_errors
    def command(**_: object) -> None:
        raise ParameterError(parameter, "must be more")

    result = CliRunner().invoke(command, ["some.mp4"])
    assert result.exit_code == 1
    return result.stderr


def test_from_python_an_error_names_the_parameter() -> None:
    error = ParameterError("window", "must hold at least two sampled frames")
    assert str(error) == "window: must hold at least two sampled frames"
    assert (error.parameter, error.problem) == ("window", "must hold at least two sampled frames")
    assert isinstance(error, DferError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("parameter", "spelling"),
    [
        ("window", "--window"),  # the long one, not -w
        ("minimum", "--calib-min"),  # an option of another name
        ("smooth", "--smooth"),
        ("video", "VIDEO"),  # an argument
        ("steps", "steps"),  # the command has no such option
    ],
)
def test_from_a_command_it_names_what_was_typed(parameter: str, spelling: str) -> None:
    assert print_of(parameter) == f"Error: {spelling}: must be more\n"

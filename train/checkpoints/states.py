"""State files from which interrupted runs resume, and checks that the settings are the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...runtime.errors import ParameterError

_LATER = ("precision", "division")
"""Settings that earlier versions did not record."""


def read_state(path: Path, wanted: str, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read the state file of an interrupted run. wanted: its format, "dfer-edge … state N".

    Raises ParameterError for any other file, and for a state whose settings differ from `identity`.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types; all mean the same to the user
        raise _refuse(f"{path} cannot be read") from error
    if not isinstance(state, dict) or state.get("format") != wanted:
        kind = wanted.removeprefix("dfer-edge ").rstrip(" 0123456789")
        raise _refuse(f"{path} is not a {kind} of this version")
    changed = _changed(state["identity"], identity)
    if changed:
        raise _refuse(f"{path} was begun with other settings ({changed}); give the same ones")
    return state


def check_finished(out: Path, made: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise ParameterError if a finished run wrote `out` with other settings (`made`) than those requested."""
    changed = _changed(made, asked)
    if changed:
        raise ParameterError(
            "resume", f"{out} was made with other settings ({changed}); give the same ones, or go without"
        )


def _changed(earlier: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return the names of the settings that differ; a missing one counts as None, and one of `_LATER` as equal."""
    earlier = {**{name: asked.get(name) for name in _LATER}, **earlier}
    return ", ".join(name for name in {**asked, **earlier} if earlier.get(name) != asked.get(name))


def _refuse(why: str) -> ParameterError:
    return ParameterError("resume", f"{why}, or train without it")

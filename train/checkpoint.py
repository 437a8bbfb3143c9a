"""Our checkpoints: one `.pt` of tensors and plain values that loads with `weights_only=True`, so it can run nothing."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from ..runtime.errors import DferError
from .methods import Method, method_classes

FORMAT = "dfer-edge checkpoint 1"


def save_checkpoint(method: Method, path: Path, training: dict[str, Any]) -> None:
    """Write `method` with `training` (plain values: settings, scores) to `path`, completely or not at all."""
    content = {
        "format": FORMAT,
        "method": method.name,
        "config": method.config(),
        "state": method.state_dict(),
        "training": training,
    }
    partial = path.with_name(path.name + ".part")
    torch.save(content, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> tuple[Method, dict[str, Any]]:
    """Read a checkpoint: the model in evaluation mode, and what `save_checkpoint` was told about its training.

    Raises DferError for a missing file, a file that is not a checkpoint of ours, or one that holds pickled code.
    """
    if not path.is_file():
        raise DferError(f"checkpoint {path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DferError(
            f"checkpoint {path}: holds pickled objects beyond tensors and plain values; refused, since loading "
            "them would run code from the file"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise DferError(f"checkpoint {path}: not a PyTorch file ({_first_line(error)})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DferError(f"checkpoint {path}: not written by dfer-train (expected format {FORMAT!r})")
    methods = method_classes()
    if content["method"] not in methods:
        raise DferError(f"checkpoint {path}: method {content['method']!r} is not one of {', '.join(methods)}")
    method = methods[content["method"]].from_config(content["config"])
    try:
        method.load_state_dict(content["state"])
    except RuntimeError as error:
        raise DferError(f"checkpoint {path}: weights do not fit its config ({_first_line(error)})") from error
    return method.eval(), content["training"]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

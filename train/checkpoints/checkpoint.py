"""Our checkpoints: one `.pt` of tensors and plain values that loads with `weights_only=True`, so it can run nothing."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from ...runtime.errors import DferError
from ...runtime.storage import atomic_write
from ..methods import Method, method_classes

FORMAT = "dfer-edge checkpoint 1"
_HINT = "if it is an official DFER-CLIP file, export it with: dfer-export --method dfer-clip"


def save_checkpoint(method: Method, path: Path, training: dict[str, Any]) -> None:
    """Write `method` with `training` (plain values: settings, scores) to `path`, completely or not at all."""
    content = {
        "format": FORMAT,
        "method": method.name,
        "config": method.config(),
        "state": method.state_dict(),
        "training": training,
    }
    with atomic_write(path, durable=True) as aside:
        torch.save(content, aside)


def load_checkpoint(path: Path) -> tuple[Method, dict[str, Any]]:
    """Read a checkpoint: the model in evaluation mode, and what `save_checkpoint` was told about its training.

    Raises DferError for a missing file, a file that is not a checkpoint of ours, or one that holds pickled code.
    """
    if not path.is_file():
        raise DferError(f"checkpoint {path}: no such file")
    content = _read(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DferError(f"checkpoint {path}: not written by dfer-train (expected format {FORMAT!r}); {_HINT}")
    methods = method_classes()
    name = content.get("method")
    if not isinstance(name, str) or name not in methods:
        raise DferError(f"checkpoint {path}: method {name!r} is not one of {', '.join(methods)}")
    try:
        method = methods[name].from_config(content["config"])
        method.load_state_dict(content["state"])
        training = dict(content["training"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DferError(f"checkpoint {path}: config or weights are not whole ({_first_line(error)})") from error
    return method.eval(), training


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for bytes that are not its own
        # Both of torch's formats begin so; what is neither was never a checkpoint.
        if isinstance(error, pickle.UnpicklingError) and path.read_bytes()[:2] in (b"PK", b"\x80\x02"):
            raise DferError(
                f"checkpoint {path}: holds pickled objects beyond tensors and plain values; refused, since loading "
                f"them would run code from the file; {_HINT}"
            ) from error
        raise DferError(f"checkpoint {path}: not a PyTorch file ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

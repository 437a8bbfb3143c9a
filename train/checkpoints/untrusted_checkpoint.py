"""Read tensors from untrusted checkpoints without running code from the file.

A checkpoint is a pickle, and a pickle names functions to call. torch's own restricted unpickler (`weights_only=True`)
calls only what rebuilds tensors and refuses every other name. Many published files hold one, such as an object that
recorded the training. Here each such name is first bound to a class that accepts any arguments and does nothing.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from ...runtime.errors import DferError
from ..models.archives import check_archive, plain_values


class Placeholder:
    """Replaces an object that is neither a tensor nor a plain value."""

    def __new__(cls, *_: object) -> Placeholder:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


def read_untrusted(path: Path) -> object:
    """Load a `torch.save` file onto the CPU: tensors, plain values and containers; all else becomes `Placeholder`.

    Raises DferError for a missing file, one that is not in torch's zip format (torch ≥ 1.6), TorchScript, or a pickle
    that does more than describe values, such as calling functions of `os`.
    """
    if not path.is_file():
        raise DferError(f"checkpoint {path}: no such file")
    check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = get_unsafe_globals_in_checkpoint(path)
            with safe_globals([(Placeholder, name) for name in names]):
                content = plain_values(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # an untrusted file can make the reader raise anything
        raise DferError(
            f"checkpoint {path}: refused; it is not in torch's zip format (torch ≥ 1.6, not TorchScript), or its "
            "pickle does more than describe values"
        ) from error
    return content

"""Our checkpoints: one `.pt` of tensors and plain values that loads with `weights_only=True`, so it runs no code."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...runtime.bundle import Bundle
from ...runtime.errors import DferError, first_line
from ...runtime.storage import atomic_write
from ..confidence import Confidence
from ..digests import weights_digest
from ..methods import TAUGHT, Method, method_class, method_names
from ..models.archives import check_archive, check_names, plain_values

FORMAT = "dfer-edge checkpoint 1"
_UNFITTED = Confidence()
_HINT = "if it is of DFER-CLIP's authors, dfer-export and dfer-distill read it with --method dfer-clip"


def save_checkpoint(method: Method, path: Path, training: dict[str, Any], confidence: Confidence = _UNFITTED) -> None:
    """Write `method` with `training` (plain values: settings, scores) to `path`, completely or not at all.

    confidence: the calibration fitted to the model, restored when it is loaded.
    """
    content = {"state": method.finished_state(), "confidence": confidence.to_json(), "training": training}
    _write(method, path, content)


def save_trained(
    method: Method,
    trained: Mapping[str, Tensor],
    path: Path,
    training: dict[str, Any],
    whole: Path,
    confidence: Confidence = _UNFITTED,
) -> None:
    """Write only the `trained` part of the method's state to `path`.

    The frozen rest is loaded from the checkpoint `whole` in the same folder, which may be written later. It is found by
    file name, and must match the digest stored here. confidence: as in `save_checkpoint`.
    """
    state = method.finished_state()
    frozen = {name: value for name, value in state.items() if name not in trained}
    kept = {name: value for name, value in state.items() if name in trained}
    rest = {"file": whole.name, "sha256": weights_digest(frozen)}
    _write(method, path, {"state": kept, "frozen": rest, "confidence": confidence.to_json(), "training": training})


def load_checkpoint(path: Path) -> tuple[Method, dict[str, Any]]:
    """Read a checkpoint: the model in evaluation mode, and what was saved about its training.

    Raises DferError for a missing file, a file that is not a checkpoint of ours, one that holds pickled code, or one
    whose frozen weights are in another file that is missing or does not match.
    """
    content = _read_ours(path)
    name = content.get("method")
    known = [*method_names(), *TAUGHT]
    if not isinstance(name, str) or name not in known:
        raise DferError(f"checkpoint {path}: method {name!r} is not one of {', '.join(known)}")
    try:
        method = method_class(name).from_config(content["config"])
        state = dict(content["state"])
        if "frozen" in content:
            state |= _frozen(path, content["frozen"], method.state_dict().keys() - state.keys())
        own = method.state_dict()
        check_names([one for one in own if one not in state], [str(one) for one in state if one not in own])
        method.load_state_dict(state)
        method.confidence = Confidence(**content.get("confidence", {}))
        training = dict(content["training"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DferError(f"checkpoint {path}: config or weights are not whole ({first_line(error)})") from error
    return method.eval(), training


def checkpoint_of(bundle: Bundle, given: Path | None = None) -> Path:
    """Return the checkpoint that a bundle was exported from: `given`, or the file of that name beside the bundle.

    Raises DferError if there is none, or if its sha256 differs from the one in the bundle.
    """
    provenance = bundle.manifest.provenance
    name = Path(str(provenance.get("checkpoint", "the checkpoint"))).name
    path = given or bundle.path.absolute().parent / name
    if not path.is_file():
        raise DferError(f"{bundle.path} has no text side; name the checkpoint it was exported from, {name} (--ckpt)")
    if provenance.get("checkpoint_sha256") != hashlib.sha256(path.read_bytes()).hexdigest():
        raise DferError(f"{bundle.path} was not exported from {path}, but from another {name}; name that checkpoint")
    return path


def _write(method: Method, path: Path, content: dict[str, Any]) -> None:
    content = {"format": FORMAT, "method": method.name, "config": method.config(), **content}
    with atomic_write(path, durable=True) as aside:
        torch.save(content, aside)


def _read_ours(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DferError(f"checkpoint {path}: no such file")
    content = _read(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DferError(f"checkpoint {path}: not written by dfer-train (expected format {FORMAT!r}); {_HINT}")
    return content


def _frozen(path: Path, kept: dict[str, str], names: Set[str]) -> dict[str, Tensor]:
    """Load the frozen weights `names` of the checkpoint `path` from the checkpoint beside it that `kept` names."""
    whole = path.with_name(Path(kept["file"]).name)
    if not whole.is_file():
        raise DferError(
            f"checkpoint {path}: its frozen weights are in {whole}, which is not there; keep the two together"
        )
    state = _read_ours(whole)["state"]
    frozen = {name: state[name] for name in names if name in state}
    if weights_digest(frozen) != kept["sha256"]:
        raise DferError(f"checkpoint {path}: the frozen weights in {whole} are not those that it was trained with")
    return frozen


def _read(path: Path) -> Any:
    check_archive(path)
    try:
        return plain_values(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many types for files that it did not write
        # Both of torch's formats begin with these bytes; anything else was never a checkpoint.
        if isinstance(error, pickle.UnpicklingError) and path.read_bytes()[:2] in (b"PK", b"\x80\x02"):
            raise DferError(
                f"checkpoint {path}: holds pickled objects beyond tensors and plain values; refused, since loading "
                f"them would run code from the file; {_HINT}"
            ) from error
        why = f" ({first_line(error)})" if isinstance(error, RuntimeError) else ""  # others are about pickle itself
        raise DferError(f"checkpoint {path}: not a PyTorch file{why}") from error

"""Our checkpoints: one `.pt` of tensors and plain values that loads with `weights_only=True`, so it can run nothing."""

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
_HINT = "if it is of DFER-CLIP's authors, export it with: dfer-export --method dfer-clip"


def save_checkpoint(method: Method, path: Path, training: dict[str, Any], confidence: Confidence = _UNFITTED) -> None:
    """Write `method` with `training` (plain values: settings, scores) to `path`, completely or not at all.

    confidence: what was fitted to it, which the model has when it is loaded again.
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

    The rest, which is frozen, is in the checkpoint `whole` in the same folder, perhaps only later. It is found there by
    that name, and must be the same: its digest is kept. confidence: as of `save_checkpoint`.
    """
    state = method.finished_state()
    frozen = {name: value for name, value in state.items() if name not in trained}
    kept = {name: value for name, value in state.items() if name in trained}
    rest = {"file": whole.name, "sha256": weights_digest(frozen)}
    _write(method, path, {"state": kept, "frozen": rest, "confidence": confidence.to_json(), "training": training})


def load_checkpoint(path: Path) -> tuple[Method, dict[str, Any]]:
    """Read a checkpoint: the model in evaluation mode, and what was saved about its training.

    Raises DferError for a missing file, a file that is not a checkpoint of ours, one that holds pickled code, or one
    whose frozen weights are in another file that is missing or has others.
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
    """The checkpoint that a bundle was exported from: `given`, or the file of its name beside the bundle.

    Raises DferError where there is none, and for another one: the digest is in the bundle.
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
    """The frozen weights `names` of the checkpoint `path`, from the one beside it that has them."""
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
    except Exception as error:  # torch raises many kinds for bytes that are not its own
        # Both of torch's formats begin so; what is neither was never a checkpoint.
        if isinstance(error, pickle.UnpicklingError) and path.read_bytes()[:2] in (b"PK", b"\x80\x02"):
            raise DferError(
                f"checkpoint {path}: holds pickled objects beyond tensors and plain values; refused, since loading "
                f"them would run code from the file; {_HINT}"
            ) from error
        why = f" ({first_line(error)})" if isinstance(error, RuntimeError) else ""  # others tell of pickle's insides
        raise DferError(f"checkpoint {path}: not a PyTorch file{why}") from error

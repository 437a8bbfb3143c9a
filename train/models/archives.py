"""Checks of PyTorch files before any tensor is loaded, and plain values from their contents."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from ...runtime.errors import DferError

_PIECE = 1 << 20  # bytes
_LONGEST_REASON = 300  # characters
_PROGRAM = (
    "a TorchScript program, as OpenAI publishes CLIP; take the same weights by open_clip's tag (--clip "
    "ViT-B-32-quickgelu --pretrained openai), or write its tensors to a file of their own: python -c "
    "\"import torch; torch.save(torch.jit.load('{}', 'cpu').state_dict(), 'clip.pt')\""
)


def check_archive(path: Path) -> None:
    """Raise DferError for a file that should not be passed to PyTorch's reader.

    Compressed records could fill the memory; PyTorch stores them uncompressed. TorchScript, in which OpenAI publishes
    CLIP, is a program. PyTorch writes checksums of records but does not verify them, so damage would go unnoticed.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if any(record.filename.partition("/")[2].startswith("code/") for record in records):
                raise DferError(f"{path}: {_PROGRAM.format(path.name)}")
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise DferError(f"{path}: its records are compressed, which those of PyTorch never are; refused")
            # PyTorch can be set to write no checksums; they are 0 then.
            checked = records if any(record.CRC for record in records) else []
            damaged = next((record.filename for record in checked if not _is_whole(archive, record)), None)
    except (zipfile.BadZipFile, OSError, ValueError) as error:  # PyTorch might still read it, with wrong weights
        raise DferError(f"{path}: a damaged archive ({error}); copy the file again") from error
    if damaged is not None:
        raise DferError(f"{path}: record {damaged} is damaged (its checksum differs); copy the file again")


def _is_whole(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bool:
    """Return whether a record's content matches its checksum."""
    try:
        with archive.open(record) as content:
            while content.read(_PIECE):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def plain_values(content: object) -> object:
    """Replace subclasses of dict and list by plain ones: a file can give an OrderedDict an attribute named `get`."""
    if isinstance(content, dict):
        return {key: plain_values(value) for key, value in dict.items(content)}
    if isinstance(content, list):
        return [plain_values(value) for value in list.__iter__(content)]
    return content


def check_names(missing: Sequence[str], unexpected: Sequence[str]) -> None:
    """Raise ValueError, naming a few, if a file lacks tensors or has unexpected ones."""
    faults = [f"{word} {_few(names)}" for word, names in (("missing", missing), ("unexpected", unexpected)) if names]
    if faults:
        raise ValueError("; ".join(faults))


def why_unfit(error: Exception) -> str:
    """Return an error in one line: for weights that do not fit, the names that differ, truncated."""
    first, *others = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    told = "; ".join(others) or first
    return told if len(told) <= _LONGEST_REASON else told[: _LONGEST_REASON - 2] + " …"


def _few(names: Sequence[str], most: int = 4) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest

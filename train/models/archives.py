"""PyTorch's files as archives: what can be refused before any tensor is made."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ...runtime.errors import DferError


def refuse_compressed(path: Path) -> None:
    """Raise DferError for a file with compressed records, which could fill the memory. PyTorch stores them plain."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            compressed = any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # damaged, as PyTorch will say
    if compressed:
        raise DferError(f"{path}: its records are compressed, which those of PyTorch never are; refused")

"""Export of a checkpoint to a bundle: graphs in FP32, FP16, BF16 and INT8 that agree with PyTorch, and engines.

    from pathlib import Path
    from dfer.export import ExportOptions, export_checkpoint

    options = ExportOptions(fp16=True, int8=True, faces=Path("faces"))
    result = export_checkpoint(Path("align.pt"), Path("align.dfer"), options, print)
    result.parity["int8"].cosine                # lowest feature cosine against PyTorch, on held-out faces
    result.bundle.manifest.recommended["cpu"]   # the fastest precision that passes its gate

Names are loaded on first use, so that importing this package is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import build_engines as build_engines
    from .exporting import ExportResult as ExportResult
    from .exporting import export_checkpoint as export_checkpoint
    from .exporting import export_method as export_method
    from .options import ExportOptions as ExportOptions

_HOMES = {
    "ExportOptions": "options",
    "ExportResult": "exporting",
    "build_engines": "engine",
    "export_checkpoint": "exporting",
    "export_method": "exporting",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)

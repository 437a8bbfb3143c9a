"""The torch-free runtime: bundles, sources, faces, tracks, windows and predictions.

Names are loaded when first used, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bundle import Bundle as Bundle
    from .errors import DferError as DferError
    from .labels import EXPRESSIONS as EXPRESSIONS
    from .pipeline.class_map import ClassMap as ClassMap
    from .pipeline.smoothing import Smoother as Smoother
    from .predictions import Prediction as Prediction
    from .recognizer import Recognizer as Recognizer
    from .sources import Frame as Frame
    from .sources import open_source as open_source

_HOMES = {
    "Bundle": "bundle",
    "ClassMap": "pipeline.class_map",
    "DferError": "errors",
    "EXPRESSIONS": "labels",
    "Frame": "sources",
    "Prediction": "predictions",
    "Recognizer": "recognizer",
    "Smoother": "pipeline.smoothing",
    "open_source": "sources",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)

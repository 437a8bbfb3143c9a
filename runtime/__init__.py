"""The torch-free runtime: bundles, sources, faces, tracks, windows and predictions.

Names are loaded on first use, so importing this package costs nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bundle import Bundle as Bundle
    from .cli.run_options import RunOptions as RunOptions
    from .cli.runner import RunResult as RunResult
    from .cli.runner import run as run
    from .errors import DferError as DferError
    from .errors import ParameterError as ParameterError
    from .labels import EXPRESSIONS as EXPRESSIONS
    from .outputs.overlay import annotate as annotate
    from .outputs.tables import to_dataframe as to_dataframe
    from .pipeline.class_map import ClassMap as ClassMap
    from .pipeline.smoothing import Smoother as Smoother
    from .predictions import Prediction as Prediction
    from .predictions import Step as Step
    from .recognizer import Recognizer as Recognizer
    from .recognizer import Session as Session
    from .sources import Frame as Frame
    from .sources import open_source as open_source

    __version__: str

# From 1.29 on, ONNX Runtime stores a device id and an event queue in the cache folder and contacts a server at every
# start. It reads this variable on its first import, which always comes after the import of this package.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# OpenCV refuses larger images before decoding them; a file of 100 kB could take gigabytes.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "100000000")

_HOMES = {
    "Bundle": "bundle",
    "ClassMap": "pipeline.class_map",
    "DferError": "errors",
    "EXPRESSIONS": "labels",
    "Frame": "sources",
    "ParameterError": "errors",
    "Prediction": "predictions",
    "Recognizer": "recognizer",
    "RunOptions": "cli.run_options",
    "RunResult": "cli.runner",
    "Session": "recognizer",
    "Smoother": "pipeline.smoothing",
    "Step": "predictions",
    "annotate": "outputs.overlay",
    "open_source": "sources",
    "run": "cli.runner",
    "to_dataframe": "outputs.tables",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dfer-edge")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)

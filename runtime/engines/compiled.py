"""What engines have compiled of graphs, in this user's cache folder, so that the next start is faster."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..machine import cache_folder, instructions
from ..storage import atomic_write

_LARGEST = 512 << 20
"""Bytes of the largest graph that is kept: writing it takes as much memory again."""
KEPT = 16
"""How many graphs' files a kind of engine keeps: those that were used last."""


def compiled_folder(kind: str, *key: bytes | str) -> str:
    """The folder of what `kind` compiled under `key`, which is made; "" where there can be none.

    key: all that the compiled form depends on: the graph, the precision, the versions, the machine.
    """
    whole = hashlib.sha256()
    for part in key:
        whole.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    try:
        folder = cache_folder() / kind / whole.hexdigest()[:32]
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        others = sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)
    except OSError:
        return ""
    for old in others[:-KEPT]:
        with suppress(OSError):  # another process sweeps, too, or still uses it
            shutil.rmtree(old)
    return str(folder)


def load_optimised(graph: bytes, options: Any, load: Callable[[bytes | str, Any], Any]) -> Any:
    """A session of the graph as ONNX Runtime optimises it for this machine: kept, since that loads faster.

    options: SessionOptions. load: makes a session of a graph, or of a file of one, and options.
    Raises what `load` does for the graph itself; where nothing can be kept there is only the wait.
    """
    import onnxruntime as ort

    if len(graph) > _LARGEST:
        return load(graph, options)
    folder = compiled_folder("onnxruntime", graph, ort.__version__, platform.machine(), *instructions())
    kept = Path(folder, "optimised.onnx")
    if folder and kept.is_file():
        usual = options.graph_optimization_level
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        with suppress(Exception):  # ONNX Runtime's share no public base class; a damaged file is made anew
            return load(str(kept), options)
        options.graph_optimization_level = usual
    if folder:
        with suppress(Exception), atomic_write(kept) as aside:  # a full disk is no reason not to run
            options.optimized_model_filepath = str(aside)
            return load(graph, options)
        options.optimized_model_filepath = ""
    return load(graph, options)

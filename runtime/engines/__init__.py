"""Engines: loaded, runnable graphs. One file per backend behind one small protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32] | NDArray[np.uint8]

PROVIDERS = ("auto", "cpu", "cuda", "openvino", "native-tensorrt", "native-tensorrt-rtx")
"""What the runtime can be asked for; the native ones build engines into the bundle (see `native.py`)."""


class Engine(ABC):
    """A graph on some backend. Use as a context manager, or call `close`.

    provider: what really runs: "cpu", "cuda", "openvino", "tensorrt" or "tensorrt-rtx".
    """

    provider: str

    @abstractmethod
    def run(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        """All outputs by name for all inputs by name; the first axis is the batch."""

    @abstractmethod
    def close(self) -> None:
        """Free the graph and its memory."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_engine(graph: bytes, provider: str = "auto") -> Engine:
    """Load an ONNX graph.

    provider: "cpu", "cuda", "openvino", or "auto" for a GPU where one is installed and starts, else the CPU.
    Raises DferError when the provider asked for is absent, or would silently have become another.
    """
    from .ort import OrtEngine

    return OrtEngine(graph, provider)


def present_providers() -> list[str]:
    """The providers installed here, GPUs first; whether one starts shows when it is opened."""
    from .ort import present_providers

    return present_providers()

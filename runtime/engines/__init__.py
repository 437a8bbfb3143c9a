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


def open_engine(graph: bytes, provider: str = "auto", bf16: bool = False) -> Engine:
    """Load an ONNX graph.

    provider: "cpu", "cuda", "openvino", or "auto" for a GPU where one is installed and starts, else the CPU.
    bf16: compute an FP32 graph in BF16, where the provider can (see `computes_bf16`).
    Raises DferError when the provider asked for is absent, or would silently have become another, or cannot do BF16.
    """
    from .ort import OrtEngine

    return OrtEngine(graph, provider, bf16)


def present_providers() -> list[str]:
    """The providers installed here, GPUs first; whether one starts shows when it is opened."""
    from .ort import present_providers

    return present_providers()


def computes_bf16(provider: str) -> bool:
    """Whether a provider can compute FP32 graphs in BF16 on this machine: OpenVINO, where the CPU has instructions."""
    from .ort import computes_bf16

    return computes_bf16(provider)

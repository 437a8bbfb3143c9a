"""Engines: loaded, runnable graphs. One file per backend behind one small protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..bundle import Bundle

    Array = NDArray[np.float32] | NDArray[np.uint8]

PROVIDERS = (
    "auto",
    "cpu",
    "openvino",
    "cuda",
    "tensorrt",
    "tensorrt-rtx",
    "native-tensorrt",
    "native-tensorrt-rtx",
)
"""What the runtime can be asked for. "auto": the fastest of those present (see `choice.py`); the native ones build
engines into the bundle (see `native.py`); the others run on ONNX Runtime."""

PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")
"""What of a bundle can be asked for. "auto": what it recommends for the provider."""


class Engine(ABC):
    """A graph on some backend. Use as a context manager, or call `close`.

    provider: what really runs: one of PROVIDERS without "auto" and "native-".
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


def open_engine(graph: bytes, provider: str, threads: int | None = None, bf16: bool = False) -> Engine:
    """Load an ONNX graph on ONNX Runtime.

    provider: one of PROVIDERS that is neither native nor "auto".
    threads: of the CPU that one run may use, None for what ONNX Runtime thinks best; no matter to GPUs.
    bf16: compute an FP32 graph in BF16, where the provider can (see `computes_bf16`).
    Raises DferError when the provider asked for is absent, or would silently have become another, or cannot do BF16.
    """
    from .ort import OrtEngine

    return OrtEngine(graph, provider, threads, bf16)


def open_graph(
    bundle: Bundle,
    graph: str,
    provider: str,
    threads: int | None = None,
    report: Callable[[str], object] = lambda _: None,
    bf16: bool = False,
) -> Engine:
    """Load the graph `graph` ("head.fp32.onnx") of a bundle on any of PROVIDERS. See `open_engine`.

    report: told one line about what takes time, which is building engines.
    """
    if provider.startswith("native-"):
        from .native import open_native

        return open_native(bundle, graph, provider.removeprefix("native-"), report)
    return open_engine(bundle.read(graph), provider, threads, bf16)


def present_providers() -> list[str]:
    """ONNX Runtime's providers installed here, GPUs first; whether one starts shows when it is opened."""
    from .ort import present_providers

    return present_providers()


def computes_bf16(provider: str) -> bool:
    """Whether a provider can compute FP32 graphs in BF16 on this machine: OpenVINO, where the CPU has instructions."""
    from .ort import computes_bf16

    return computes_bf16(provider)

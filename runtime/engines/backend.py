"""What an engine and a backend are. A new backend is one file: a subclass of `Backend`, entered into `BACKENDS`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import ParameterError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..bundle import Bundle

    Array = NDArray[np.float32] | NDArray[np.uint8]

PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")
"""What of a bundle can be asked for. "auto": what it recommends for the backend (see `choice.precision_for`)."""

TYPICAL_BATCH, LARGEST_BATCH = 4, 16
"""Faces in one call of an encoder: what TensorRT tunes its engines to, and the most that is asked of any engine. More
are no faster per face, and take memory."""

Report = Callable[[str], object]
"""Told one line about what takes time."""


class Engine(ABC):
    """A graph on some backend. Use as a context manager, or call `close`.

    provider: what really runs, in the words of a bundle's figures: a backend's name, without "native-".
    threads: of the CPU that a run takes, where it is known here.
    """

    provider: str
    threads: int | None = None

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


def run_in_parts(
    run: Callable[[Mapping[str, Array]], dict[str, NDArray[np.float32]]], inputs: Mapping[str, Array], largest: int
) -> dict[str, NDArray[np.float32]]:
    """What `run` gives for all rows, at most `largest` of them at a time."""
    import numpy as np

    starts = range(0, len(next(iter(inputs.values()))), largest)
    parts = [run({name: array[start : start + largest] for name, array in inputs.items()}) for start in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Backend(ABC):
    """A way to run graphs. It needs `is_present`, and `load` or `open`.

    name: what `--provider` calls it; its key in `BACKENDS`.
    precisions: of PRECISIONS, those it runs; the one to take first where nothing was measured comes first.
    install: what to do where it is absent, for people.
    device: what it runs on.
    measured_as: the backend whose figures in a manifest hold for this one; "" for its own.
    """

    name: str
    precisions: tuple[str, ...]
    install: str
    device: Literal["cpu", "gpu"] = "cpu"
    measured_as: str = ""

    @abstractmethod
    def is_present(self) -> bool:
        """Whether it is installed here. Loads no GPU's library; whether it starts shows when it is opened."""

    def has_device(self) -> bool:
        """Whether what it runs on is here, as far as that can be asked: "auto" does not even try one without."""
        return True

    def runs(self, precision: str) -> bool:
        """Whether it runs a precision on this very machine."""
        return precision in self.precisions

    def load(self, graph: bytes, precision: str = "fp32", threads: int | None = None) -> Engine:
        """An ONNX graph, ready to run. See `open_engine`; what that checks, holds here."""
        raise ParameterError("provider", f"{self.name} runs the graphs of a bundle, not graphs alone; export one first")

    def open(self, bundle: Bundle, graph: str, precision: str, threads: int | None, report: Report) -> Engine:
        """The graph `graph` of a bundle, ready to run. See `open_graph`; what that checks, holds here."""
        return self.load(bundle.read(graph), precision, threads)

    def start(self) -> str:
        """For `dfer-doctor`: a description of what starts, from backends that should not build engines for the demo
        bundle; "" from the others, which run it.

        Raises DferError when it does not start.
        """
        return ""

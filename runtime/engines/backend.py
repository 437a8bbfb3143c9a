"""The interfaces `Engine` and `Backend`. A new backend is one file: a subclass of `Backend`, added to `BACKENDS`."""

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
"""Precisions that can be requested. "auto": what the bundle recommends for the backend (see `choice.precision_for`)."""

TYPICAL_BATCH, LARGEST_BATCH = 4, 16
"""Faces per encoder call: the batch TensorRT optimises for, and the largest used with any engine. Larger ones take
memory and are no faster per face."""

Report = Callable[[str], object]
"""Called with one line about a slow step."""


class Engine(ABC):
    """A graph on some backend. Use as a context manager, or call `close`.

    provider: what actually runs, as named in a bundle's figures: a backend's name, without "native-".
    threads: CPU threads of a run, if known. remark: a line for its user, "" for none.
    """

    provider: str
    threads: int | None = None
    remark: str = ""

    @abstractmethod
    def run(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        """Return all outputs by name for all inputs by name; the first axis is the batch."""

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
    """Return what `run` gives for all rows, running at most `largest` of them at a time."""
    import numpy as np

    starts = range(0, len(next(iter(inputs.values()))), largest)
    parts = [run({name: array[start : start + largest] for name, array in inputs.items()}) for start in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Backend(ABC):
    """A way to run graphs. Subclasses implement `is_present`, and `load` or `open`.

    name: the value of `--provider`; its key in `BACKENDS`.
    precisions: supported ones of PRECISIONS; the first is preferred if nothing was measured.
    install: installation advice for the user.
    device: what it runs on.
    measured_as: the backend whose figures in a manifest apply to this one; "" for its own.
    """

    name: str
    precisions: tuple[str, ...]
    install: str
    device: Literal["cpu", "gpu", "npu"] = "cpu"
    measured_as: str = ""

    @abstractmethod
    def is_present(self) -> bool:
        """Return whether it is installed. Loads no GPU library; whether it starts is only known when it is opened."""

    def has_device(self) -> bool:
        """Return whether its device is here, as far as that can be checked: "auto" skips a backend without one."""
        return True

    def runs(self, precision: str) -> bool:
        """Return whether it supports a precision on this machine."""
        return precision in self.precisions

    def load(self, graph: bytes, precision: str = "fp32", threads: int | None = None) -> Engine:
        """Load an ONNX graph. See `open_engine`, which has checked presence and precision."""
        raise ParameterError("provider", f"{self.name} runs the graphs of a bundle, not graphs alone; export one first")

    def open(self, bundle: Bundle, graph: str, precision: str, threads: int | None, report: Report) -> Engine:
        """Load the graph `graph` of a bundle. See `open_graph`, which has checked presence and precision."""
        return self.load(bundle.read(graph), precision, threads)

    def start(self) -> str:
        """For `dfer-doctor`: return a description of what starts, for backends that should not build engines for the
        demo bundle; "" for the others, which run it.

        Raises DferError when it does not start.
        """
        return ""

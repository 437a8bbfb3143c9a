"""Measure the agreement of exported graphs with the PyTorch model, and check it against limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from ..calibration.faces import FaceClips
from ..calibration.graphs import batches
from ..runtime.engines import Engine, open_engine
from ..runtime.errors import DferError
from ..train.data.augmentation import plain_view
from ..train.data.procedural import HELD_OUT, ProceduralClips
from ..train.methods import Method
from ..train.metrics import Scores
from .deviations import describe_deviations
from .graphs import TracedMethod

BF16_PROVIDER = "openvino"
"""The provider that computes an FP32 graph in BF16. (TensorRT would need a graph with BF16 casts, which could not be
compared on a CPU; on every GPU with BF16, FP16 is as fast and three bits finer.)"""


@dataclass(frozen=True)
class Gate:
    """The limits that a precision must meet to be exported. INT8 may change probabilities, but hardly ever the top-1.

    BF16 has 8 significant bits, FP16 has 11. Its features must reach FP16's cosine, which they can since rounding
    errors of many terms cancel; a probability may change 8 times as much, so its top-1 has INT8's limit.
    """

    min_cosine: float
    max_delta: float = float("inf")
    min_top1: float = 0.0


GATES = {
    "default": {
        "fp32": Gate(0.9999, 1e-3),
        "fp16": Gate(0.999, 1e-2),
        "bf16": Gate(0.999, 8e-2, 0.99),
        "int8": Gate(0.99, min_top1=0.99),
    },
    "strict": {
        "fp32": Gate(0.99999, 1e-4),
        "fp16": Gate(0.9999, 3e-3),
        "bf16": Gate(0.9998, 2.4e-2, 0.995),
        "int8": Gate(0.998, 0.1, 0.995),
    },
}
"""By strictness and precision. With "off", the third strictness, everything passes, and the manifest says so."""

TIE = 0.02
"""Probabilities this close are a tie: each may change by 1e-2 in FP16, so either can become the larger.

It counts as agreement only if PyTorch's two probabilities are that close. A trained model has few such windows. For a
random model, whose classes are all about equally probable, the gate says little; the exact figure shows how little.
"""


@dataclass(frozen=True)
class Parity:
    """Agreement of an exported encoder and head with the PyTorch model on the same frames.

    cosine: the lowest cosine similarity of any frame's two features.
    max_delta: the largest |Δp| of any class, for encoder and head together.
    top1: share of windows whose most probable class is the same, or tied with it in PyTorch (see `TIE`); has a limit.
    exact_top1: share whose most probable class is exactly the same. frames: number of frames compared.
    war, uar: weighted and unweighted average recall of the graphs, 0..1, if there are labelled clips.
    """

    cosine: float
    max_delta: float
    top1: float
    exact_top1: float
    frames: int
    war: float | None = None
    uar: float | None = None

    def to_json(self) -> dict[str, float]:
        return {name: round(value, 9) for name, value in asdict(self).items() if value is not None}

    def passes(self, precision: str, strictness: str = "default") -> bool:
        """Return whether this passes the precision's gate. NaN never does, unless the gate is off."""
        if strictness == "off":
            return True
        gate = GATES[strictness][precision]
        return self.cosine >= gate.min_cosine and self.max_delta <= gate.max_delta and self.top1 >= gate.min_top1

    def check(self, precision: str, strictness: str = "default", cause: str = "") -> None:
        """Raise DferError if this does not pass the precision's gate; `cause` becomes part of its message."""
        if not self.passes(precision, strictness):
            raise DferError(
                f"{precision} export refused: it differs from the PyTorch model "
                f"({self.describe(precision, strictness)}){cause}; nothing was written"
            )

    def describe(self, precision: str, strictness: str) -> str:
        """Return the figures with their limits."""
        gate = GATES[strictness][precision]
        return (
            f"feature cosine {self.cosine:.6f}, must be ≥ {gate.min_cosine}; max |Δp| {self.max_delta:.2g}, "
            f"must be ≤ {gate.max_delta:g}; same top-1 {self.top1:.1%} with ties (exactly {self.exact_top1:.1%}), "
            f"must be ≥ {gate.min_top1:.1%}"
        )

    def merge(self, other: Parity) -> Parity:
        """Merge with another: take the worse of each figure, and the recalls of the one that has them."""
        labelled = self if self.war is not None else other
        return replace(
            labelled,
            cosine=float(np.minimum(self.cosine, other.cosine)),
            max_delta=float(np.maximum(self.max_delta, other.max_delta)),
            top1=min(self.top1, other.top1),
            exact_top1=min(self.exact_top1, other.exact_top1),
            frames=self.frames + other.frames,
        )


@dataclass(frozen=True)
class ReferenceOutputs:
    """Frames, and PyTorch's outputs for them.

    frames: uint8 [N,H,W,3]. windows: indices of each window's frames, int64 [W,T]. features: float32 [N,D].
    probabilities: float32 [W,C]. labels: the true class of each window, -1 where unknown. classes: C names.
    """

    frames: NDArray[np.uint8]
    windows: NDArray[np.int64]
    features: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def compare(self, encoder: Engine, head: Engine, batch: int = 16) -> Parity:
        """Compare two engines' outputs for the frames with PyTorch's. Raises DferError if they do not run."""
        parts = [encoder.run({"frames": part})["features"] for part in batches(self.frames, batch)]
        found = np.concatenate(parts)
        found_p = head.run({"features": found[self.windows]})["probabilities"]
        lengths = np.linalg.norm(self.features, axis=1) * np.linalg.norm(found, axis=1)
        cosines = (self.features * found).sum(axis=1) / np.maximum(lengths, 1e-12)
        largest = self.probabilities.max(axis=1)
        chosen = np.take_along_axis(self.probabilities, found_p.argmax(axis=1)[:, None], axis=1)[:, 0]
        known = self.labels >= 0
        scores = Scores.of(self.classes, self.labels[known], found_p[known]) if known.any() else None
        return Parity(
            cosine=float(cosines.min()),
            max_delta=float(np.abs(self.probabilities - found_p).max()),
            top1=float((largest - chosen <= TIE).mean()),
            exact_top1=float((self.probabilities.argmax(axis=1) == found_p.argmax(axis=1)).mean()),
            frames=len(self.frames),
            war=scores.war if scores else None,
            uar=scores.uar() if scores else None,
        )


def reference_outputs(
    method: Method, frames: NDArray[np.uint8], windows: NDArray[np.int64], labels: Sequence[str | None] = ()
) -> ReferenceOutputs:
    """Run the model on crops uint8 [N,H,W,3] in windows int64 [W,T]; labels that are not its classes become unknown."""
    with torch.inference_mode():
        features = torch.cat([method.encode_frames(torch.from_numpy(part)) for part in batches(frames, 16)])
        probabilities = method.logits(features[torch.from_numpy(windows)]).softmax(dim=-1).numpy()
    classes = list(method.classes)
    known = [classes.index(label) if label in classes else -1 for label in labels] or [-1] * len(windows)
    return ReferenceOutputs(frames, windows, features.numpy(), probabilities, np.array(known, np.int64), method.classes)


def standard_reference(method: Method) -> ReferenceOutputs:
    """Return the model's outputs for noise and three moving procedural faces."""
    windows = _standard_windows(method.preprocessing.size, method.window)
    frames = windows.reshape(-1, *windows.shape[2:])
    return reference_outputs(method, frames, np.arange(len(frames)).reshape(windows.shape[:2]))


def faces_reference(method: Method, held_out: FaceClips) -> ReferenceOutputs:
    """Return the model's outputs for faces that are not used for calibration."""
    return reference_outputs(method, held_out.frames, held_out.windows(method.window), held_out.labels)


@cache
def _standard_windows(size: int, window: int) -> NDArray[np.uint8]:
    """Return windows uint8 [4,T,size,size,3]: noise, and three moving procedural faces."""
    noise = np.random.default_rng(0).integers(0, 256, (window, size, size, 3), dtype=np.uint8)
    clips = _standard_clips()
    picked = np.linspace(0, len(clips.frames(0)) - 1, window).round().astype(int)
    faces = [plain_view(clips.frames(index), size)[picked] for index in (0, 1, 4)]
    return np.stack([noise, *faces])


@cache
def _standard_clips() -> ProceduralClips:
    return ProceduralClips([HELD_OUT])


class ParityChecker:
    """Compares encoders with the PyTorch model, on the CPU (BF16: with OpenVINO).

    parity: of the precisions that passed. gate: one of `STRICTNESS`.
    """

    def __init__(self, traced: TracedMethod, references: list[ReferenceOutputs], gate: str) -> None:
        self._traced, self._references, self.gate = traced, references, gate
        self.parity: dict[str, Parity] = {}

    def measure(self, precision: str, encoder: bytes, head: bytes | None = None) -> Parity:
        """Measure INT8 on the last reference only, which has faces like the calibration's; other precisions on all.

        head: used instead of the traced one.
        """
        references = self._references[-1:] if precision == "int8" else self._references
        with _open(precision, encoder) as opened, open_engine(head or self._traced.head, "cpu") as classifying:
            found = [reference.compare(opened, classifying) for reference in references]
        return found[0] if len(found) == 1 else found[0].merge(found[1])

    def check(self, precision: str, encoder: bytes) -> None:
        """Measure an encoder and store its parity. Raises DferError, naming the worst layers, if it fails its gate."""
        parity = self.measure(precision, encoder)
        if not parity.passes(precision, self.gate):
            parity.check(precision, self.gate, self._cause(precision, encoder, parity))
        self.parity[precision] = parity

    def _cause(self, precision: str, encoder: bytes, parity: Parity) -> str:
        if parity.cosine >= GATES[self.gate][precision].min_cosine and precision == "fp32":
            return "; the features agree, so it is the head"
        if precision == "bf16":  # it runs the FP32 graph, which agrees, so no layers can be compared
            return "; this encoder needs more than BF16's 8 bits"
        return describe_deviations(self._traced.encoder, encoder, self._references[-1].frames)


def _open(precision: str, encoder: bytes) -> Engine:
    return open_engine(encoder, BF16_PROVIDER if precision == "bf16" else "cpu", precision=precision)

"""Does the exported graph say what the PyTorch model says? Measured, and held against one set of limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

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


@dataclass(frozen=True)
class Gate:
    """What a precision must reach to be exported. (INT8 may move probabilities, but not which is largest.)

    BF16 has 8 significant bits to FP16's 11: its features must point as FP16's do, which it can reach since they are
    sums of many roundings, but a probability may move 8 times as far, so the largest one must stay as for INT8.
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
"""By strictness and precision. "off" is the third strictness: everything passes, and the manifest says so."""

TIE = 0.02
"""Probabilities this close are a tie, which changes of the size that FP16 may make (twice 1e-2) decide either way.

Only a window on which PyTorch itself is that undecided is forgiven. A trained model has few; of a random one, whose
classes are all about as probable, the gate says little, and the exact figure beside it says how little.
"""


@dataclass(frozen=True)
class Parity:
    """Agreement of an exported encoder and head with the PyTorch model on the same frames.

    cosine: the lowest cosine similarity of any frame's two features.
    max_delta: the largest difference of any class probability, both graphs in line.
    top1: share of windows whose most probable class is the same, or tied with it in PyTorch (see `TIE`); this is gated.
    exact_top1: share whose most probable class is exactly the same. frames: how many were compared.
    war, uar: weighted and unweighted average recall of the graphs, 0..1, where labelled clips were given.
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
        """Whether this reaches the precision's gate; nothing that is not a number does, unless the gate is off."""
        if strictness == "off":
            return True
        gate = GATES[strictness][precision]
        return self.cosine >= gate.min_cosine and self.max_delta <= gate.max_delta and self.top1 >= gate.min_top1

    def check(self, precision: str, strictness: str = "default", blame: str = "") -> None:
        """Raise DferError when this does not pass the precision's gate; `blame` says where it goes wrong."""
        if not self.passes(precision, strictness):
            raise DferError(
                f"{precision} export refused: it differs from the PyTorch model "
                f"({self.describe(precision, strictness)}){blame}; nothing was written"
            )

    def describe(self, precision: str, strictness: str) -> str:
        """The figures beside their limits."""
        gate = GATES[strictness][precision]
        return (
            f"feature cosine {self.cosine:.6f}, must be ≥ {gate.min_cosine}; max |Δp| {self.max_delta:.2g}, "
            f"must be ≤ {gate.max_delta:g}; same top-1 {self.top1:.1%} with ties (exactly {self.exact_top1:.1%}), "
            f"must be ≥ {gate.min_top1:.1%}"
        )

    def worse(self, other: Parity) -> Parity:
        """The worse of both figures, over the frames of both; recalls are those that are known."""
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
    """Frames, and what PyTorch says of them.

    frames: uint8 [N,H,W,3]. windows: which frames make each window, int64 [W,T]. features: float32 [N,D].
    probabilities: float32 [W,C]. labels: per window the true class, -1 where unknown. classes: C names.
    """

    frames: NDArray[np.uint8]
    windows: NDArray[np.int64]
    features: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def compare(self, encoder: Engine, head: Engine, batch: int = 16) -> Parity:
        """Run both engines on the frames. Raises DferError when they do not run."""
        parts = [encoder.run({"frames": part})["features"] for part in batches(self.frames, batch)]
        found = np.concatenate(parts)
        found_p = head.run({"features": found[self.windows]})["probabilities"]
        lengths = np.linalg.norm(self.features, axis=1) * np.linalg.norm(found, axis=1)
        cosines = (self.features * found).sum(axis=1) / np.maximum(lengths, 1e-12)
        top = self.probabilities.max(axis=1)
        said = np.take_along_axis(self.probabilities, found_p.argmax(axis=1)[:, None], axis=1)[:, 0]
        known = self.labels >= 0
        scores = Scores.of(self.classes, self.labels[known], found_p[known]) if known.any() else None
        return Parity(
            cosine=float(cosines.min()),
            max_delta=float(np.abs(self.probabilities - found_p).max()),
            top1=float((top - said <= TIE).mean()),
            exact_top1=float((self.probabilities.argmax(axis=1) == found_p.argmax(axis=1)).mean()),
            frames=len(self.frames),
            war=scores.war if scores else None,
            uar=scores.uar() if scores else None,
        )


def ask_torch(
    method: Method, frames: NDArray[np.uint8], windows: NDArray[np.int64], labels: Sequence[str | None] = ()
) -> ReferenceOutputs:
    """What the model says of crops uint8 [N,H,W,3] in windows int64 [W,T]; labels it has no class for are left out."""
    with torch.inference_mode():
        features = torch.cat([method.encode_frames(torch.from_numpy(part)) for part in batches(frames, 16)])
        probabilities = method.logits(features[torch.from_numpy(windows)]).softmax(dim=-1).numpy()
    classes = list(method.classes)
    known = [classes.index(label) if label in classes else -1 for label in labels] or [-1] * len(windows)
    return ReferenceOutputs(frames, windows, features.numpy(), probabilities, np.array(known, np.int64), method.classes)


def standard_reference(method: Method) -> ReferenceOutputs:
    """The model on noise and three procedural faces in motion."""
    return _reference_of_windows(method, parity_frames(method.preprocessing.size, method.window))


def faces_reference(method: Method, faces: FaceClips) -> ReferenceOutputs:
    """The model on faces that ranges were not measured on."""
    return ask_torch(method, faces.frames, faces.windows(method.window), faces.labels)


def parity_frames(size: int, window: int) -> NDArray[np.uint8]:
    """Windows to compare on, uint8 [4,T,size,size,3]: noise, and three procedural faces in motion."""
    noise = np.random.default_rng(0).integers(0, 256, (window, size, size, 3), dtype=np.uint8)
    clips = ProceduralClips([HELD_OUT])
    picked = np.linspace(0, len(clips.frames(0)) - 1, window).round().astype(int)
    faces = [plain_view(clips.frames(index), size)[picked] for index in (0, 1, 4)]
    return np.stack([noise, *faces])


def measure_parity(method: Method, encoder: bytes, head: bytes, windows: NDArray[np.uint8], batch: int = 16) -> Parity:
    """Run both sides on windows of crops uint8 [N,T,H,W,3]; the graphs on ONNX Runtime's CPU provider."""
    reference = _reference_of_windows(method, windows)
    with open_engine(encoder, "cpu") as encoding, open_engine(head, "cpu") as classifying:
        return reference.compare(encoding, classifying, batch)


def _reference_of_windows(method: Method, windows: NDArray[np.uint8]) -> ReferenceOutputs:
    frames = windows.reshape(-1, *windows.shape[2:])
    return ask_torch(method, frames, np.arange(len(frames)).reshape(windows.shape[:2]))

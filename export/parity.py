"""Does the exported graph say what the PyTorch model says? Measured, and held against one set of limits."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..runtime.engines import open_engine
from ..runtime.errors import DferError
from ..train.augmentation import plain_view
from ..train.data.procedural import HELD_OUT, ProceduralClips
from ..train.methods import Method


@dataclass(frozen=True)
class Gate:
    """What a precision must reach to be exported."""

    min_cosine: float
    max_delta: float


GATES = {"fp32": Gate(min_cosine=0.9999, max_delta=1e-3)}


@dataclass(frozen=True)
class Parity:
    """Agreement of an exported encoder and head with the PyTorch model on the same frames.

    cosine: the lowest cosine similarity of any frame's two features.
    max_delta: the largest difference of any class probability, both graphs in line.
    top1: share of windows whose most probable class is the same. frames: how many were compared.
    """

    cosine: float
    max_delta: float
    top1: float
    frames: int

    def to_json(self) -> dict[str, float]:
        return {name: round(value, 9) for name, value in asdict(self).items()}

    def check(self, precision: str) -> None:
        """Raise DferError when this does not pass the precision's gate."""
        gate = GATES[precision]
        # Written so that NaN fails.
        if not (self.cosine >= gate.min_cosine and self.max_delta <= gate.max_delta):
            raise DferError(
                f"{precision} export refused: it differs from the PyTorch model (feature cosine {self.cosine:.6f}, "
                f"must be ≥ {gate.min_cosine}; max |Δp| {self.max_delta:.2g}, must be ≤ {gate.max_delta:g}); "
                "nothing was written"
            )


def parity_frames(size: int, window: int) -> NDArray[np.uint8]:
    """Windows to compare on, uint8 [4,T,size,size,3]: noise, and three procedural faces in motion."""
    noise = np.random.default_rng(0).integers(0, 256, (window, size, size, 3), dtype=np.uint8)
    clips = ProceduralClips([HELD_OUT])
    picked = np.linspace(0, len(clips.frames(0)) - 1, window).round().astype(int)
    faces = [plain_view(clips.frames(index), size)[picked] for index in (0, 1, 4)]
    return np.stack([noise, *faces])


def measure_parity(method: Method, encoder: bytes, head: bytes, windows: NDArray[np.uint8], batch: int = 16) -> Parity:
    """Run both sides on windows of crops uint8 [N,T,H,W,3]; the graphs on ONNX Runtime's CPU provider."""
    frames = windows.reshape(-1, *windows.shape[2:])
    parts = [frames[start : start + batch] for start in range(0, len(frames), batch)]
    with torch.inference_mode():
        wanted = torch.cat([method.encode_frames(torch.from_numpy(part)) for part in parts])
        wanted_p = method.logits(wanted.view(len(windows), -1, wanted.shape[1])).softmax(dim=-1).numpy()
    with open_engine(encoder, "cpu") as engine:
        found = np.concatenate([engine.run({"frames": part})["features"] for part in parts])
    with open_engine(head, "cpu") as engine:
        found_p = engine.run({"features": found.reshape(len(windows), -1, found.shape[1])})["probabilities"]
    reference = wanted.numpy()
    lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(found, axis=1)
    cosines = (reference * found).sum(axis=1) / np.maximum(lengths, 1e-12)
    return Parity(
        cosine=float(cosines.min()),
        max_delta=float(np.abs(wanted_p - found_p).max()),
        top1=float((wanted_p.argmax(axis=1) == found_p.argmax(axis=1)).mean()),
        frames=len(frames),
    )

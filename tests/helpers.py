"""What several tests use."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dfer.runtime.predictions import Prediction, Step
from dfer.runtime.sources import Frame


@dataclass(frozen=True)
class Pipeline:
    """What `dfer-pretrain`, `dfer-train` and `dfer-export` wrote for the tiny model, and what they printed."""

    weights: Path
    checkpoint: Path
    bundle: Path
    printed: str


def edit_manifest(bundle: Path, **changes: object) -> None:
    """Overwrite fields of a bundle's manifest, as an exporter that writes such values would: with a fitting digest."""
    path = bundle / "manifest.json"
    content = {**json.loads(path.read_text()), **changes}
    content.pop("sha256", None)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**content, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}))


def step_of(*predictions: Prediction) -> Step:
    """A step that made these predictions, on a small black frame."""
    first = predictions[0]
    frame = Frame(np.zeros((8, 8, 3), np.uint8), first.frame, first.time)
    return Step(first.source, frame, predictions, ())


def write_video(path: Path, frames: list[np.ndarray], rate: float) -> Path:
    """An MP4 of RGB frames."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path

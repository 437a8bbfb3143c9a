"""What all workers of a corpus run must agree on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LabelSettings:
    """How videos are read; each field is what `Recognizer` takes by that name, a bundle's path is absolute.

    threads: of each worker.
    """

    bundle: str
    provider: str = "auto"
    precision: str = "auto"
    threads: int = 1
    window: float | None = None
    fps: float | None = None
    max_faces: int | None = None
    min_face: int = 40
    detect_every: int | None = None

    def recognizer_options(self) -> dict[str, Any]:
        names = ("provider", "precision", "threads", "window", "fps", "max_faces", "min_face", "detect_every")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Job:
    """What every worker is given: settings, the folder of results, and the id of this run of the command."""

    settings: LabelSettings
    folder: Path
    run: str

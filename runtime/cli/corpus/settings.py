"""Settings shared by all workers of a corpus run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LabelSettings:
    """How videos are read; each field is a parameter of `Recognizer` by that name, with the bundle's path absolute.

    threads: per worker.
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
        return {name: value for name, value in asdict(self).items() if name != "bundle"}


@dataclass(frozen=True)
class Job:
    """The input of every worker: settings, the folder of results, and the id of this run of the command.

    about: what rows depend on, as passed to `CorpusFolder.begin`.
    """

    settings: LabelSettings
    folder: Path
    run: str
    about: Mapping[str, Any]

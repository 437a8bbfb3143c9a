"""Settings shared by all workers of a corpus run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ...bundle import Bundle
from ...engines.choice import resolve


@dataclass(frozen=True)
class LabelSettings:
    """How videos are read; each field but rotate is a parameter of `Recognizer`. bundle: the absolute path.

    rotate: degrees clockwise by which to rotate images, "auto" to make faces upright, None for none.
    threads: per worker; None for 1, or on a cluster for as many as each task's CPUs.
    """

    bundle: str
    provider: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    window: float | None = None
    fps: float | None = None
    max_faces: int | None = None
    min_face: int = 40
    detect_every: int | None = None
    rotate: int | Literal["auto"] | None = None

    def recognizer_options(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name not in ("bundle", "rotate")}

    def resolved(self, warn: Callable[[str], object]) -> LabelSettings:
        """Return the settings with the provider and precision that run on this machine in place of "auto"."""
        provider, precision = resolve(Bundle.open(self.bundle), self.provider, self.precision, self.threads, warn)
        return replace(self, provider=provider, precision=precision)


@dataclass(frozen=True)
class Job:
    """The input of every worker: settings, the folder of results, and the id of this run of the command.

    about: what rows depend on, as passed to `CorpusFolder.begin`.
    """

    settings: LabelSettings
    folder: Path
    run: str
    about: Mapping[str, Any]

"""One unit, done by a worker process: turns its videos into rows, and survives crashes of workers."""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import cache
from pathlib import Path

from ...errors import DferError, EngineError
from ...faces.orientation import rotated
from ...predictions import Prediction
from ...recognizer import Recognizer
from ...sources import Source, open_source
from ...storage import atomic_write
from .folder import OPENING, CorpusFolder, SegmentNote
from .persons import Seen
from .plan import Segment, Unit
from .sections import START, VideoSection, is_before
from .settings import Job, LabelSettings

_TRIES = 3
"""Worker crashes at one video after which that video counts as failed."""


def label_unit(unit: Unit, job: Job) -> int:
    """Write the unit's results into the job's folder; return how many of its videos failed.

    A video that cannot be read becomes a failure, and so does one at which workers of this run crashed three times:
    `attempts` records the video being read for the next worker.
    Raises DferError for a bundle that does not open or crashes workers, for results that cannot be written, and for a
    folder claimed by another run; EngineError if the engine fails, which is no video's fault.
    """
    folder = CorpusFolder(job.folder)
    attempts = _Attempts(folder, unit, job.run)
    if attempts.crashes(OPENING) >= _TRIES:
        raise DferError(f"worker processes crash while they open bundle {job.settings.bundle}; try dfer-run with it")
    attempts.begin(OPENING)
    recognizer = _open_recognizer(job.settings)
    rows: list[tuple[Prediction, int]] = []
    notes = []
    for place, segment in enumerate(unit.segments):
        if attempts.crashes(place) >= _TRIES:
            reason = f"the worker process crashed {_TRIES} times while reading it"
            notes.append(SegmentNote(segment.source, segment.number, 0.0, 0, failure=reason))
            continue
        attempts.begin(place)
        made, note = _read(recognizer, segment, job.settings)
        rows += [(prediction, segment.number) for prediction in made]
        notes.append(note)
    folder.check(job.about)  # a run with other settings may have claimed it while the model was opened
    failed = folder.write_unit(unit.name, recognizer.classes, rows, notes)
    attempts.end()
    return failed


def _read(recognizer: Recognizer, segment: Segment, settings: LabelSettings) -> tuple[list[Prediction], SegmentNote]:
    """Return a segment's rows, without those of its lead-in, and its note."""
    start = START if segment.cut is None else segment.cut.start
    made: list[Prediction] = []
    lead: list[Seen] = []
    warnings: list[str] = []
    failure, frames, end = "", 0, start.time
    recognizer.warn = warnings.append
    try:
        with _open(segment, settings, warnings) as source:
            for step in recognizer.steps(source):
                if is_before(step.frame.time, start):
                    lead += [Seen(one.frame, one.track_id, *one.box) for one in step.predictions]
                    continue
                made += step.predictions
                frames, end = frames + 1, step.frame.time + 1 / (source.rate or math.inf)
    except EngineError:
        raise
    except DferError as error:
        failure = str(error)
    if not failure and not frames:
        failure = "no frame of it can be read"
    seconds = end - start.time  # seconds read, regardless of the announced length
    return made, SegmentNote(
        segment.source, segment.number, round(seconds, 3), frames, tuple(dict.fromkeys(warnings)), failure, tuple(lead)
    )


def _open(segment: Segment, settings: LabelSettings, warnings: list[str]) -> Source:
    source: Source
    if segment.cut is not None or segment.end is not None:
        source = VideoSection(Path(segment.path), segment.source, segment.cut, segment.end, warnings.append)
    else:
        source = open_source(segment.path, warn=warnings.append)
        source.name = segment.source
    return source if settings.rotate is None else rotated(source, settings.rotate, warnings.append)


@cache
def _open_recognizer(settings: LabelSettings) -> Recognizer:
    """Return the recogniser shared by all units of this process."""
    return Recognizer(settings.bundle, **settings.recognizer_options())


class _Attempts:
    """attempts/UNIT.json: the video that a worker is reading, and the crashes at each video, in one run."""

    def __init__(self, folder: CorpusFolder, unit: Unit, run: str) -> None:
        self._path = folder.path / "attempts" / f"{unit.name}.json"
        self._run = run
        self._crashes: Counter[int] = Counter()
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if known.get("run") == run:  # its worker has died, since the unit was given out again
            self._crashes.update({int(place): count for place, count in known["crashes"].items()})
            self._crashes[known["at"]] += 1

    def crashes(self, place: int) -> int:
        return self._crashes[place]

    def begin(self, place: int) -> None:
        with atomic_write(self._path) as aside:
            content = {"run": self._run, "at": place, "crashes": dict(self._crashes)}
            aside.write_text(json.dumps(content), encoding="utf-8")

    def end(self) -> None:
        self._path.unlink(missing_ok=True)

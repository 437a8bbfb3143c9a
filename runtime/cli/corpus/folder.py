"""The folder of a corpus run: the plan, the results so far, and the final tables.

| file | holds |
|---|---|
| run.json | what rows depend on: the bundle's digest, settings, classes, the videos; a run with others is refused |
| plan.jsonl | the units, one per line |
| predictions/UNIT.parquet | rows of a unit: the CSV's columns and `segment`; a unit is done when it exists |
| failures/UNIT.json | the videos of a unit that could not be read, and why |
| attempts/UNIT.json | the video of a unit that a worker is reading |
| tracks.parquet | source, segment, track → person: the same face over all parts of a video |
| summary.csv | a line per video |

Files are written to temporary names and renamed, so that any number of workers on any machine may write here.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from ...errors import DferError, require
from ...outputs.tables import columns, row_values
from ...predictions import Prediction
from ...storage import atomic_write
from .persons import Part, Seen, join_tracks
from .plan import Unit, from_json, to_json

if TYPE_CHECKING:
    import pyarrow

_SCHEMA = 1
_LONG = 3600.0  # seconds after which the writer of a table counts as dead
OPENING = -1
"""In an attempt, stands for a video's number while the model is opened."""

_NOTE = b"dfer"
"""Key of a table's metadata: the notes on a unit's segments, as JSON."""


@dataclass(frozen=True)
class SegmentNote:
    """What is stored about a segment besides its rows.

    seconds, frames: that were read. warnings: issued meanwhile. failure: why it could not be read to its end, or "".
    lead: faces in the lead-in, whose rows are dropped.
    """

    source: str
    number: int
    seconds: float
    frames: int
    warnings: tuple[str, ...] = ()
    failure: str = ""
    lead: tuple[Seen, ...] = ()


class CorpusFolder:
    """`path` as described above; `begin` creates it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, run: Mapping[str, Any], make_plan: Callable[[], list[Unit]]) -> list[Unit]:
        """Claim the folder for a run, or resume an equal `run`; return its units.

        The folder of a different run is claimed as well if that has read nothing, because its model did not open.

        make_plan: creates the units if the folder has none yet.
        Raises DferError for the folder of a different run, naming the differences, and for one with other content.
        """
        require("pyarrow", "label")
        run = _stored(run)
        begun = self.read_run() is not None or not self.path.exists() or self._is_begun()
        if not begun and self.read_run() is None:  # another shard may have written it meanwhile
            raise DferError(f"{self.path}: is there, and holds no results of dfer-label; name another folder")
        if self._is_free(run):
            units = make_plan()
            if self._is_free(run):  # planning takes long: another shard may have begun meanwhile
                self._write_plan(run, units)
        self.check(run)
        return self.units()

    def _write_plan(self, run: Mapping[str, Any], units: Sequence[Unit]) -> None:
        for part in ("predictions", "failures", "attempts"):
            (self.path / part).mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path / "plan.jsonl", durable=True) as aside:
            aside.write_text("".join(to_json(unit) + "\n" for unit in units), encoding="utf-8")
        with atomic_write(self.path / "run.json", durable=True) as aside:  # last: with it, the folder is complete
            aside.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")

    def check(self, run: Mapping[str, Any]) -> None:
        """Raise DferError, naming the differences, if the folder belongs to a different run."""
        known, run = self.read_run() or {}, _stored(run)
        if differing := [name for name in sorted({*run, *known}) if run.get(name) != known.get(name)]:
            raise DferError(
                f"{self.path}: holds the results of a run with other settings ({', '.join(differing)}); name another "
                "folder, or give the same ones"
            )

    def _is_free(self, run: Mapping[str, Any]) -> bool:
        """Return whether the folder belongs to no run, or to a different one that has read nothing."""
        known = self.read_run()
        return known is None or (known != run and not self._is_read())

    def _is_begun(self) -> bool:
        """Return whether there is nothing here but what `begin` creates first, as another shard may be doing now."""
        known = {"predictions", "failures", "attempts", "plan.jsonl"}
        return self.path.is_dir() and all(one.name in known or ".part" in one.name for one in self.path.iterdir())

    def _is_read(self) -> bool:
        """Return whether a video was read here, or may be being read now."""
        try:
            begun = (json.loads(file.read_text(encoding="utf-8")) for file in self._files("attempts"))
            return any(one["at"] != OPENING for one in begun) or bool(self.done())
        except (OSError, ValueError, LookupError, TypeError):  # a missing file belongs to a finished unit
            return True

    def units(self) -> list[Unit]:
        """Return the plan."""
        path = self.path / "plan.jsonl"
        try:
            return [from_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DferError(f"{path}: not a plan that dfer-label wrote ({error})") from error

    def read_run(self) -> dict[str, Any] | None:
        """Return what run.json holds; None if there is none yet."""
        path = self.path / "run.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DferError(f"{path}: cannot be read ({error})") from error
        return content if isinstance(content, dict) else {}

    def done(self) -> set[str]:
        """Return the names of the finished units."""
        return {file.stem for file in self._files("predictions")}

    def failed(self) -> set[str]:
        """Return the names of the units with videos that could not be read."""
        return {file.stem for file in self._files("failures")}

    def _files(self, part: str) -> list[Path]:
        """Return the finished files in a subfolder, in order; unfinished ones begin with a dot."""
        return sorted(file for file in (self.path / part).iterdir() if not file.name.startswith("."))

    def _segments(self) -> Iterator[tuple[SegmentNote, pyarrow.Table]]:
        """Yield the note and the rows of every segment, in the plan's order."""
        from pyarrow import compute, parquet

        for file in self._files("predictions"):
            table = parquet.read_table(file)
            for note in _notes(table):
                own = compute.equal(table["source"], note.source), compute.equal(table["segment"], note.number)
                yield note, table.filter(compute.and_(*own))

    def forget(self, unit: str) -> None:
        """Delete a unit's results, so that it is done again."""
        for file in (self.path / "predictions" / f"{unit}.parquet", self.path / "failures" / f"{unit}.json"):
            file.unlink(missing_ok=True)

    def write_unit(
        self,
        name: str,
        classes: tuple[str, ...],
        rows: Iterable[tuple[Prediction, int]],
        notes: list[SegmentNote],
    ) -> int:
        """Store a unit's results: predictions with the numbers of their segments. Return how many segments failed."""
        import pyarrow
        from pyarrow import parquet

        table = _table(classes, rows)
        note = json.dumps([vars(one) | {"lead": [tuple(seen) for seen in one.lead]} for one in notes])
        table = table.replace_schema_metadata({_NOTE: note.encode()})
        failures = [
            {"source": one.source, "segment": one.number, "reason": one.failure} for one in notes if one.failure
        ]
        told = self.path / "failures" / f"{name}.json"
        told.unlink(missing_ok=True)  # left by a killed worker
        if failures:
            with atomic_write(told, durable=True) as aside:
                aside.write_text(json.dumps(failures, indent=2) + "\n", encoding="utf-8")
        try:
            with atomic_write(self.path / "predictions" / f"{name}.parquet", durable=True) as aside:
                parquet.write_table(table, aside)
        except pyarrow.ArrowException as error:
            raise DferError(f"{self.path}: cannot be written ({error})") from error
        return len(failures)

    def finish(self) -> None:
        """Write tracks.parquet and summary.csv once all units are done, and remove leftovers of killed workers."""
        import pyarrow
        from pyarrow import parquet

        persons: list[tuple[str, int, int, int]] = []
        lines = []
        for source, group in groupby(self._segments(), lambda one: one[0].source):
            parts = list(group)  # adjacent in the plan
            joined = join_tracks(_parts(parts))
            persons += [(source, *one) for one in joined]
            lines.append(_line(source, parts, len({person for _, _, person in joined})))
        names = ("source", "segment", "track", "person")
        tracks = _arrow(names, [pyarrow.string(), *[pyarrow.int32()] * 3], persons)
        with atomic_write(self.path / "tracks.parquet", durable=True) as aside:
            parquet.write_table(tracks, aside)
        with (
            atomic_write(self.path / "summary.csv", durable=True) as aside,
            aside.open("w", newline="", encoding="utf-8") as out,
        ):
            writer = csv.DictWriter(out, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
        for left in [*self.path.rglob(".*.part*"), *(self.path / "attempts").iterdir()]:
            with suppress(FileNotFoundError):  # other shards may be finishing now, too
                if left.parent != self.path or time() - left.stat().st_mtime > _LONG:
                    left.unlink()


def _stored(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run as it is read back from run.json."""
    stored: dict[str, Any] = json.loads(json.dumps({"schema": _SCHEMA, **run}))
    return stored


def _table(classes: tuple[str, ...], rows: Iterable[tuple[Prediction, int]]) -> pyarrow.Table:
    import pyarrow

    text, label = pyarrow.string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    number, half = pyarrow.int32(), pyarrow.float32()
    kinds = [label, pyarrow.int64(), pyarrow.float64(), number, *[half] * 4, label, half, half]
    kinds += [*[half] * len(classes), label, half, text, number]
    return _arrow((*columns(classes), "segment"), kinds, [(*row_values(one), segment) for one, segment in rows])


def _arrow(names: Sequence[str], kinds: Sequence[Any], rows: Sequence[tuple[object, ...]]) -> pyarrow.Table:
    """Return a table of rows, with a type for each column."""
    import pyarrow

    listed = zip(names, kinds, strict=True)
    return pyarrow.table(
        {name: pyarrow.array([row[place] for row in rows], kind) for place, (name, kind) in enumerate(listed)}
    )


def _notes(table: pyarrow.Table) -> list[SegmentNote]:
    entries = json.loads(table.schema.metadata[_NOTE])
    return [
        SegmentNote(
            **entry | {"lead": tuple(Seen(*seen) for seen in entry["lead"]), "warnings": tuple(entry["warnings"])}
        )
        for entry in entries
    ]


def _parts(segments: list[tuple[SegmentNote, pyarrow.Table]]) -> Iterator[Part]:
    """Yield a video's segments for `join_tracks`, with only the rows that are also in the next one's lead-in."""
    from pyarrow import compute

    for (note, table), following in zip_longest(segments, segments[1:]):
        shared = table.slice(0, 0)
        if following is not None and following[0].lead:
            shared = table.filter(compute.greater_equal(table["frame"], following[0].lead[0].frame))
        rows = shared.select(["frame", "track", "x", "y", "w", "h"]).to_pylist()
        yield Part(note.lead, table["track"].unique().to_pylist(), [Seen(*row.values()) for row in rows])


def _line(source: str, parts: list[tuple[SegmentNote, pyarrow.Table]], persons: int) -> dict[str, object]:
    """Return a video's line of the summary."""
    labels: Counter[str] = Counter()
    for _, table in parts:
        for counted in table["label"].value_counts().to_pylist():
            labels[counted["values"]] += counted["counts"]
    rows = labels.total()
    failures = [note.failure for note, _ in parts if note.failure]
    most = labels.most_common(1)[0][0] if labels else ""
    return {
        "source": source,
        "state": "failed" if failures else "read",
        "seconds": round(sum(note.seconds for note, _ in parts), 3),
        "frames": sum(note.frames for note, _ in parts),
        "segments": len(parts),
        "rows": rows,
        "persons": persons,
        "label": most,
        "share": round(labels[most] / rows, 4) if rows else "",
        "remarks": "; ".join(dict.fromkeys([*failures, *(line for note, _ in parts for line in note.warnings)])),
    }

"""The report of `dfer-profile`, its statistics, and its JSON.

The JSON has these fields (schema 2; schema 1 called measurements "legs" and arrival "pace"):

    kind "dfer-profile", schema 2, created (ISO 8601, UTC)
    machine    as `machine.Machine`;  versions  by package
    setup      bundle, bundle_sha256 (of its manifest), provider, precision, threads, source, frame [width, height],
               rate (of the source, 1/s), window (s), fps (sampled, 1/s), scenario, samples_per_query, seconds,
               load (of the machine at the start, one-minute average)
    measurements
               list of: part "pipeline" or "query"; arrival (of frames or queries) "back to back" or "camera rate";
               seconds, busy (processor seconds), runs (frames or queries), predictions, dropped (frames), joules by
               sensor: all without warm-up; stages, warm_up: per stage n, mean, p50, p90, p95, p99, max in ms;
               steady_ms, warm_up_ms: every sample in order, by stage
    batches    list of: size, n, p50, p90 (ms per run), faces_per_second
    memory     MB: loaded, now, peak (if the system reports it)
    notes      list of sentences (about missing energy figures, among others)

In a query measurement, "total" is encoder and head together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DferError
from ..timing import STAGES, StageTimes

SCHEMA = 2
KIND = "dfer-profile"


@dataclass
class Measurement:
    """All turns of one way of running. Fields as in the JSON; samples in milliseconds, by stage."""

    part: str
    arrival: str
    seconds: float = 0.0
    busy: float = 0.0
    runs: int = 0
    predictions: int = 0
    dropped: int = 0
    joules: dict[str, float] = field(default_factory=dict)
    steady: dict[str, list[float]] = field(default_factory=dict)
    warm_up: dict[str, list[float]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Frames or queries per second."""
        return self.runs / self.seconds if self.seconds else 0.0

    @property
    def joules_per_prediction(self) -> float | None:
        """Sum over all sensors; None if there are none."""
        return sum(self.joules.values()) / self.predictions if self.joules and self.predictions else None


@dataclass(frozen=True)
class Batch:
    """Encoder runs of `size` crops: n, milliseconds, and faces per second at the median."""

    size: int
    n: int
    p50: float
    p90: float
    faces_per_second: float


@dataclass(frozen=True)
class Report:
    """See this module's docstring."""

    created: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    setup: Mapping[str, Any]
    measurements: Sequence[Measurement]
    batches: Sequence[Batch]
    memory: Mapping[str, float]
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "created": self.created,
            "machine": self.machine,
            "versions": self.versions,
            "setup": self.setup,
            "measurements": [_measurement_to_json(measured) for measured in self.measurements],
            "batches": [asdict(batch) for batch in self.batches],
            "memory": self.memory,
            "notes": list(self.notes),
        }


def stage_times(samples: Mapping[str, Sequence[float]]) -> list[StageTimes]:
    """Return exact statistics of samples (ms, by stage), with nearest-rank percentiles; empty stages are omitted."""
    rows = []
    for stage in STAGES:
        if values := samples.get(stage):
            p50, p90, p95, p99 = np.percentile(values, (50, 90, 95, 99), method="inverted_cdf").tolist()
            rows.append(StageTimes(stage, len(values), float(np.mean(values)), p50, p90, p95, p99, max(values)))
    return rows


def read_report(path: Path) -> Report:
    """Read a report written by `dfer-profile --json`. Raises DferError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["kind"] != KIND:
            raise KeyError("kind")
        if content["schema"] < SCHEMA:
            raise DferError(f"{path}: written by an older dfer-profile (schema {content['schema']}); measure again")
        if content["schema"] > SCHEMA:
            raise DferError(f"{path}: written by a newer dfer-profile (schema {content['schema']}); upgrade dfer-edge")
        machine, setup = dict(content["machine"]), dict(content["setup"])
        _number(machine.get("cores", 1))
        _number(setup.get("load", 0))
        return Report(
            created=str(content["created"]),
            machine=machine,
            versions=dict(content["versions"]),
            setup=setup,
            measurements=[_measurement_from_json(measured) for measured in content["measurements"]],
            batches=[Batch(**batch) for batch in content["batches"]],
            memory=dict(content["memory"]),
            notes=list(content["notes"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DferError(f"{path}: not a report of dfer-profile --json ({repr(error)[:100]})") from error


def _measurement_to_json(measured: Measurement) -> dict[str, Any]:
    values = asdict(measured)
    steady, warm_up = values.pop("steady"), values.pop("warm_up")
    for name, samples in (("stages", steady), ("warm_up", warm_up)):
        values[name] = [asdict(row) for row in stage_times(samples)]
    for name, samples in (("steady_ms", steady), ("warm_up_ms", warm_up)):
        values[name] = {stage: [round(value, 4) for value in taken] for stage, taken in samples.items() if taken}
    return values


def _measurement_from_json(values: dict[str, Any]) -> Measurement:
    return Measurement(
        str(values["part"]),
        str(values["arrival"]),
        **{name: _number(values[name]) for name in ("seconds", "busy", "runs", "predictions", "dropped")},
        joules={str(sensor): _number(value) for sensor, value in values["joules"].items()},
        steady={stage: [float(_number(value)) for value in taken] for stage, taken in values["steady_ms"].items()},
        warm_up={stage: [float(_number(value)) for value in taken] for stage, taken in values["warm_up_ms"].items()},
    )


def _number(value: Any) -> Any:
    """Return a value that can be a duration or a count: finite, and not below 0."""
    if type(value) not in (int, float) or not 0 <= value <= 1e15:
        raise ValueError(f"{repr(value)[:40]} is no duration or count")
    return value

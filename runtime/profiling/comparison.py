"""Compares two reports of `dfer-profile`: which stages changed beyond noise.

Consecutive durations are correlated (clocks, caches, other load on the machine), so tests that assume independent
samples find changes everywhere. Each measurement's samples are cut into blocks of time and whole blocks are drawn
with replacement (block bootstrap; Künsch 1989), for both reports; the interval holds 99 % of the resulting factors
new/old of a percentile. It covers the noise within the two runs, not differences between runs (placement in memory,
heat): factors below 5 % are not called changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import printable
from ..timing import STAGES
from .report import Report

PERCENTILES = (50, 90)
SMALLEST = 1.05
"""Factor below which a difference is not called a change."""

_BLOCKS, _SMALLEST_BLOCK = 20, 5  # blocks per measurement; samples per block
_MOST = 4000  # samples used; of more, evenly spaced ones
_DRAWS = 600
_TAILS = (0.5, 99.5)  # per cent
_WIDE = 1.25  # an interval that reaches beyond this and includes 1 is inconclusive

_FREE = ("bundle", "seconds", "load")  # set-up fields whose differences are not reported

Verdict = Literal["faster", "slower", "same", "unclear"]


@dataclass(frozen=True)
class Change:
    """A percentile of a stage in two reports. old, new: milliseconds. factor: new/old, with its interval low..high.

    verdict: "unclear" with too few samples or too much noise.
    """

    part: str
    arrival: str
    stage: str
    percentile: int
    old: float
    new: float
    factor: float
    low: float
    high: float
    verdict: Verdict

    def cells(self) -> tuple[str, ...]:
        """Return a table row: measured, stage, percentile, before, now, factor, interval, verdict."""
        return (
            f"{self.part}, {self.arrival}",
            self.stage,
            f"p{self.percentile}",
            f"{self.old:.2f}",
            f"{self.new:.2f}",
            f"{self.factor:.2f}",
            f"{self.low:.2f}–{self.high:.2f}",
            self.verdict,
        )


def compare_reports(old: Report, new: Report) -> list[Change]:
    """Return a change per measurement, stage and percentile that both reports have."""
    before = {(measured.part, measured.arrival): measured for measured in old.measurements}
    changes: list[Change] = []
    for measured in new.measurements:
        other = before.get((measured.part, measured.arrival))
        if other is None or (measured.part == "query" and _query(old) != _query(new)):
            continue
        for stage in STAGES:
            if other.steady.get(stage) and measured.steady.get(stage):
                found = compare_samples(other.steady[stage], measured.steady[stage])
                changes.extend(
                    Change(measured.part, measured.arrival, stage, percentile, *figures)
                    for percentile, figures in zip(PERCENTILES, found, strict=True)
                )
    return changes


def compare_samples(
    old: Sequence[float], new: Sequence[float]
) -> list[tuple[float, float, float, float, float, Verdict]]:
    """Return, for each of `PERCENTILES`: old, new, factor, low, high, verdict. Samples: ordered, ms, at least one."""
    rng = np.random.default_rng(0)  # the same reports give the same answer
    drawn = [_draw(np.asarray(samples, np.float64), rng) for samples in (old, new)]
    exact = [_percentiles(np.asarray(samples, np.float64)) for samples in (old, new)]
    results: list[tuple[float, float, float, float, float, Verdict]] = []
    for row in range(len(PERCENTILES)):
        before, after = float(exact[0][row]), float(exact[1][row])
        factor = after / before
        if drawn[0] is None or drawn[1] is None:
            results.append((before, after, factor, 0.0, float("inf"), "unclear"))
            continue
        low, high = np.percentile(drawn[1][row] / drawn[0][row], _TAILS).tolist()
        results.append((before, after, factor, low, high, _judge(factor, low, high)))
    return results


def differences(old: Report, new: Report) -> list[str]:
    """Return what else differs between two reports, a sentence each, since it may explain changes in speed."""
    pairs = {
        **{name: (old.machine.get(name), new.machine.get(name)) for name in ("cpu", "cores", "gpus", "power_mode")},
        **{name: (old.setup.get(name), new.setup.get(name)) for name in new.setup if name not in _FREE},
        **{name: (old.versions.get(name), new.versions.get(name)) for name in {**old.versions, **new.versions}},
    }
    busy = [
        f"load: the machine was busy with other things {when} (load {report.setup['load']}); repeat it on a calm one"
        for when, report in (("before", old), ("now", new))
        if report.setup.get("load", 0) > report.machine.get("cores", 1) / 2
    ]
    listed = {name: tuple(list(one) if isinstance(one, tuple) else one for one in pair) for name, pair in pairs.items()}
    told = ((name, before, after) for name, (before, after) in listed.items() if before != after)
    return [*busy, *(f"{_shown(name)}: {_shown(before)}, now {_shown(after)}" for name, before, after in told)]


def _shown(value: object) -> str:
    """Return a value of a report from an untrusted source, shortened."""
    return printable(value)[:200]


def _query(report: Report) -> tuple[object, object]:
    return report.setup.get("scenario"), report.setup.get("samples_per_query")


def _draw(samples: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64] | None:
    """Return percentiles [P,_DRAWS] of resampled blocks; None if the samples do not fill two blocks."""
    samples = samples[:: -(-len(samples) // _MOST)]
    blocks = min(_BLOCKS, len(samples) // _SMALLEST_BLOCK)
    if blocks < 2:
        return None
    length = len(samples) // blocks
    cut = samples[len(samples) - blocks * length :].reshape(blocks, length)
    found = np.empty((len(PERCENTILES), _DRAWS))
    for draw in range(_DRAWS):
        found[:, draw] = _percentiles(cut[rng.integers(0, blocks, blocks)])
    return found


def _percentiles(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `PERCENTILES` by nearest rank, at least a nanosecond, so that factors are finite."""
    return np.maximum(np.percentile(samples, PERCENTILES, method="inverted_cdf"), 1e-6)


def _judge(factor: float, low: float, high: float) -> Verdict:
    if low > 1 and factor >= SMALLEST:
        return "slower"
    if high < 1 and factor <= 1 / SMALLEST:
        return "faster"
    return "unclear" if low < 1 / _WIDE or high > _WIDE else "same"

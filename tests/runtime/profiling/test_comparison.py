"""What changed between two reports, and what only looks like it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dfer.runtime.errors import DferError
from dfer.runtime.profiling.comparison import PERCENTILES, compare_reports, compare_samples, differences
from dfer.runtime.profiling.report import Measurement, Report, read_report


def durations(seed: int, count: int = 2000, factor: float = 1.0) -> list[float]:
    """Milliseconds as machines give them: each resembles the last, now and then one is late."""
    rng = np.random.default_rng(seed)
    level, values = 0.0, []
    for _ in range(count):
        level = 0.9 * level + 0.03 * rng.normal()
        values.append(factor * 5 * float(np.exp(level)) * (3 if rng.random() < 0.01 else 1))
    return values


def verdicts(old: list[float], new: list[float]) -> list[str]:
    return [found[-1] for found in compare_samples(old, new)]


def test_the_same_thing_measured_twice_is_the_same() -> None:
    wrong = sum(
        verdict in ("slower", "faster")
        for seed in range(12)
        for verdict in verdicts(durations(seed), durations(seed + 100))
    )
    assert wrong <= 1  # of 24


@pytest.mark.parametrize(("factor", "verdict"), [(1.3, "slower"), (0.75, "faster")])
def test_a_real_change_is_found_with_its_factor(factor: float, verdict: str) -> None:
    for found in compare_samples(durations(1), durations(2, factor=factor)):
        assert found[-1] == verdict
        assert found[2] == pytest.approx(factor, rel=0.12)
        assert found[3] < found[2] < found[4]


def test_drift_within_the_runs_is_noise() -> None:
    # Two runs of a machine that changes its mind every few seconds: independent samples would "prove" a change.
    def run(high: set[int]) -> list[float]:
        return [v * (1.6 if i // 100 in high else 1) for i, v in enumerate(durations(3, 1000))]

    assert verdicts(run({1, 4, 5, 8}), run({0, 2, 3, 6, 7, 9}))[0] == "unclear"


def test_a_small_change_is_not_called_one() -> None:
    steady = [5.0 + 0.001 * (i % 7) for i in range(400)]
    assert verdicts(steady, [1.03 * value for value in steady]) == ["same", "same"]


def test_few_samples_tell_nothing() -> None:
    assert verdicts([1.0] * 9, [2.0] * 900) == ["unclear", "unclear"]


def a_report(scenario: str = "single", cpu: str = "A", load: float = 0.0, **stages: list[float]) -> Report:
    measured = Measurement("query", "back to back", steady=stages)
    setup = {"scenario": scenario, "samples_per_query": 1, "load": load}
    return Report("", {"cpu": cpu, "cores": 2}, {}, setup, [measured], [], {}, [])


def test_only_what_both_reports_measured_alike_is_compared() -> None:
    old, new = a_report(encode=durations(0, 100)), a_report(encode=durations(1, 100), head=durations(2, 100))
    found = compare_reports(old, new)
    assert [(change.stage, change.percentile) for change in found] == [("encode", each) for each in PERCENTILES]
    assert compare_reports(old, a_report("multi", encode=durations(1, 100))) == []


def test_what_else_differs_is_said() -> None:
    said = differences(a_report(), a_report(cpu="B", load=5.0))
    assert any("busy" in line for line in said)
    assert "cpu: A, now B" in said
    assert differences(a_report(), a_report()) == []


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def places(value: object, here: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The way to every value inside JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(way for key, held in inner for way in places(held, (*here, key)))]


GOOD = a_report(encode=[1.0, 2.0, 3.0]).to_json()


@given(st.sampled_from(places(GOOD)), anything)
@example(("setup", "load"), "much")
@example(("machine", "cores"), None)
@example(("measurements", 0, "part"), [])
@example(("measurements", 0, "steady_ms"), [1])
@example(("measurements", 0, "steady_ms", "encode", 0), float("nan"))
@example(("measurements", 0, "steady_ms", "encode", 0), 10**400)
@example(("setup", "scenario"), "\x1b[2J")
def test_a_report_with_anything_in_it_is_compared_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, way: tuple[object, ...], value: object
) -> None:
    content = json.loads(json.dumps(GOOD))
    if way:
        holder = content
        for key in way[:-1]:
            holder = holder[key]
        holder[way[-1]] = value
    else:
        content = value
    path = tmp_path_factory.getbasetemp() / "report.json"
    path.write_text(json.dumps(content))
    now = a_report(encode=[1.0, 2.0, 3.0])
    try:
        old = read_report(path)
    except DferError as error:
        assert str(error).isprintable() and len(str(error)) < 400
    else:
        assert all(np.isfinite(change.factor) for change in compare_reports(old, now))
        assert all(line.isprintable() for line in differences(old, now))


@pytest.mark.parametrize("text", ["", "[" * 100_000, '{"kind": 1' + "0" * 5000 + "}", "\x00", '"\\ud800"'])
def test_what_is_no_report_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(DferError, match="not a report"):
        read_report(tmp_path / "report.json")

"""dfer-profile: figures that are what they say they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from dfer.runtime.bundle import DEMO, Bundle
from dfer.runtime.cli.profile import main
from dfer.runtime.errors import DferError
from dfer.runtime.procedural.demo import RATE
from dfer.runtime.profiling.energy import Sensor
from dfer.runtime.profiling.html import headlines, render_page
from dfer.runtime.profiling.profiler import ARRIVALS, Profiler, RepeatedSource, check_source, processor_seconds
from dfer.runtime.profiling.report import Measurement, Report, read_report, stage_times
from dfer.runtime.recognizer import Recognizer


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)], env={"DFER_BUNDLE": ""})


def test_the_bundle_of_the_environment_is_named_before_it_is_profiled() -> None:
    result = CliRunner().invoke(main, ["absent.mp4"], env={"DFER_BUNDLE": str(DEMO)})
    assert (result.exit_code, f"bundle {DEMO}, from $DFER_BUNDLE" in result.output) == (1, True)


@pytest.fixture(scope="module")
def outcome(face_video: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """A profile of four seconds on the CPU: what was printed, and the folder with profile.json and .html."""
    folder = tmp_path_factory.mktemp("profile")
    result = run(
        *(face_video, "--seconds", 4, "--provider", "cpu", "--threads", 2),
        *("--json", folder / "profile.json", "--html", folder / "profile.html"),
    )
    assert result.exit_code == 0, result.output
    return result, folder


@pytest.fixture(scope="module")
def report(outcome: tuple[Result, Path]) -> Report:
    return read_report(outcome[1] / "profile.json")


def test_every_stage_of_the_pipeline_is_measured_at_both_paces(report: Report) -> None:
    measurements = {measured.arrival: measured for measured in report.measurements if measured.part == "pipeline"}
    assert set(measurements) == {"back to back", "camera rate"}
    for measured in measurements.values():
        stages = [row.stage for row in stage_times(measured.steady)]
        assert stages == ["decode", "detect", "track", "align", "encode", "head", "draw", "write", "total"]
        assert len(measured.steady["draw"]) == pytest.approx(measured.runs, abs=3)
        assert len(measured.steady["encode"]) == len(measured.steady["total"])
    assert measurements["camera rate"].rate <= 1.3 * 24
    assert measurements["back to back"].rate > measurements["camera rate"].rate


def test_end_to_end_holds_its_stages(report: Report) -> None:
    for measured in report.measurements:
        if measured.part == "pipeline":
            for total, encode, head in zip(
                measured.steady["total"], measured.steady["encode"], measured.steady["head"], strict=True
            ):
                assert total >= encode + head


def test_warm_up_is_apart_and_nothing_is_lost(report: Report, outcome: tuple[Result, Path]) -> None:
    (measured,) = [
        measured for measured in report.measurements if (measured.part, measured.arrival) == ("query", "back to back")
    ]
    assert measured.warm_up["encode"]
    rows = json.loads((outcome[1] / "profile.json").read_text())["measurements"]
    (written,) = [row for row in rows if (row["part"], row["arrival"]) == ("query", "back to back")]
    (encode,) = [row for row in written["stages"] if row["stage"] == "encode"]
    samples = written["steady_ms"]["encode"]
    assert (encode["n"], encode["max"]) == (len(samples), pytest.approx(max(samples), abs=1e-3))
    assert encode["p90"] == pytest.approx(np.percentile(samples, 90, method="inverted_cdf"), abs=1e-3)
    assert encode["mean"] == pytest.approx(np.mean(samples), abs=1e-3)


def test_the_report_says_what_was_measured_on_what(report: Report) -> None:
    recommended = Bundle.open(DEMO).manifest.recommended["cpu"]
    assert (report.setup["provider"], report.setup["precision"]) == ("cpu", recommended)
    assert report.setup["threads"] == 1  # of the two that it may take: the graph is small
    assert report.setup["frame"] == [320, 240]
    assert report.setup["source"] == "face.mp4"  # no path of this machine
    assert report.machine["cores"] >= 1
    assert report.versions["onnxruntime"]
    assert [batch.size for batch in report.batches] == [1, 2, 4, 8, 16]
    assert report.memory["peak"] >= 0.9 * report.memory["now"] > 50


def test_frames_dropped_in_the_warm_up_are_not_counted(face_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Recognizer(provider="cpu") as recognizer:
        encode, begun = recognizer.encode, 0.0

        def slow_at_first(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
            if monotonic() - begun < 0.3:
                sleep(0.2)
            return encode(crops)

        def too_many() -> float:
            nonlocal begun
            begun, measured = monotonic(), Measurement("pipeline", ARRIVALS[1])
            Profiler(recognizer, str(face_video))._play(measured, 1.5)
            return measured.runs + measured.dropped - 24 * measured.seconds

        monkeypatch.setattr(recognizer, "encode", slow_at_first)
        assert any(too_many() <= 3 for _ in range(3))  # frames pile up where this machine stands still, too


def test_energy_that_a_sensor_told_before_it_was_lost_is_left_out_and_that_is_told(face_video: Path) -> None:
    begun = monotonic()  # again when the model is open

    def read() -> float:
        if monotonic() - begun > 1:
            raise OSError("gone")
        return 10.0

    sensors = [Sensor("lost", False, read), Sensor("kept", False, lambda: 10.0)]
    with Recognizer(provider="cpu") as recognizer:
        begun = monotonic()
        report = Profiler(recognizer, str(face_video), 2.0, sensors).measure("single")
    assert "energy: lost stopped answering; what it told before is left out" in report.notes
    for measured in report.measurements:
        assert list(measured.joules) in (["kept"], ["lost", "kept"])  # it answered all through the first
        assert measured.joules["kept"] == pytest.approx(10 * measured.seconds, rel=0.3)
    assert list(report.measurements[-1].joules) == ["kept"]


def test_the_table_shows_warm_up_and_the_scenario_s_figure(outcome: tuple[Result, Path]) -> None:
    printed = outcome[0].output
    assert "encode (warm-up)" in printed
    assert "single, back to back:" in printed
    assert "p90" in printed


def test_the_page_is_whole_and_fetches_nothing(outcome: tuple[Result, Path]) -> None:
    page = (outcome[1] / "profile.html").read_text()
    assert "http" not in page
    assert "<script" not in page
    opened: list[str] = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "br"):
                opened.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Balance().feed(page)
    assert not opened
    assert page.count("<svg") == 5  # four measurements and the batches


def test_a_comparison_tells_what_became_slower_and_exits_with_3(
    outcome: tuple[Result, Path], face_video: Path, tmp_path: Path
) -> None:
    content = json.loads((outcome[1] / "profile.json").read_text())
    for measured in content["measurements"]:
        measured["steady_ms"] = {
            stage: [value / 50 for value in taken] for stage, taken in measured["steady_ms"].items()
        }
    content["setup"]["provider"], content["setup"]["source"] = "cuda", "Talk [dQw4].mp4"
    (tmp_path / "old.json").write_text(json.dumps(content))
    result = run(
        *(face_video, "--seconds", 2.5, "--provider", "cpu", "--threads", 1),
        *("--compare", tmp_path / "old.json", "--html", tmp_path / "new.html"),
    )
    assert result.exit_code == 3, result.output
    assert "slower" in result.output
    assert "provider: cuda, now cpu" in result.output
    assert "source: Talk [dQw4].mp4, now face.mp4" in result.output
    assert "slower" in (tmp_path / "new.html").read_text()


@pytest.mark.parametrize(("scenario", "sizes"), [("multi", {8}), ("offline", {1, 2, 4, 8, 16})])
def test_other_scenarios_ask_for_more_faces_at_once(
    scenario: str, sizes: set[int], face_video: Path, tmp_path: Path
) -> None:
    result = run(
        *(face_video, "--seconds", 1.5, "--provider", "cpu", "--scenario", scenario),
        *("--json", tmp_path / "o.json"),
    )
    assert result.exit_code == 0, result.output
    found = read_report(tmp_path / "o.json")
    assert found.setup["samples_per_query"] in sizes
    query = [measured for measured in found.measurements if measured.part == "query"]
    assert len(query) == (1 if scenario == "offline" else 2)
    assert query[0].predictions == query[0].runs * found.setup["samples_per_query"]
    assert ("faces/s" if scenario == "offline" else "p99") in result.output


def test_a_loop_goes_round_with_rising_times_and_ends_in_time(face_video: Path) -> None:
    repeated = RepeatedSource(face_video, 8, 30)
    frames = [(frame.index, frame.time) for frame, _ in zip(repeated, range(200), strict=False)]
    repeated.close()
    assert [index for index, _ in frames] == list(range(200))
    assert np.diff([time for _, time in frames]).min() == pytest.approx(1 / RATE, abs=2e-3)
    begun = monotonic()
    assert sum(1 for _ in RepeatedSource(face_video, 8, 2.0)) > 0
    assert 2.0 <= monotonic() - begun < 60


def test_bad_input_gives_one_line_before_anything_is_measured(face_video: Path, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"kind": "other"}')
    calls = [
        (("--compare", tmp_path / "old.json"), "not a report"),
        (("--compare", tmp_path / "none.json"), "No such file"),
        (("--json", tmp_path / "no" / "o.json"), "does not exist"),
        (("--html", tmp_path), "is a folder"),
        (("--html", tmp_path / "o", "--json", tmp_path / "o"), "two outputs have the name"),
        (("--seconds", "nan"), "--seconds: nan is no time"),
        (("--html", face_video), "is the source; name another output"),
        (("--bundle", tmp_path / "none.dfer"), "no such folder"),
    ]
    for arguments, words in calls:
        result = run(face_video, *arguments)
        assert (result.exit_code, isinstance(result.exception, SystemExit)) == (1, True), result.output
        assert words in result.output
    assert run(tmp_path / "none.mp4").exit_code == 1
    assert run("--seconds", 0).exit_code == 2


def test_a_newer_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "new.json").write_text('{"kind": "dfer-profile", "schema": 3}')
    with pytest.raises(DferError, match="newer"):
        read_report(tmp_path / "new.json")


def test_a_pipe_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in ("-", tmp_path / "pipe"):
        result = run(place)
        assert result.exit_code == 1
        assert "a pipe is read only once" in result.output
    check_source("videotestsrc ! " + 300 * "x" + " ! appsink")


def test_a_scenario_without_a_query_is_not_said_to_take_no_time(report: Report) -> None:
    empty = [replace(one, steady={}) if one.part == "query" else one for one in report.measurements]
    assert "not measured" in "".join(headlines(replace(report, measurements=empty)))


def test_processors_are_busy_with_what_was_started_too() -> None:
    before = processor_seconds()
    subprocess.run([sys.executable, "-c", "while __import__('time').process_time() < 1: pass"], check=True)
    assert processor_seconds() - before > 0.9


def test_a_report_with_nothing_in_common_is_told(
    outcome: tuple[Result, Path], tmp_path: Path, face_video: Path
) -> None:
    old = json.loads((outcome[1] / "profile.json").read_text())
    (tmp_path / "old.json").write_text(json.dumps({**old, "measurements": []}))
    call = ("--seconds", 1, "--provider", "cpu", "--threads", 2, "--compare", tmp_path / "old.json")
    result = run(face_video, *call, "--html", tmp_path / "o.html")
    assert result.exit_code == 0
    told = "not the same: nothing was measured in both reports"
    assert told in result.output
    assert told in (tmp_path / "o.html").read_text()


def test_the_page_tells_the_engines_threads_from_the_machines(report: Report) -> None:
    page = render_page(report)
    assert f"<td>engine threads</td><td>{report.setup['threads']}</td>" in page
    assert f"<td>threads</td><td>{report.machine['threads']}</td>" in page

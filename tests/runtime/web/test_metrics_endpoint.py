"""What Prometheus is told of a run: well-formed, true, to this machine only, and nothing that is secret."""

from __future__ import annotations

import http.client
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest

from dfer.runtime import DferError, Recognizer, RunOptions, RunResult
from dfer.runtime import run as run_options
from dfer.runtime.predictions import Step
from dfer.runtime.sources import SourceReaders, open_source
from dfer.runtime.web.metrics import BOUNDS, Metrics, MetricsEndpoint
from helpers import flat, rows_of, run_command, write_video
from streams import MjpegServer
from web_scene import Program

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")
ESCAPED = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


def parse(text: str) -> tuple[dict[str, str], Series]:
    """Kinds of the metrics and values of the series; fails where the text breaks a rule of the format 0.0.4."""
    assert text.endswith("\n")
    kinds: dict[str, str] = {}
    series: Series = {}
    family = ""
    lines = iter(text[:-1].split("\n"))
    for line in lines:
        if line.startswith("# HELP "):
            _, _, family, help_text = line.split(" ", 3)
            assert re.fullmatch(NAME, family) and family not in kinds and help_text
            kind = re.fullmatch(rf"# TYPE {family} (counter|gauge|histogram)", next(lines))
            assert kind is not None
            kinds[family] = kind[1]
            assert (kinds[family] == "counter") == family.endswith("_total")
            continue
        found = SAMPLE.fullmatch(line)
        assert found is not None, line
        name, told, value = found[1], found[2] or "", float(found[found.re.groups])
        allowed = {family + suffix for suffix in ("_bucket", "_sum", "_count")}
        assert name in (allowed if kinds[family] == "histogram" else {family}), line
        labels = {label: re.sub(r"\\.", lambda mark: ESCAPED[mark[0]], text) for label, text in re.findall(LABEL, told)}
        assert len(labels) == len(re.findall(LABEL, told))
        key = (name, frozenset(labels.items()))
        assert key not in series, line
        assert value >= 0 and math.isfinite(value)
        series[key] = value
    for name in (name for name, kind in kinds.items() if kind == "histogram"):
        check_histogram(name, series)
    return kinds, series


def check_histogram(name: str, series: Series) -> None:
    """Buckets of each series are cumulative, rise to +Inf, and hold there what _count says."""
    buckets: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
    for (sample, labels), value in series.items():
        if sample == f"{name}_bucket":
            bound = float(dict(labels)["le"])
            buckets.setdefault(frozenset(one for one in labels if one[0] != "le"), []).append((bound, value))
    assert buckets
    for labels, held in buckets.items():
        assert [bound for bound, _ in held] == [*BOUNDS, math.inf]
        assert all(one <= other for (_, one), (_, other) in pairwise(held))
        assert held[-1][1] == series[f"{name}_count", labels]
        assert (series[f"{name}_sum", labels] > 0) == (held[-1][1] > 0)


def scrape(url: str) -> Series:
    with urlopen(url, timeout=60) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return parse(answer.read().decode())[1]


def of(series: Series, name: str, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


def state_of(series: Series, source: str) -> str:
    """The one that is 1."""
    states = {
        dict(labels)["state"]: value
        for (name, labels), value in series.items()
        if name == "dfer_source_state" and dict(labels)["source"] == source
    }
    assert sorted(states.values()) == [0, 0, 0, 0, 1]
    return max(states, key=lambda state: states[state])


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_run_can_be_scraped_while_it_goes_on_and_at_its_end(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    table = tmp_path / "o.csv"
    video = write_video(tmp_path / "long.mp4", face_frames * 2, 24)
    source = str(video)
    with Program(video, "--realtime", "--web", "0", "--metrics", "0", "--csv", table) as program:
        page = program.address("live page:")
        address = program.address("metrics:")
        assert urlsplit(address).port not in (0, urlsplit(page).port)
        running = scrape(address)
        while not of(running, "dfer_predictions_total", source=source):
            time.sleep(0.05)
            running = scrape(address)
        assert state_of(running, source) == "running"
        assert of(running, "dfer_faces_tracked", source=source) == 1
        assert program.address("all is read") == page
        ended = scrape(address)
        assert state_of(ended, source) == "ended"
        assert all(ended[key] >= value for key, value in running.items() if key[0].endswith(("_total", "_bucket")))
        read, dropped = (of(ended, f"dfer_frames_{what}_total", source=source) for what in ("read", "dropped"))
        assert read + dropped == 144  # the whole clip
        rows = rows_of(table)
        assert of(ended, "dfer_predictions_total", source=source) == len(rows) > 0
        assert of(ended, "dfer_live_samples_total", outcome="encoded") == len(rows)
        assert of(ended, "dfer_faces_tracked", source=source) == of(ended, "dfer_frames_waiting", source=source) == 0
        assert of(ended, "dfer_stage_duration_seconds_count", stage="decode") == read
        assert of(ended, "dfer_latency_seconds_count") == len({row["frame"] for row in rows})
        model = {"model": "demo.dfer", "method": "align-dfer", "version": version("dfer-edge")}
        (told,) = (dict(labels) for name, labels in ended if name == "dfer_build_info")
        assert {name: told[name] for name in model} == model
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", urlsplit(address).port or 0)):
        pass


class Scraping:
    """A sink that scrapes at every step, and keeps what it got."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[Series] = []

    def tell(self, line: str) -> None:
        if line.startswith("metrics: "):
            self.url = line.removeprefix("metrics: ")

    def write(self, step: Step) -> None:
        self.answers.append(scrape(self.url))

    def close(self) -> None:
        self.answers.append(scrape(self.url))

    discard = close


def scraped(*sources: str | Path, **options: object) -> tuple[RunResult, list[Series]]:
    sink = Scraping()
    result = run_options(RunOptions(sources, metrics=0, **options), sinks=[sink], tell=sink.tell)  # type: ignore[arg-type]
    return result, sink.answers


@pytest.mark.skipif(os.name == "nt", reason="not a name there")
def test_names_are_told_as_they_are_whatever_is_in_them(face_video: Path, tmp_path: Path) -> None:
    odd = Path(shutil.copy(face_video, tmp_path / 'a "b", c=\\d\n}é.mp4'))
    result, answers = scraped(odd, face_video)
    for source in (str(odd), str(face_video)):
        counts = [of(answer, "dfer_frames_read_total", source=source) for answer in answers]
        assert counts == sorted(counts) and counts[-1] == 72
        assert state_of(answers[-1], source) == "ended"
    made = sum(of(answers[-1], "dfer_predictions_total", source=str(name)) for name in (odd, face_video))
    assert made == result.summary.predictions == 48


def test_what_is_skipped_for_lack_of_time_is_counted(face_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = Recognizer.encode

    def slowly(self: Recognizer, crops: object) -> object:
        time.sleep(0.4)
        return encode(self, crops)  # type: ignore[arg-type]

    monkeypatch.setattr(Recognizer, "encode", slowly)
    result, answers = scraped(face_video, realtime=True)
    encoded, skipped = (of(answers[-1], "dfer_live_samples_total", outcome=one) for one in ("encoded", "skipped"))
    assert skipped > 0
    assert result.skipped_share == skipped / (encoded + skipped)
    assert result.dropped[str(face_video)] == of(answers[-1], "dfer_frames_dropped_total", source=str(face_video))
    slow = of(answers[-1], "dfer_stage_duration_seconds_bucket", stage="encode", le="0.25")
    assert (slow, of(answers[-1], "dfer_stage_duration_seconds_count", stage="encode")) == (0, encoded)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(2400):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("did not come about")


def test_a_lost_camera_is_reconnecting_then_failed_and_its_password_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.sources.live.FIRST_PAUSE", 0.1)
    monkeypatch.setattr("dfer.runtime.sources.live.LONGEST_PAUSE", 0.2)
    monkeypatch.setattr("dfer.runtime.sources.captures.READ_TIMEOUT", 30.0)
    with MjpegServer() as camera, Recognizer() as recognizer:
        source = open_source(camera.url, reconnect_tries=12)
        with (
            SourceReaders([source]) as readers,
            MetricsEndpoint(0, (metrics := Metrics(recognizer, readers.readers)).text) as endpoint,
        ):
            ended = []

            def follow() -> None:
                try:
                    for step in recognizer.follow(readers):
                        metrics.write(step)
                except DferError as error:
                    ended.append(error)

            loop = threading.Thread(target=follow)
            loop.start()
            name = f"http://127.0.0.1:{camera.port}/live"
            wait_for(lambda: of(scrape(endpoint.url), "dfer_frames_read_total", source=name) > 5)
            wait_for(lambda: state_of(scrape(endpoint.url), name) == "running")
            camera.close()
            wait_for(lambda: state_of(scrape(endpoint.url), name) == "reconnecting")
            wait_for(lambda: state_of(scrape(endpoint.url), name) == "failed")
            loop.join(timeout=120)
            with urlopen(endpoint.url, timeout=60) as answer:
                text = answer.read()
        assert ended
        assert not any(secret in text for secret in (b"admin", b"s3cret"))


@pytest.fixture
def endpoint() -> Iterator[MetricsEndpoint]:
    with MetricsEndpoint(0, lambda: "eggs 3\n") as endpoint:
        yield endpoint


@contextmanager
def refused(status: int) -> Iterator[None]:
    with pytest.raises(HTTPError) as error:
        yield
    assert error.value.code == status


def test_nothing_else_is_served_and_nothing_to_foreign_names(endpoint: MetricsEndpoint) -> None:
    for path in ("", "/rows.csv", "/metrics/x"):
        with refused(404):
            urlopen(endpoint.url.removesuffix("/metrics") + path)
    with refused(405):
        urlopen(endpoint.url, data=b"x")
    connection = http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=60)
    connection.request("GET", "/metrics", headers={"Host": "evil.example"})
    assert connection.getresponse().status == 403
    connection.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only there all of 127.x.x.x is this machine")
def test_only_one_address_listens(endpoint: MetricsEndpoint) -> None:
    with (
        pytest.raises(ConnectionRefusedError),
        socket.create_connection(("127.0.0.2", urlsplit(endpoint.url).port or 0)),
    ):
        pass


def test_connections_that_say_nothing_keep_nobody_out(
    endpoint: MetricsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfer.runtime.web.connections.PATIENCE", 0.5)
    parts = urlsplit(endpoint.url)
    held = [socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60) for _ in range(100)]
    with urlopen(endpoint.url, timeout=60) as answer:
        assert answer.read() == b"eggs 3\n"
    for silent in held:
        with suppress(ConnectionResetError):
            assert silent.recv(1) == b""
        silent.close()


def test_a_port_that_cannot_be_is_refused_before_the_model_is_looked_at(face_video: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        for port, words in (
            (taken, f"Error: port {taken} of 127.0.0.1 is taken; end what listens there or name another port"),
            (70000, "Error: --metrics: 70000 is none; ports go up to 65535"),
            (-1, "Error: --metrics: -1 is none; ports go up to 65535"),
        ):
            result = run_command(face_video, "--metrics", port, "--bundle", tmp_path / "absent.dfer")
            assert (result.exit_code, flat(result.output)) == (1, words)
    result = run_command(face_video, "--metrics", taken, "--web", taken, "--bundle", tmp_path / "absent.dfer")
    assert (result.exit_code, "is the live page's; name another" in flat(result.output)) == (1, True)


def test_a_run_without_metrics_loads_no_server(face_video: Path) -> None:
    program = f"""
import sys
from dfer.runtime import RunOptions, run
run(RunOptions(({str(face_video)!r},)))
print([name for name in sys.modules if name.startswith(("dfer.runtime.web", "uvicorn", "starlette"))])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_documentation_lists_all_metrics_and_no_others(face_video: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    listed = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(r"^\| `(dfer_\w+)` \| (\w+) \|([^|]*)\|", page, re.MULTILINE)
    }
    with Recognizer() as recognizer, SourceReaders([open_source(str(face_video))]) as readers:
        kinds, series = parse(Metrics(recognizer, readers.readers).text())
    labels: dict[str, set[str]] = {name: set() for name in kinds}
    for name, told in series:
        family = name if name in kinds else re.sub("_(bucket|sum|count)$", "", name)
        labels[family] |= {label for label, _ in told} - {"le"}
    assert listed == {name: (kind, labels[name]) for name, kind in kinds.items()}

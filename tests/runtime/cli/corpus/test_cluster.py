"""A corpus on a simulated Ray cluster of three nodes: workers, a node and the driver are killed on the way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from test_label import SETTINGS, leftovers, lines_of, rows_in, rows_of_run, same

from dfer.runtime.bundle import DEMO
from dfer.runtime.cli.corpus.cluster import resolve_on_cluster
from dfer.runtime.cli.corpus.folder import CorpusFolder
from dfer.runtime.cli.corpus.label import LabelOptions, label
from dfer.runtime.cli.corpus.settings import LabelSettings
from dfer.runtime.errors import DferError, ParameterError

pytest.importorskip("ray")
pytestmark = pytest.mark.long
T = TypeVar("T")
HOST = "127.0.0.2"
"""Ray takes 127.0.0.1 for the machine's own address, and then waits for ever."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that does no work, and two nodes of two slots."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "node_ip_address": HOST})
    for _ in range(2):
        made.add_node(num_cpus=2, node_ip_address=HOST)
    made.wait_for_nodes()
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def corpus(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 clips, each in a unit of its own: they are told to last long."""
    root = tmp_path_factory.mktemp("corpus") / "videos"
    root.mkdir()
    made = sorted(clips.glob("day*/*.mp4"))
    for number in range(64):
        shutil.copy(made[number % 4], root / f"{number:02}.mp4")
    return root


def workers() -> list[psutil.Process]:
    """Ray's processes that do tasks of ours now."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any("ray::label_unit" in part for part in process.info["cmdline"] or ()):
            found.append(process)
    return found


def until(true: Callable[[], T], seconds: float = 600.0) -> T:
    """What came true."""
    begun = time.monotonic()
    while not (found := true()):
        assert time.monotonic() - begun < seconds
        time.sleep(0.05)
    return found


def test_whatever_is_killed_every_row_is_there_once(
    cluster: Any, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    address = cluster.address
    program = (
        "from pathlib import Path; from dfer.runtime.cli.corpus import plan; plan._GROUP = 0.5\n"
        "from dfer.runtime.cli.corpus.label import *; from dfer.runtime.cli.corpus.settings import LabelSettings\n"
        f"label(LabelOptions([Path({str(corpus)!r})], Path({str(out)!r}), LabelSettings({str(DEMO)!r}, provider='cpu'),"
        f" cluster={address!r}))"
    )
    driver = [sys.executable, "-c", program]
    run = subprocess.Popen(driver, start_new_session=True)
    done = CorpusFolder(out).done
    until(lambda: (out / "run.json").exists() and len(done()) >= 8)
    os.kill(until(workers)[0].pid, signal.SIGKILL)
    until(lambda: len(done()) >= 20)
    run.kill()
    run.wait()
    assert len(done()) < 64
    run = subprocess.Popen(driver, start_new_session=True)
    until(lambda: len(done()) >= 36)
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    assert run.wait(timeout=900) == 0
    assert len(done()) == 64
    same(rows_in(out), rows_of_run(sorted(corpus.iterdir())))
    assert {line["state"] for line in lines_of(out)} == {"read"}
    assert leftovers(out) == []


def test_a_video_that_kills_workers_fails_alone(cluster: Any, poison: Path, tmp_path: Path) -> None:
    cluster.shutdown()  # whose nodes know nothing of the poison
    from ray.cluster_utils import Cluster

    own = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "node_ip_address": HOST})
    try:
        result = label(LabelOptions([poison], tmp_path / "out", SETTINGS, cluster=own.address))
    finally:
        own.shutdown()
    assert len(result.failed) == 1
    states = {Path(line["source"]).name: line["state"] for line in lines_of(tmp_path / "out")}
    bad = ("broken.mp4", "poison.mp4", "poison_huge.mp4")
    assert states == {**{f"clip{n}.mp4": "read" for n in range(4)}, **dict.fromkeys(bad, "failed")}


def test_tasks_that_fit_on_no_node_end_the_run(
    cluster: Any, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfer.runtime.cli.corpus.cluster._STARTING", 3.0)
    options = LabelOptions([clips], tmp_path / "out", SETTINGS, cluster=cluster.address)
    for name, asked, words in (("gpus", 1, "1 CPU and 1 GPU"), ("cpus", 64, "64 CPU and 0 GPU")):
        with pytest.raises(ParameterError, match=f"{name}: no node of the cluster has {words}"):
            label(replace(options, **{name: asked}))


def test_a_node_chooses_for_all(cluster: Any) -> None:
    assert resolve_on_cluster(LabelSettings(str(DEMO)), cluster.address, 1, 0) == (
        LabelSettings(str(DEMO)).resolved(lambda _: None),
        [],
    )


def test_no_cluster_is_an_error_in_a_line(clips: Path, tmp_path: Path) -> None:
    for address, words in ((f"{HOST}:9", f"no Ray cluster at {HOST}:9"), ("head", "'head' is not HOST:PORT")):
        with pytest.raises(DferError, match=words):
            label(LabelOptions([clips], tmp_path / "out", SETTINGS, cluster=address))

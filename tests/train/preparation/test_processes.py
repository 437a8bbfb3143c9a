"""Several processes: they end with what started them, and one that dies ends all with a line."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from dfer.runtime.errors import ParameterError
from dfer.train.data import procedural
from dfer.train.preparation.processes import run_in_processes

PROGRAM = """
from time import sleep
from dfer.train.preparation.processes import run_in_processes
for done in run_in_processes(sleep, [0, 300, 300], 2, chunk=1):
    print(done, flush=True)
"""


def test_results_come_in_order_where_items_go_in_chunks() -> None:
    items = [-3, 1, -2, 5]
    assert list(run_in_processes(abs, items, 2, chunk=1)) == [3, 1, 2, 5]
    assert sorted(run_in_processes(abs, items, 2)) == [1, 2, 3, 5]


def test_workers_do_not_outlive_a_run_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stdout.readline()  # they have begun
        workers = psutil.Process(run.pid).children()
        run.kill()
    assert len(workers) >= 2
    assert not psutil.wait_procs(workers, timeout=60)[1]


def test_a_process_that_dies_while_people_are_drawn_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procedural, "_perform", os._exit)
    with pytest.raises(ParameterError, match="workers: one died, perhaps of too little memory; run again with fewer"):
        procedural.ProceduralClips([1] * 5, workers=2)

"""Runs units on one machine, in worker processes that may crash."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from ...errors import DferError
from ...machine import follow_parent
from .plan import Unit
from .settings import Job
from .unit import label_unit


def run_locally(units: Sequence[Unit], job: Job, workers: int) -> Iterator[tuple[Unit, int]]:
    """Yield every unit as it is done, with the number of its videos that failed.

    A worker that crashes is replaced and its unit retried; `label_unit` limits the retries.
    Raises DferError if a worker does. Workers end with this iterator, and with this process however that ends.
    """
    waiting = deque(units)
    crews = [_Worker(job) for _ in range(min(workers, len(units)))]
    try:
        for worker in crews:
            worker.begin(waiting.popleft())
        while busy := [worker for worker in crews if worker.unit is not None]:
            wait([worker.answers for worker in busy])
            for worker in busy:
                unit = worker.unit
                if unit is None or not worker.answers.poll():
                    continue
                try:
                    answer = worker.answers.recv()
                except (EOFError, ConnectionResetError):
                    worker.restart()
                    worker.begin(unit)
                    continue
                if isinstance(answer, DferError):
                    raise answer
                worker.unit = None
                if waiting:
                    worker.begin(waiting.popleft())
                yield unit, answer
    finally:
        for worker in crews:
            worker.kill()


class _Worker:
    """A process that does one unit at a time."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.unit: Unit | None = None
        self.restart()

    def restart(self) -> None:
        context = multiprocessing.get_context("spawn")  # libraries' threads do not survive a fork
        self.answers, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._job), daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, unit: Unit) -> None:
        self.unit = unit
        with suppress(OSError):  # it has crashed, which the pipe's end will show
            self.answers.send(unit)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.answers.close()


def _serve(questions: Connection, job: Job) -> None:
    follow_parent()
    while True:
        try:
            unit = questions.recv()
        except (EOFError, OSError):  # the parent is gone
            os._exit(0)
        try:
            questions.send(label_unit(unit, job))
        except DferError as error:
            questions.send(error)
        except BrokenPipeError:
            os._exit(0)

"""Profiles a recogniser: the whole pipeline per stage, the two networks alone in MLPerf's scenarios, batch sizes.

Everything is measured twice, back to back and at the camera's rate: processors and GPUs clock down between a camera's
frames, so latencies differ from those under load. The two alternate, so that drift of the machine affects both. The
first tenth of every turn is warm-up and recorded separately. Every sample is kept; nothing is clipped.

Scenarios are those of MLPerf Inference (Reddi et al. 2020, section IV): "single" is one query after another, judged by
the 90th percentile; "multi" is eight samples per query, by the 99th; "offline" is throughput.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import partial
from math import isnan, nan
from pathlib import Path, PurePath
from statistics import median
from time import monotonic, perf_counter

import numpy as np
import psutil
from numpy.typing import NDArray

from ..errors import DferError
from ..machine import describe_machine, read_text, versions
from ..outputs.writer import OutputPaths, Sinks, file_sinks
from ..recognizer import Recognizer
from ..sources import Frame, Source, SourceReaders, open_source, readable
from ..timing import STAGES, Stopwatch
from .energy import EnergyMeter, Sensor
from .report import Batch, Measurement, Report

Progress = Callable[[float, str], object]
"""Called with the share that is done, 0..1, and what is being measured."""

SCENARIOS = {"single": 1, "multi": 8, "offline": None}
"""Samples per query; offline uses the batch size with the highest throughput."""
TARGETS = {"single": 90, "multi": 99}
"""Percentile that rates a scenario."""
BATCHES = (1, 2, 4, 8, 16)
ARRIVALS = ("back to back", "camera rate")

_SHARES = {"pipeline": 0.5, "query": 0.35, "batches": 0.15}  # of the time
_TURNS = 2
_WARM_UP, _LONGEST_WARM_UP = 0.1, 3.0  # share of a turn; seconds


class Recording(Stopwatch):
    """A stopwatch that keeps all durations in order, in milliseconds: in `warm_up` until `settle`, then in `steady`."""

    def __init__(self) -> None:
        super().__init__()
        self.warm_up: dict[str, list[float]] = {}
        self.steady: dict[str, list[float]] = {}
        self._settled = False
        self._current = self.warm_up

    def add(self, stage: str, seconds: float) -> None:
        if self._settled and stage != "total":  # "total" still belongs to the frame before
            self._current = self.steady
        self._current.setdefault(stage, []).append(1000 * seconds)

    def settle(self) -> None:
        self._settled = True


def check_source(place: str | Path) -> None:
    """Raise DferError for a pipe, which cannot be read again."""
    if str(place) == "-" or (os.path.exists(place) and Path(place).is_fifo()):  # noqa: PTH110 (for names too long for a path)
        raise DferError(f"{place}: a pipe is read only once, and profiling repeats its source; name a file")


class RepeatedSource(Source):
    """Repeats a file, with index and time rising, until `seconds` have passed; a live source is read for that time."""

    def __init__(self, place: str | Path, image_rate: float, seconds: float) -> None:
        self._open = partial(open_source, place, image_rate)
        self._source, self._seconds, self._closed = self._open(), seconds, False
        self.name, self.rate, self.count = self._source.name, self._source.rate, None

    def __iter__(self) -> Iterator[Frame]:
        end = monotonic() + self._seconds
        index, offset = 0, 0.0
        while True:
            begin, source = offset, self._source
            with source:
                for frame in source.frames():
                    if self._closed or monotonic() >= end:
                        return
                    frame.index, frame.time = index, begin + frame.time
                    index, offset = index + 1, frame.time + 1 / (self.rate or 25.0)
                    yield frame
            if source.live or offset == begin:
                return
            self._source = self._open()

    def close(self) -> None:
        self._closed = True
        self._source.close()


@dataclass
class Profiler:
    """Profiles one recogniser on one source. sensors: for energy, from `find_sensors`.

    frame: width, height of the source's images, once the pipeline has been measured.
    """

    recognizer: Recognizer
    source: str
    seconds: float = 60.0
    sensors: list[Sensor] = field(default_factory=list)
    progress: Progress = lambda _share, _what: None
    frame: tuple[int, int] = (0, 0)

    def measure(self, scenario: str, notes: Sequence[str] = ()) -> Report:
        """Measure everything in about `seconds`; `notes` are added to the report's."""
        recognizer, machine = self.recognizer, describe_machine()
        load = psutil.getloadavg()[0]
        with open_source(self.source, recognizer.fps) as source:
            name, rate, live = source.name, source.rate, source.live
        loaded = memory()["now"]
        batches = self.batches()
        best = max(batches, key=lambda batch: batch.faces_per_second).size
        pipeline = self.pipeline(live)
        queries = self.queries(scenario, best)
        told = [] if self.sensors else ["energy: not told by this machine"]
        for lost in _drop_lost([*pipeline, *queries]):
            told.append(f"energy: {lost} stopped answering; what it told before is left out")
        if load > machine.cores / 2:
            told.append(f"load: {load:.1f} when it began; other work on this machine is in these figures")
        return Report(
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            machine=asdict(machine),
            versions=versions(),
            setup={
                "bundle": readable(recognizer.bundle.path),
                "bundle_sha256": recognizer.bundle.digest,
                "provider": recognizer.provider,
                "precision": recognizer.precision,
                "threads": recognizer.encoder.threads or recognizer.threads,
                "source": PurePath(name).name,
                "frame": list(self.frame),
                "rate": rate,
                "window": recognizer.window,
                "fps": recognizer.fps,
                "scenario": scenario,
                "samples_per_query": SCENARIOS[scenario] or best,
                "seconds": self.seconds,
                "load": round(load, 2),
            },
            measurements=[*pipeline, *queries],
            batches=batches,
            memory={"loaded": loaded, **memory()},
            notes=[*told, *notes],
        )

    def pipeline(self, live: bool) -> list[Measurement]:
        """Measure every stage, including outputs (an annotated video and a CSV); a live source at its own rate only."""
        measurements = [Measurement("pipeline", arrival) for arrival in (ARRIVALS[1:] if live else ARRIVALS)]
        self._take_turns(measurements, "pipeline", _SHARES["batches"], self._play)
        return measurements

    def queries(self, scenario: str, best: int) -> list[Measurement]:
        """Measure encoder and head alone on noise. best: samples per query for offline, which has no fixed rate."""
        size = SCENARIOS[scenario] or best
        arrivals = ARRIVALS if scenario in TARGETS else ARRIVALS[:1]
        measurements = [Measurement("query", arrival) for arrival in arrivals]
        self._take_turns(measurements, scenario, 1 - _SHARES["query"], partial(self._ask, size=size))
        return measurements

    def _take_turns(
        self, measurements: list[Measurement], name: str, begin: float, take: Callable[[Measurement, float], None]
    ) -> None:
        """Measure a part: call `take` for each measurement, with the seconds of a turn, `_TURNS` times over.

        begin: the share of the whole profile that was done before.
        """
        share, turns = _SHARES[measurements[0].part], measurements * _TURNS
        for number, measured in enumerate(turns):
            self.progress(begin + share * number / len(turns), f"{name}, {measured.arrival}")
            take(measured, share * self.seconds / len(turns))

    def batches(self) -> list[Batch]:
        """Measure the encoder at `BATCHES`, in turns."""
        self.progress(0.0, "batch sizes")
        crops = self._crops(max(BATCHES))
        times: dict[int, list[float]] = {size: [] for size in BATCHES}
        for size in BATCHES:
            self.recognizer.encode(crops[:size])  # warm-up
        begun = perf_counter()
        while not times[BATCHES[-1]] or perf_counter() - begun < _SHARES["batches"] * self.seconds:
            for size, spent in times.items():
                start = perf_counter()
                self.recognizer.encode(crops[:size])
                spent.append(1000 * (perf_counter() - start))
        return [
            Batch(size, len(spent), median(spent), float(np.percentile(spent, 90)), 1000 * size / median(spent))
            for size, spent in times.items()
        ]

    def _play(self, measured: Measurement, seconds: float) -> None:
        """Run one turn of the pipeline and add it to `measured`."""
        watch = Recording()
        self.recognizer.stopwatch = watch
        with tempfile.TemporaryDirectory(prefix="dfer-profile.") as folder:
            paths = OutputPaths(csv=Path(folder) / "profile.csv", video=Path(folder) / "profile.mp4")
            repeated = RepeatedSource(self.source, self.recognizer.fps, seconds)
            with (
                SourceReaders([repeated], realtime=measured.arrival == ARRIVALS[1]) as readers,
                Sinks(file_sinks(paths, self.recognizer.classes, {repeated.name: repeated.rate}, watch)) as outputs,
                _measured(measured, watch, seconds, self.sensors) as settled,
            ):
                early = 0
                for step in self.recognizer.follow(readers, at_once=1):
                    outputs.write(step)
                    if settled():
                        measured.runs += 1
                        measured.predictions += len(step.predictions)
                    else:
                        early = readers.readers[0].dropped
                    height, width = step.frame.shape[:2]
                    self.frame = width, height
            measured.dropped += readers.readers[0].dropped - early

    def _ask(self, measured: Measurement, seconds: float, size: int) -> None:
        """Run one turn of queries and add it to `measured`."""
        watch = Recording()
        manifest = self.recognizer.bundle.manifest
        crops = self._crops(size)
        windows = np.repeat(self.recognizer.encode(crops)[:, None], manifest.window, axis=1)
        period = 1 / self.recognizer.fps if measured.arrival == ARRIVALS[1] else 0.0
        with _measured(measured, watch, seconds, self.sensors) as settled:
            begun = due = monotonic()
            while monotonic() - begun < seconds or not settled():
                start = perf_counter()
                self.recognizer.encode(crops)
                middle = perf_counter()
                self.recognizer.classify(windows)
                end = perf_counter()
                watch.add("encode", middle - start)
                watch.add("head", end - middle)
                watch.add("total", end - start)
                if settled():
                    measured.runs += 1
                    measured.predictions += size
                due = max(due + period, monotonic())
                time.sleep(max(0.0, due - monotonic()))

    def _crops(self, count: int) -> NDArray[np.uint8]:
        size = self.recognizer.bundle.manifest.preprocessing.size
        return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@contextmanager
def _measured(
    measured: Measurement, watch: Recording, seconds: float, sensors: list[Sensor]
) -> Iterator[Callable[[], bool]]:
    """Add time, processor time, energy and samples of the body to `measured`; all but the samples exclude the warm-up.

    Yields a function to call after each run, which returns whether that run was after the warm-up.
    """
    begun = monotonic()
    settling = min(_WARM_UP * seconds, _LONGEST_WARM_UP)
    metering = ExitStack()
    meter = EnergyMeter(sensors)
    started: tuple[float, float] | None = None

    def settled() -> bool:
        nonlocal started
        if started is not None:
            return True
        if monotonic() - begun >= settling:
            watch.settle()
            metering.enter_context(meter)
            started = monotonic(), processor_seconds()
        return False

    try:
        yield settled
    finally:
        if started is not None:
            measured.seconds += monotonic() - started[0]
            measured.busy += processor_seconds() - started[1]
            metering.close()
            for sensor in sensors:  # NaN for one that was lost in any turn
                told = meter.joules.get(sensor.name, nan)
                measured.joules[sensor.name] = measured.joules.get(sensor.name, 0.0) + told
        for stage in STAGES:
            measured.steady.setdefault(stage, []).extend(watch.steady.get(stage, []))
            measured.warm_up.setdefault(stage, []).extend(watch.warm_up.get(stage, []))


def processor_seconds() -> float:
    """Return processor seconds of this process and those it has started, such as a video's ffmpeg, ended or not."""
    if os.name == "nt":  # which does not count ended ones
        return time.process_time()
    seconds = sum(os.times()[:4])
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            seconds += sum(child.cpu_times()[:2])
    return seconds


def _drop_lost(measurements: Sequence[Measurement]) -> list[str]:
    """Remove lost sensors from the measurements; return their names."""
    lost = {name: None for measured in measurements for name, joules in measured.joules.items() if isnan(joules)}
    for measured in measurements:
        measured.joules = {name: joules for name, joules in measured.joules.items() if not isnan(joules)}
    return list(lost)


def memory() -> dict[str, float]:
    """Return the resident memory of this process in MB: now, and the peak if the system reports it (not macOS)."""
    now = psutil.Process().memory_info()
    peak = getattr(now, "peak_wset", None)  # psutil has it on Windows only
    for line in (read_text(Path("/proc/self/status")) or "").splitlines():
        if line.startswith("VmHWM:"):
            peak = 1024 * int(line.split()[1])
    return {"now": now.rss / 1e6} | ({} if peak is None else {"peak": peak / 1e6})

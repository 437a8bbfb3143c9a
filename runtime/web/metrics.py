"""Metrics of a run for Prometheus: counters, states and times, at http://127.0.0.1:PORT/metrics.

Format: Prometheus' text exposition format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). Names
and labels are an API, listed in docs/api.md. Values are read when scraped, so otherwise a run only updates two counts
per frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..outputs.tables import own_version
from ..predictions import Step
from ..recognizer import Recognizer
from ..sources.readers import SourceReader, State
from ..timing import STAGES
from .listening import listen
from .messages import without_secrets

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms' buckets, seconds."""

_HOST = "127.0.0.1"  # only, since the endpoint has no token

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """A metric, or several with different labels. samples: name suffix, labels, value."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: Iterable[tuple[str, Labels, float]]

    def text(self) -> str:
        r"""Return the metric's lines.

        >>> print(Family("eggs", "gauge", "In the nest.", [("", {"bird": 'the "owl"'}, 3)]).text(), end="")
        # HELP eggs In the nest.
        # TYPE eggs gauge
        eggs{bird="the \"owl\""} 3
        """
        lines = [f"# HELP {self.name} {self.help}\n", f"# TYPE {self.name} {self.kind}\n"]
        for suffix, labels, value in self.samples:
            told = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            lines.append(f"{self.name}{suffix}{told and f'{{{told}}}'} {value}\n")
        return "".join(lines)


@dataclass
class _Counts:
    predictions: int = 0
    faces: int = 0


class Metrics:
    """Counts the steps of a run, as a sink, and reports everything known about the run.

    `text` may be called from another thread than `write`.
    """

    def __init__(self, recognizer: Recognizer, readers: Sequence[SourceReader]) -> None:
        self._recognizer = recognizer
        self._sources = [(reader, _Counts()) for reader in readers]
        self._counts = {reader.name: counts for reader, counts in self._sources}

    def write(self, step: Step) -> None:
        counts = self._counts[step.source]
        counts.predictions += len(step.predictions)
        counts.faces = len(step.faces)

    def close(self) -> None:
        """Do nothing: no resources are held."""

    discard = close

    def text(self) -> str:
        """Return all metrics in the text format."""
        return "".join(family.text() for family in (*self._of_run(), *self._of_sources(), *self._of_stages()))

    def _of_run(self) -> Iterator[Family]:
        recognizer = self._recognizer
        about = {
            "version": own_version() or "",
            "model": recognizer.bundle.name,
            "method": recognizer.bundle.manifest.method,
            "provider": recognizer.provider,
            "precision": recognizer.precision,
        }
        yield Family("dfer_build_info", "gauge", "What runs; always 1.", [("", about, 1)])
        scheduler = recognizer.scheduler
        samples = (("encoded", scheduler.encoded), ("skipped", scheduler.skipped))
        yield Family(
            "dfer_live_samples_total",
            "counter",
            "Samples of live faces, encoded or skipped for lack of time.",
            [("", {"outcome": outcome}, count) for outcome, count in samples],
        )

    def _of_sources(self) -> Iterator[Family]:
        sources = [({"source": without_secrets(reader.name)}, reader, counts) for reader, counts in self._sources]
        yield Family(
            "dfer_source_state",
            "gauge",
            "How the source is: 1 for its state, 0 for the others.",
            [
                ("", {**labels, "state": state}, int(state == now))
                for labels, now in [(labels, reader.state) for labels, reader, _ in sources]
                for state in get_args(State)
            ],
        )
        yield Family(
            "dfer_frames_read_total",
            "counter",
            "Frames handed to the recogniser.",
            [("", labels, reader.taken) for labels, reader, _ in sources],
        )
        yield Family(
            "dfer_frames_dropped_total",
            "counter",
            "Frames of a live source that a newer one replaced while they waited.",
            [("", labels, reader.dropped) for labels, reader, _ in sources],
        )
        yield Family(
            "dfer_frames_waiting",
            "gauge",
            "Decoded frames that wait for the recogniser.",
            [("", labels, reader.waiting) for labels, reader, _ in sources],
        )
        yield Family(
            "dfer_predictions_total",
            "counter",
            "Predictions made, one per face and sample; as many as rows of --csv.",
            [("", labels, counts.predictions) for labels, _, counts in sources],
        )
        yield Family(
            "dfer_faces_tracked",
            "gauge",
            "Faces in the newest frame; 0 unless the source is running.",
            [("", labels, counts.faces if reader.state == "running" else 0) for labels, reader, counts in sources],
        )

    def _of_stages(self) -> Iterator[Family]:
        yield Family(
            "dfer_stage_duration_seconds",
            "histogram",
            "Time that one run of a stage takes.",
            [sample for stage in STAGES if stage != "total" for sample in self._histogram(stage, {"stage": stage})],
        )
        yield Family(
            "dfer_latency_seconds",
            "histogram",
            "From the arrival of a frame that was predicted on to its outputs written, waits included.",
            self._histogram("total", {}),
        )

    def _histogram(self, stage: str, labels: Labels) -> Iterator[tuple[str, Labels, float]]:
        counts, seconds = self._recognizer.stopwatch.cumulative(stage, BOUNDS)
        for bound, count in zip((*map("{:g}".format, BOUNDS), "+Inf"), counts, strict=True):
            yield "_bucket", {**labels, "le": bound}, count
        yield "_sum", labels, seconds
        yield "_count", labels, counts[-1]


class MetricsEndpoint:
    """Serves what `text` returns, from a separate thread, to this machine only, until closed. Use as a context manager.

    port: 0 picks a free one.
    Raises DferError if the port is in use or invalid, or `[web]` is missing.
    """

    def __init__(self, port: int, text: Callable[[], str]) -> None:
        listener = listen(_HOST, port, parameter="metrics")
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import Response
        from starlette.routing import Route

        from .service import Service

        async def serve(_: Request) -> Response:
            return Response(text(), media_type=CONTENT_TYPE)

        self.url = f"http://{_HOST}:{listener.getsockname()[1]}/metrics"
        self._service = Service(listener, Starlette(routes=[Route("/metrics", serve)]), None, "metrics")

    @staticmethod
    def check(port: int) -> None:
        """Raise DferError if nothing could be served, before any work is done."""
        listen(_HOST, port, parameter="metrics").close()

    def __enter__(self) -> MetricsEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._service.stop()


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

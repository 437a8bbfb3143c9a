"""The files of one run, checked before it starts and written together."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from .errors import DferError
from .overlay import annotate
from .predictions import Prediction
from .recognizer import Step
from .sinks import CsvSink, JsonlSink, VideoSink
from .stages import Stopwatch
from .timeline import PLOT_SUFFIXES, Timeline


@dataclass(frozen=True)
class OutputPaths:
    """Where results shall go; None for what is not wanted."""

    csv: Path | None = None
    jsonl: Path | None = None
    video: Path | None = None
    plot: Path | None = None

    def wanted(self) -> list[Path]:
        return [path for path in (self.csv, self.jsonl, self.video, self.plot) if path is not None]

    def check(self, source: Path | None) -> None:
        """Raise DferError for what could not be written, or would overwrite the source, before any work is done."""
        for path in self.wanted():
            if not path.parent.is_dir():
                raise DferError(f"{path}: folder {path.parent} does not exist")
            if path.is_dir():
                raise DferError(f"{path} is a folder; name a file")
            if source is not None and path.exists() and source.exists() and path.samefile(source):
                raise DferError(f"{path} is the source; name another output")
        if len(set(self.wanted())) < len(self.wanted()):
            raise DferError("two outputs have the same name")
        if self.plot is not None and self.plot.suffix.lower() not in PLOT_SUFFIXES:
            raise DferError(f"--plot {self.plot}: the name must end in {', '.join(PLOT_SUFFIXES)}")


class _Sink(Protocol):
    def write(self, prediction: Prediction) -> None: ...

    def close(self) -> None: ...


class Outputs:
    """Open outputs of one run; times spent are added to `watch`. Use as a context manager.

    rate: frames per second of the annotated video.
    """

    def __init__(self, paths: OutputPaths, classes: tuple[str, ...], rate: float, watch: Stopwatch) -> None:
        self._rate, self._watch, self._video_path = rate, watch, paths.video
        self._video: VideoSink | None = None
        self._open = ExitStack()
        self._sinks: list[_Sink] = []
        if paths.csv is not None:
            self._sinks.append(CsvSink(paths.csv, classes))
        if paths.jsonl is not None:
            self._sinks.append(JsonlSink(paths.jsonl))
        if paths.plot is not None:
            self._sinks.append(Timeline(paths.plot, classes))
        for sink in self._sinks:
            self._open.callback(sink.close)

    def write(self, step: Step) -> None:
        """Add one frame and its predictions."""
        if self._sinks and step.predictions:
            with self._watch.time("write"):
                for prediction in step.predictions:
                    for sink in self._sinks:
                        sink.write(prediction)
        if self._video_path is not None:
            with self._watch.time("draw"):
                picture = annotate(step)
            with self._watch.time("write"):
                if self._video is None:
                    height, width = picture.shape[:2]
                    self._video = VideoSink(self._video_path, self._rate, (width, height))
                    self._open.enter_context(self._video)
                self._video.write(picture)

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

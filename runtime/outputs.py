"""The files of one run, checked before it starts and written together."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
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
        seen: set[Path] = set()
        for path in self.wanted():
            if not path.parent.is_dir():
                raise DferError(f"{path}: folder {path.parent} does not exist")
            if path.is_dir():
                raise DferError(f"{path} is a folder; name a file")
            if not os.access(path if path.exists() else path.parent, os.W_OK):
                raise DferError(f"{path}: no permission to write there")
            if source is not None and path.resolve() == source.resolve():
                raise DferError(f"{path} is the source; name another output")
            if path.resolve() in seen:
                raise DferError(f"two outputs have the name {path}")
            seen.add(path.resolve())
        if self.plot is not None and self.plot.suffix.lower() not in PLOT_SUFFIXES:
            raise DferError(f"--plot {self.plot}: the name must end in {', '.join(PLOT_SUFFIXES)}")
        if self.video is not None and self.video.suffix.lower() != ".mp4":
            raise DferError(f"--save-video {self.video}: the name must end in .mp4")


class _Sink(Protocol):
    def write(self, prediction: Prediction) -> None: ...

    def close(self) -> None: ...

    def discard(self) -> None: ...


class Outputs:
    """The outputs of one run; times spent are added to `watch`. Use as a context manager.

    Files are opened at the first frame (or, when there is none, at the end), so that a run that cannot begin leaves
    nothing. After an error the rows written so far stay; pictures and files without rows go.

    rate: frames per second of the annotated video.
    """

    def __init__(self, paths: OutputPaths, classes: tuple[str, ...], rate: float, watch: Stopwatch) -> None:
        self._paths, self._classes, self._rate, self._watch = paths, classes, rate, watch
        self._video: VideoSink | None = None
        self._sinks: list[_Sink] | None = None

    def write(self, step: Step) -> None:
        """Add one frame and its predictions."""
        if self._paths.video is not None:
            with self._watch.time("draw"):
                picture = annotate(step)
            with self._watch.time("write"):
                if self._video is None:
                    height, width = picture.shape[:2]
                    self._video = VideoSink(self._paths.video, self._rate, (width, height))
                self._video.write(picture, step.frame.time)
        sinks = self._open()
        if sinks and step.predictions:
            with self._watch.time("write"):
                for prediction in step.predictions:
                    for sink in sinks:
                        sink.write(prediction)

    def _open(self) -> list[_Sink]:
        if self._sinks is None:
            self._sinks = []
            if self._paths.csv is not None:
                self._sinks.append(CsvSink(self._paths.csv, self._classes))
            if self._paths.jsonl is not None:
                self._sinks.append(JsonlSink(self._paths.jsonl))
            if self._paths.plot is not None:
                self._sinks.append(Timeline(self._paths.plot, self._classes))
        return self._sinks

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        with ExitStack() as stack:  # one that fails does not keep the others open
            if kind is None:
                for sink in self._open():
                    stack.callback(sink.close)
                if self._video is not None:
                    stack.callback(self._video.close)
            else:
                for sink in self._sinks or []:
                    stack.callback(sink.discard)
                if self._video is not None:
                    stack.callback(self._video.discard)

"""The files of one run, checked before it starts and written together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import DferError
from ..predictions import Prediction, Step
from ..timing import Stopwatch
from .overlay import annotate
from .tables import CsvSink, JsonlSink
from .timeline import PLOT_SUFFIXES, Timeline
from .video import VideoSink

if TYPE_CHECKING:
    from .window import Window

_RATE = 25.0  # frames per second of the video of a source that does not tell


@dataclass(frozen=True)
class OutputPaths:
    """Where results shall go; None for what is not wanted."""

    csv: Path | None = None
    jsonl: Path | None = None
    video: Path | None = None
    plot: Path | None = None

    def videos(self, sources: int) -> list[Path]:
        """One annotated video per source: `video` itself for one, else out-1.mp4, out-2.mp4 … in the sources' order.

        >>> [path.name for path in OutputPaths(video=Path("out.mp4")).videos(2)]
        ['out-1.mp4', 'out-2.mp4']
        """
        if self.video is None:
            return []
        if sources == 1:
            return [self.video]
        return [self.video.with_stem(f"{self.video.stem}-{number + 1}") for number in range(sources)]

    def wanted(self, sources: int = 1) -> list[Path]:
        """The files of a run of so many sources."""
        tables = [path for path in (self.csv, self.jsonl) if path is not None]
        return [*tables, *self.videos(sources), *([] if self.plot is None else [self.plot])]

    def check(self, sources: Iterable[Path | None]) -> None:
        """Raise DferError for what could not be written, or would overwrite a source, before any work is done.

        sources: their files; None for a source that is no file.
        """
        inputs = list(sources)
        taken = {path.resolve() for path in inputs if path is not None}
        seen: set[Path] = set()
        for path in self.wanted(len(inputs)):
            if not path.parent.is_dir():
                raise DferError(f"{path}: folder {path.parent} does not exist")
            if path.is_dir():
                raise DferError(f"{path} is a folder; name a file")
            if not os.access(path if path.exists() else path.parent, os.W_OK):
                raise DferError(f"{path}: no permission to write there")
            if path.resolve() in taken:
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
    nothing. However the run ends, the rows and videos written so far stay and are whole; after an error, plots and
    files without rows go. An output that fails (a full disk) ends the run with a DferError that names it, and the
    others are closed.

    rates: per source, in their order, the frames per second that it tells, for its video; None where it tells none.
    header: what the first line of the JSONL says of the run. window: shows the annotated frames as well.
    """

    def __init__(
        self,
        paths: OutputPaths,
        classes: tuple[str, ...],
        rates: Mapping[str, float | None],
        watch: Stopwatch,
        *,
        header: Mapping[str, Any] | None = None,
        window: Window | None = None,
    ) -> None:
        self._paths, self._classes, self._rates, self._watch = paths, classes, rates, watch
        self._header, self._window = header or {}, window
        self._places = dict(zip(rates, paths.videos(len(rates)), strict=False))
        self._videos: dict[str, VideoSink] = {}
        self._sinks: list[_Sink] | None = None

    def write(self, step: Step) -> None:
        """Add one frame of a source and its predictions."""
        sinks = self._open()
        if self._window is not None or step.source in self._places:
            self._draw(step)
        if sinks and step.predictions:
            with self._watch.time("write"):
                for prediction in step.predictions:
                    for sink in sinks:
                        sink.write(prediction)

    def written(self) -> list[str]:
        """The files that there are, each with what a person should know of it."""
        notes = {self._places[source]: f" ({video.codec})" for source, video in self._videos.items()}
        return [f"{path}{notes.get(path, '')}" for path in self._paths.wanted(len(self._rates)) if path.exists()]

    def _draw(self, step: Step) -> None:
        with self._watch.time("draw"):
            picture = annotate(step)
            if self._window is not None:
                self._window.show(step.source, picture)
        if step.source in self._places:
            with self._watch.time("write"):
                if step.source not in self._videos:
                    height, width = picture.shape[:2]
                    rate = self._rates[step.source] or _RATE
                    self._videos[step.source] = VideoSink(self._places[step.source], rate, (width, height))
                self._videos[step.source].write(picture, step.frame.time)

    def _open(self) -> list[_Sink]:
        if self._sinks is None:
            self._sinks = []
            if self._paths.csv is not None:
                self._sinks.append(CsvSink(self._paths.csv, self._classes))
            if self._paths.jsonl is not None:
                self._sinks.append(JsonlSink(self._paths.jsonl, self._header))
            if self._paths.plot is not None:
                self._sinks.append(Timeline(self._paths.plot, self._classes))
        return self._sinks

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        with ExitStack() as stack:  # one that fails does not keep the others open
            for sink in self._open() if kind is None else self._sinks or []:
                stack.callback(sink.close if kind is None else sink.discard)
            for video in self._videos.values():
                stack.callback(video.close)

"""The outputs of a run: paths checked before it starts, and sinks that receive every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import DferError, ParameterError
from ..predictions import Step
from ..sources import SourceSpec, files_of, readable
from ..storage import atomic_write, check_writable, sole_writer
from ..timing import Stopwatch
from .overlay import annotate
from .tables import STDOUT, CsvSink, JsonlSink
from .timeline import PLOT_SUFFIXES, Script, Timeline
from .video import VideoSink, codec_here

_RATE = 25.0  # frames per second of the video of a source with unknown rate


@dataclass(frozen=True)
class OutputPaths:
    """Where to write results; None for what is not wanted. csv, jsonl: "-" for standard output."""

    csv: Path | None = None
    jsonl: Path | None = None
    video: Path | None = None
    plot: Path | None = None

    def videos(self, sources: int) -> list[Path]:
        """Return an annotated video per source: `video` itself for one, else out-1.mp4, out-2.mp4 … in source order.

        >>> [path.name for path in OutputPaths(video=Path("out.mp4")).videos(2)]
        ['out-1.mp4', 'out-2.mp4']
        """
        if self.video is None:
            return []
        if sources == 1:
            return [self.video]
        return [self.video.with_stem(f"{self.video.stem}-{number + 1}") for number in range(sources)]

    def wanted(self, sources: int = 1) -> list[Path]:
        """Return the files of a run of so many sources."""
        tables = [path for path in (self.csv, self.jsonl) if path is not None]
        return [*tables, *self.videos(sources), *([] if self.plot is None else [self.plot])]

    def describe(self, sources: int, before: Mapping[Path, object]) -> list[str]:
        """Return the files that were written; videos with their codec.

        before: `file_states` before the run.
        """
        videos, codec = self.videos(sources), codec_here() if self.video else ""
        if codec == "MPEG-4":
            codec += ", which browsers do not play; for H.264 install ffmpeg, or run: pip install 'dfer-edge[video]'"
        return [
            f"{readable(path)} ({codec})" if path in videos else readable(path)
            for path in self.wanted(sources)
            if path != STDOUT and was_written(path, before)
        ]

    @contextmanager
    def reserved(self, sources: int) -> Iterator[None]:
        """Reserve the files against other runs. Raises DferError for one that another run is writing."""
        with ExitStack() as stack:
            for path in self.wanted(sources):
                if path != STDOUT and (path.is_file() or not path.exists()):  # devices and pipes allow several writers
                    stack.enter_context(sole_writer(path))
            yield

    def check(self, sources: Sequence[SourceSpec], inputs: Iterable[Path] = ()) -> None:
        """Raise DferError for files that cannot be written, or would overwrite what is read, before any work is done.

        inputs: files that are read besides the sources.
        """
        wanted = self.wanted(len(sources))
        taken, others = files_read(sources, wanted), {path.resolve() for path in inputs}
        seen: set[Path] = set()
        for path in wanted:
            if path in (self.csv, self.jsonl) and path == STDOUT:
                if path in seen:
                    raise DferError("two outputs go to standard output")
                seen.add(path)
                continue
            check_writable(path, aside=path == self.plot)
            if path.resolve() in taken:
                raise DferError(f"{path} is the source; name another output")
            if path.resolve() in others:
                raise DferError(f"{path} is an input; name another output")
            if path.resolve() in seen:
                raise DferError(f"two outputs have the name {path}")
            seen.add(path.resolve())
        if self.plot is not None and self.plot.suffix.lower() not in PLOT_SUFFIXES:
            raise ParameterError("plot", f"{self.plot}: the name must end in {', '.join(PLOT_SUFFIXES)}")
        if self.video is not None and self.video.suffix.lower() != ".mp4":
            raise ParameterError("video", f"{self.video}: the name must end in .mp4")


def files_read(sources: Sequence[SourceSpec], outputs: Sequence[Path]) -> set[Path]:
    """Return the files that sources read; empty if no output exists yet, since then none can overwrite a source, and
    listing an album on a slow disk takes long."""
    there = any(path.exists() for path in outputs)
    return {file.resolve() for spec in sources for file in files_of(spec)} if there else set()


def file_states(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """Return inode and modification time of each file that exists."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths if path.is_file()}


def was_written(path: Path, before: Mapping[Path, object]) -> bool:
    """Return whether the file exists, and is new or changed since `before`."""
    return path.exists() and (path not in before or file_states([path])[path] != before[path])


class Sink(Protocol):
    """Receives every step of a run: a file, a window, a page, a summary."""

    def write(self, step: Step) -> None:
        """Add one frame of a source with its predictions."""

    def close(self) -> None:
        """Finish: the run has ended normally."""

    def discard(self) -> None:
        """Clean up after an error: keep what is complete, remove the rest."""


class Sinks:
    """Several sinks as one. Use as a context manager: they are closed at the end, or discarded after an error.

    A failing sink ends the run, but the others are still closed.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks

    def write(self, step: Step) -> None:
        for sink in self._sinks:
            sink.write(step)

    def __enter__(self) -> Sinks:
        return self

    def close(self) -> None:
        with ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.close)

    def discard(self) -> None:
        with ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.discard)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def file_sinks(
    paths: OutputPaths,
    classes: tuple[str, ...],
    rates: Mapping[str, float | None],
    watch: Stopwatch,
    header: Callable[[], Mapping[str, Any]] = dict,
    drawing: Drawing | None = None,
    script: Script = (),
) -> list[Sink]:
    """Return the sinks that write a run's files; durations are added to `watch`.

    Files are created at the first frame (or, if there is none, at the end), so that a run that fails to start leaves
    nothing. However the run ends, the rows and videos written so far stay valid; after an error, plots and files
    without rows are removed. Writing raises DferError when a file cannot be written (a full disk).

    rates: per source, in order, the frames per second for its video; None if unknown.
    header: returns the description of the run for the JSONL's first line and the plot, when they are opened.
    drawing: draws the frames of the videos. script: what faces really show, for the plot.
    """
    sinks: list[Sink] = []
    if paths.video is not None:  # first, since it is the one that may fail to open
        videos = dict(zip(rates, paths.videos(len(rates)), strict=True))
        sinks.append(AnnotatedVideos(videos, rates, drawing or Drawing(watch), watch))
    csv, jsonl, plot = paths.csv, paths.jsonl, paths.plot
    if csv is not None:
        sinks.append(_Late(lambda: CsvSink(csv, classes), watch))
    if jsonl is not None:
        sinks.append(_Late(lambda: JsonlSink(jsonl, header()), watch))
    if plot is not None:
        sinks.append(_Late(lambda: Timeline(plot, classes, script, header(), rates), watch))
    return sinks


class _Late:
    """A sink that is opened at the first frame; the time to write predictions is measured."""

    def __init__(self, opening: Callable[[], Sink], watch: Stopwatch) -> None:
        self._opening, self._watch = opening, watch
        self._sink: Sink | None = None

    def _opened(self) -> Sink:
        if self._sink is None:
            self._sink = self._opening()
        return self._sink

    def write(self, step: Step) -> None:
        sink = self._opened()
        if step.predictions:
            with self._watch.time("write"):
                sink.write(step)

    def close(self) -> None:
        self._opened().close()

    def discard(self) -> None:
        if self._sink is not None:
            self._sink.discard()


class Drawing:
    """Annotated images of steps, each drawn once for all sinks that show it. window: as for `annotate`."""

    def __init__(self, watch: Stopwatch, window: float | None = None) -> None:
        self._watch, self._window = watch, window
        self._step: Step | None = None
        self._picture: NDArray[np.uint8] | None = None

    def of(self, step: Step) -> NDArray[np.uint8]:
        """Return RGB uint8 [H,W,3]; must not be modified."""
        if self._picture is None or self._step is not step:
            with self._watch.time("draw"):
                self._step, self._picture = step, annotate(step, self._window)
        return self._picture


class AnnotatedVideos:
    """A video of annotated frames for each source, opened at its first frame. paths, rates: per source."""

    def __init__(
        self, paths: Mapping[str, Path], rates: Mapping[str, float | None], drawing: Drawing, watch: Stopwatch
    ) -> None:
        self._paths, self._rates, self._drawing, self._watch = paths, rates, drawing, watch
        self._videos: dict[str, VideoSink] = {}

    def write(self, step: Step) -> None:
        picture = self._drawing.of(step)
        with self._watch.time("write"):
            if step.source not in self._videos:
                height, width = picture.shape[:2]
                rate = self._rates[step.source] or _RATE
                self._videos[step.source] = VideoSink(self._paths[step.source], rate, (width, height))
            self._videos[step.source].write(picture, step.frame.time)

    def close(self) -> None:
        with ExitStack() as stack:
            for video in self._videos.values():
                stack.callback(video.close)

    discard = close  # the part written so far can be played


class AnnotatedPictures:
    """Writes each annotated photograph under its own name to a folder, which is created at the first."""

    def __init__(self, folder: Path, drawing: Drawing, watch: Stopwatch) -> None:
        self._folder, self._drawing, self._watch = folder, drawing, watch

    def write(self, step: Step) -> None:
        path = self._folder / step.frame.file
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            path = path.with_name(f"{path.name}.png")
        picture = self._drawing.of(step)
        with self._watch.time("write"):
            done, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            if not done:
                raise DferError(f"{readable(path)}: OpenCV cannot write a picture of {picture.shape[1::-1]} pixels so")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DferError(f"{readable(path.parent)}: {error.strerror}") from error
            with atomic_write(path) as aside:
                aside.write_bytes(data.tobytes())

    def close(self) -> None: ...

    discard = close

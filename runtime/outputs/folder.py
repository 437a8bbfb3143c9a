"""A folder of results: for each source, by its name, a table, and an annotated video and a timeline, or images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from ..errors import DferError
from ..predictions import Step
from ..sources import SourceReader, SourceSpec, readable
from ..storage import sole_writer
from ..timing import Stopwatch
from .writer import AnnotatedPictures, Drawing, OutputPaths, Sink, Sinks, file_sinks, files_read, was_written


class OutputFolder:
    """A folder with NAME.csv for each source, and NAME.mp4 and NAME.png for film, or annotated photographs in
    NAME-pictures/. It is created if needed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def paths(self, names: Sequence[str]) -> list[OutputPaths]:
        """Return the files for sources with these names: the last part without suffix; duplicates are numbered.

        >>> folder = OutputFolder(Path("out"))
        >>> [one.csv.name for one in folder.paths(["a/clip.mp4", "b/clip.mov", "rtsp://host/gate?x=1"])]
        ['clip.csv', 'clip-2.csv', 'gate_x=1.csv']
        """
        taken: set[str] = set()
        result = []
        for name in map(_file_name, names):
            unique, number = name, 2
            while unique.lower() in taken:  # some file systems are case-insensitive
                unique, number = f"{name}-{number}", number + 1
            taken.add(unique.lower())
            csv, video, plot = (self.path / f"{unique}{suffix}" for suffix in (".csv", ".mp4", ".png"))
            result.append(OutputPaths(csv, None, video, plot))
        return result

    def prepare(
        self,
        names: Sequence[str],
        sources: Sequence[SourceSpec],
        inputs: Iterable[Path] = (),
        outputs: Iterable[Path] = (),
    ) -> None:
        """Create the folder. Raises DferError if it cannot be written, or a result would overwrite what is read.

        names: of the sources. inputs: files that are read besides the sources. outputs: the other results of the run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise DferError(f"{readable(self.path)} is a file; name a folder")
        results = [path for paths in self.paths(names) for path in (*paths.wanted(), _pictures(paths))]
        taken = files_read(sources, results)
        taken |= {path.parent for path in taken}
        read, written = ({path.resolve() for path in paths} for paths in (inputs, outputs))
        for path in results:
            if path.resolve() in taken:
                raise DferError(f"{readable(path)} is a source; name another folder")
            if path.resolve() in read:
                raise DferError(f"{readable(path)} is an input; name another folder")
            if path.resolve() in written:
                raise DferError(f"two outputs have the name {readable(path)}")
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise DferError(f"{readable(self.path)}: {error.strerror}; the folder that it is in must exist") from error
        OutputPaths(csv=self.path / "x.csv").check([])

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Reserve the folder against other runs. Raises DferError if another run writes into it."""
        with sole_writer(self.path):
            yield

    def describe(self, names: Sequence[str], before: Mapping[Path, object]) -> list[str]:
        """Return lines with the folder and the number of sources with results of this run, for film and photographs.

        before: `file_states` before the run.
        """
        written = [[was_written(path, before) for path in paths.wanted()] for paths in self.paths(names)]
        films, albums = (sum(table and video is film for table, video, _ in written) for film in (True, False))
        told = [("NAME.csv, NAME.mp4 and NAME.png", films)] if films or not albums else []
        told += [("NAME.csv and NAME-pictures/", albums)] if albums else []
        return [f"{readable(self.path)}/: {files} of {count} source{'s' * (count != 1)}" for files, count in told]

    def sink(
        self,
        readers: Sequence[SourceReader],
        classes: tuple[str, ...],
        watch: Stopwatch,
        header: Callable[[Sequence[str]], Mapping[str, Any]],
        drawing: Drawing,
    ) -> Sink:
        """Return the sink that writes all results. header: returns a run's description for plots (see `file_sinks`)."""
        paths = dict(zip(readers, self.paths([reader.name for reader in readers]), strict=True))

        def open_sinks(reader: SourceReader, first: Step) -> list[Sink]:
            rates, wanted = {reader.name: reader.rate}, paths[reader]
            pictures: list[Sink] = []
            if first.frame.photo:  # photographs have no times for a video or a timeline
                pictures.append(AnnotatedPictures(_pictures(wanted), drawing, watch))
                wanted = OutputPaths(csv=wanted.csv)
            return [*pictures, *file_sinks(wanted, classes, rates, watch, lambda: header([reader.name]), drawing)]

        return _PerSource(open_sinks, readers)


class _PerSource:
    """Sinks of each source, opened at its first frame and closed after its last, so that few are open at a time."""

    def __init__(self, opening: Callable[[SourceReader, Step], list[Sink]], readers: Sequence[SourceReader]) -> None:
        self._opening = opening
        self._readers = {reader.name: reader for reader in readers}
        self._open: dict[str, Sinks] = {}
        self._written: dict[str, int] = {}  # frames of those that are open

    def write(self, step: Step) -> None:
        for ended in [name for name, count in self._written.items() if self._readers[name].ended_after(count)]:
            del self._written[ended]
            self._open.pop(ended).close()
        name = step.source
        if name not in self._open:
            self._open[name], self._written[name] = Sinks(self._opening(self._readers[name], step)), 0
        self._open[name].write(step)
        self._written[name] += 1

    def close(self) -> None:
        Sinks(list(self._open.values())).close()

    def discard(self) -> None:
        Sinks(list(self._open.values())).discard()


def _pictures(paths: OutputPaths) -> Path:
    """Return the folder for annotated photographs."""
    assert paths.csv is not None
    return paths.csv.with_name(f"{paths.csv.stem}-pictures")


def _file_name(source: str) -> str:
    """Return a valid file name on any system for a source: the last part of its name, without a file's suffix."""
    part = PurePath(source.split("://")[-1]).name
    stem = part if "?" in part else PurePath(part).stem
    return re.sub(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*]+', "_", stem).strip("._ ") or "source"

"""A folder of results: for each source its own table, and annotated video and timeline or pictures, by its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """Where each source gets NAME.csv, and NAME.mp4 and NAME.png if it is film, annotated photographs in NAME-pictures/
    if not. It is made where there is none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def paths(self, names: Sequence[str]) -> list[OutputPaths]:
        """The files of sources with these names: the last part without suffix; of equal ones the later are numbered.

        >>> folder = OutputFolder(Path("out"))
        >>> [one.csv.name for one in folder.paths(["a/clip.mp4", "b/clip.mov", "rtsp://host/gate?x=1"])]
        ['clip.csv', 'clip-2.csv', 'gate_x=1.csv']
        """
        taken: set[str] = set()
        result = []
        for name in map(_file_name, names):
            unique, number = name, 2
            while unique.lower() in taken:  # some file systems do not tell upper from lower case
                unique, number = f"{name}-{number}", number + 1
            taken.add(unique.lower())
            csv, video, plot = (self.path / f"{unique}{suffix}" for suffix in (".csv", ".mp4", ".png"))
            result.append(OutputPaths(csv, None, video, plot))
        return result

    def prepare(self, names: Sequence[str], sources: Sequence[SourceSpec]) -> None:
        """Make the folder. Raises DferError where it cannot be written, or a result would overwrite a source.

        names: of the sources.
        """
        if self.path.exists() and not self.path.is_dir():
            raise DferError(f"{readable(self.path)} is a file; name a folder")
        results = [path for paths in self.paths(names) for path in (*paths.wanted(), _pictures(paths))]
        taken = files_read(sources, results)
        taken |= {path.parent for path in taken}
        for path in results:
            if path.resolve() in taken:
                raise DferError(f"{readable(path)} is a source; name another folder")
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise DferError(f"{readable(self.path)}: {error.strerror}; the folder that it is in must exist") from error
        OutputPaths(csv=self.path / "x.csv").check([])

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Hold the folder against other runs. Raises DferError where another run writes into it."""
        with sole_writer(self.path):
            yield

    def describe(self, names: Sequence[str], before: Mapping[Path, object]) -> list[str]:
        """The folder with how many sources have results of this run there, in a line for film and one for photographs.

        before: what `file_states` told of them before it.
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
        """What writes all of them. header: what plots say of a run of the named sources (see `file_sinks`)."""
        paths = dict(zip(readers, self.paths([reader.name for reader in readers]), strict=True))

        def open_sinks(reader: SourceReader, first: Step) -> list[Sink]:
            rates, wanted = {reader.name: reader.rate}, paths[reader]
            pictures: list[Sink] = []
            if first.frame.photo:  # which have no time that a video or a timeline could show
                pictures.append(AnnotatedPictures(_pictures(wanted), drawing, watch))
                wanted = OutputPaths(csv=wanted.csv)
            return [*pictures, *file_sinks(wanted, classes, rates, watch, lambda: header([reader.name]), drawing)]

        return _PerSource(open_sinks, readers)


class _PerSource:
    """Sinks of each source, opened at its first frame and closed after its last, so that few are open at once."""

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
    """Where annotated photographs go."""
    assert paths.csv is not None
    return paths.csv.with_name(f"{paths.csv.stem}-pictures")


def _file_name(source: str) -> str:
    """Of a source's name what can be a file's on any system: its last part, without the suffix of a file."""
    part = PurePath(source.split("://")[-1]).name
    stem = part if "?" in part else PurePath(part).stem
    return re.sub(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*]+', "_", stem).strip("._ ") or "source"

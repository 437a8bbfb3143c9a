"""One run, from options to result: everything that `dfer-run` does, also callable from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..bundle import DEMO, Bundle
from ..engines import LARGEST_BATCH
from ..errors import DferError, ParameterError, check_least, check_unset
from ..faces.orientation import rotated
from ..labels import in_ascii
from ..machine import default_threads, give_back_large_blocks, physical_cores
from ..outputs.absence import Absence
from ..outputs.folder import OutputFolder
from ..outputs.summary import Summary
from ..outputs.tables import run_header
from ..outputs.timeline import Script, drawable
from ..outputs.writer import Drawing, OutputPaths, Sink, Sinks, file_sinks, file_states
from ..pipeline.class_map import ClassMap
from ..pipeline.feature_window import check_sampling
from ..pipeline.smoothing import check_smoothing
from ..recognizer import Recognizer
from ..sources import (
    IMAGE_RATE,
    IMAGE_SUFFIXES,
    SourceReaders,
    SourceSpec,
    expand,
    files_of,
    open_sources,
    tell_apart,
)
from .interruption import Interruption, hold_back_interruption
from .progress import OverallBar, ProgressBars

if TYPE_CHECKING:
    from rich.console import Console

    from ..timing import StageTimes

Report = Callable[[str], object]
"""Called with one line."""


@dataclass(frozen=True)
class RunOptions:
    """What to read, how, and what to write; each field but script is an option of `dfer-run` (video: --save-video).

    sources: camera numbers, files, folders, patterns, URLs (see `open_source`); one, or several.
    bundle, provider, precision, threads, window, fps, max_faces, min_face, detect_every, smooth, classes,
    neutral_prior, unsure: as for `Recognizer`; threads None leaves some for the readers of live sources.
    rotate: degrees clockwise by which to rotate images (90, 180, 270), "auto" to make faces upright, None for none.
    csv, jsonl, video, plot: files to write, None for none; for several sources, videos are numbered. Rows can go to
    standard output, "-". out_dir: folder for a table, a video and a plot of each source, or, for photographs, a table
    and annotated images.
    jobs: files read at once, None for as many as there are cores, or half as many with out_dir.
    script: what the faces of a single source really show, drawn below the plot (see `outputs.timeline.Script`).
    boxes: CSV of face boxes that replaces the detector (`faces.boxes.read_boxes`); with rotate, in pixels of the
    rotated images, as the boxes of all results are.
    show: open a window with the annotated frames. web: port of the live page, None for none; host, token: of that page,
    which stays until Ctrl-C if files were read. metrics: port of this machine for Prometheus metrics, None for none.
    photos: whether images of a folder or pattern are photographs, None to decide by their names and sizes.
    hwaccel: device that decodes video files, None for the CPU (see `open_source`).
    realtime: play files in real time. size, camera_fps: requested from cameras. reconnect_tries: for live sources.
    """

    sources: Sequence[SourceSpec] | SourceSpec
    bundle: str | Path | None = None
    csv: str | Path | None = None
    jsonl: str | Path | None = None
    video: str | Path | None = None
    plot: str | Path | None = None
    out_dir: str | Path | None = None
    jobs: int | None = None
    script: Script = ()
    show: bool = False
    web: int | None = None
    host: str = "127.0.0.1"
    token: str | None = None
    metrics: int | None = None
    window: float | None = None
    fps: float | None = None
    smooth: float | None = None
    classes: str | Path | Mapping[str, str | None] | None = None
    neutral_prior: float | None = None
    unsure: float | None = None
    rotate: int | Literal["auto"] | None = None
    max_faces: int | None = None
    min_face: int = 40
    detect_every: int | None = None
    boxes: str | Path | None = None
    photos: bool | None = None
    hwaccel: str | None = None
    realtime: bool = False
    size: tuple[int, int] | None = None
    camera_fps: float | None = None
    reconnect_tries: int = 5
    provider: str = "auto"
    precision: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    summary: per face. files: written files, with remarks for the user. timing: per stage.
    failures: of several sources or photographs, those that could not be read, and why.
    dropped: number of dropped frames per source.
    skipped_share: share of live samples skipped for lack of time, 0..1.
    stopped: whether Ctrl-C, or closing the window, ended it. absence: why no face was classified, a sentence, else "".
    """

    summary: Summary
    files: Sequence[str]
    timing: Sequence[StageTimes]
    failures: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    skipped_share: float = 0.0
    stopped: bool = False
    absence: str = ""


def run(
    options: RunOptions,
    *,
    sinks: Sequence[Sink] = (),
    warn: Report = lambda _: None,
    tell: Report = lambda _: None,
    console: Console | None = None,
) -> RunResult:
    """Read all sources until their end, Ctrl-C, or the window is closed; write and show the requested outputs.

    sinks: additional outputs, which receive every `Step`. warn: called about problems that are not errors. tell: called
    with the model and the URLs of the page and the metrics. console: for progress bars, None for none.

    Raises DferError for invalid options, a model or source that does not open, an output that cannot be written, and
    when a single source fails; if there are several, the others go on (see `RunResult.failures`).

    >>> from pathlib import Path
    >>> from dfer.runtime import RunOptions, run
    >>> result = run(RunOptions(["clip.mp4"], csv="clip.csv", smooth=0.4))
    >>> len(result.summary.tracks), Path("clip.csv").exists()
    (2, True)
    """
    specs = expand(options.sources)
    if not specs:
        raise ParameterError("sources", "name at least one")
    paths = OutputPaths(*map(_path, (options.csv, options.jsonl, options.video, options.plot)))
    paths.check(specs)
    folder = None if options.out_dir is None else OutputFolder(Path(options.out_dir))
    _check(options)
    _check_idle(options, specs)
    with ExitStack() as stack:
        stack.enter_context(paths.reserved(len(specs)))
        opened = open_sources(
            specs,
            options.fps or _sampling_rate(options.bundle),
            warn,
            size=options.size,
            fps=options.camera_fps,
            reconnect_tries=options.reconnect_tries,
            photos=options.photos,
            hwaccel=options.hwaccel,
        )
        for source in opened:
            stack.callback(source.close)
        if not any(source.live for source in opened):
            check_unset(options, "is for cameras, and no source is live; leave it out", "size", "camera_fps")
        tell_apart(opened)
        if options.rotate is not None:
            opened = [rotated(source, options.rotate, warn) for source in opened]
        if folder is not None:
            folder.prepare([source.name for source in opened], specs)
            stack.enter_context(folder.reserved())
        boxes = None
        if options.boxes is not None:
            from ..faces.boxes import read_boxes

            boxes = read_boxes(Path(options.boxes), [source.name for source in opened])
        live = sum(source.live or options.realtime for source in opened)
        recognizer = stack.enter_context(_open_recognizer(options, live, warn))
        tell(f"{_origin(options.bundle)}; provider: {recognizer.provider}; precision: {recognizer.precision}")
        if live and options.smooth is None:
            tell(f"live labels are smoothed over {recognizer.smoothing(live=True):g} s (--smooth 0 for none)")
        if options.video is not None or options.show or folder is not None:
            _warn_of_letters(recognizer.classes, in_ascii, warn)
        elif paths.plot is not None and paths.plot.suffix.lower() != ".html":
            _warn_of_letters(recognizer.classes, drawable, warn)
        page = None
        if options.web is not None:
            from ..web import ServedModel, WebPage

            model = ServedModel(
                name=recognizer.bundle.path.name,
                method=recognizer.bundle.manifest.method,
                provider=recognizer.provider,
                precision=recognizer.precision,
                window=recognizer.window,
                demo=options.bundle is None,
            )
            page = stack.enter_context(WebPage(recognizer.classes, options.web, options.host, options.token, model))
            tell(f"live page: {page.url}")
        # With out_dir, videos are encoded in parallel: more jobs only take memory (`benchmarks/batches.py`).
        jobs = options.jobs or (max(2, physical_cores()) if folder is None else max(1, physical_cores() // 2))
        readers = stack.enter_context(SourceReaders(opened, realtime=options.realtime, jobs=jobs))
        names = [reader.name for reader in readers.readers]
        of_each = [] if folder is None else [path for one in folder.paths(names) for path in one.wanted()]
        before = file_states([*paths.wanted(len(specs)), *of_each])
        watch = recognizer.stopwatch
        drawing = Drawing(watch, recognizer.window)
        window = None
        if options.show:
            from ..outputs.window import Window

            window = stack.enter_context(Window(names, drawing))
        named = {reader.name: reader for reader in readers.readers}
        rates = {name: reader.rate for name, reader in named.items()}
        summary = Summary(1 / recognizer.fps, rates)
        header = partial(run_header, recognizer, rotate=options.rotate)
        files = file_sinks(paths, recognizer.classes, rates, watch, partial(header, names), drawing, options.script)
        if folder is not None:
            files.append(folder.sink(readers.readers, recognizer.classes, watch, header, drawing))
        absence = Absence(options.min_face)
        every: list[Sink] = [*files, summary, absence, *sinks]
        if window is not None:
            every.append(window)
        if options.metrics is not None:
            from ..web.metrics import Metrics, MetricsEndpoint

            metrics = Metrics(recognizer, readers.readers)
            tell(f"metrics: {stack.enter_context(MetricsEndpoint(options.metrics, metrics.text)).url}")
            every.append(metrics)
        if page is not None:
            from ..web.page import PageSink

            every.append(PageSink(page, watch.report, readers.readers))
        if console is not None:
            together_read = sum(reader.live for reader in readers.readers) + jobs
            few = len(names) <= together_read
            bars: ProgressBars | OverallBar
            bars = ProgressBars(console, readers.readers) if few else OverallBar(console, readers.readers)
            stack.enter_context(bars)
            every.append(bars)
        if len(names) > 1:
            give_back_large_blocks()
        at_once = LARGEST_BATCH if window is None and page is None else 1  # live views need even motion
        stopped, last = False, Interruption()
        with ExitStack() as finishing:
            try:
                with Sinks(every) as together:
                    try:
                        for step in recognizer.follow(readers, boxes, at_once):
                            rates[step.source] = named[step.source].rate  # unknown for files before they are opened
                            together.write(step)
                            if window is not None and window.closed:
                                stopped = True
                                break
                        last = finishing.enter_context(hold_back_interruption())
                    except KeyboardInterrupt:
                        stopped = True
            except KeyboardInterrupt as again:
                why = "stopped once more while the outputs were finished: some are missing or cut off"
                raise DferError(why) from again
        stopped |= last.happened
        if page is not None and not stopped and not all(source.live for source in opened):
            with suppress(KeyboardInterrupt):
                tell(f"all is read; {page.url} stays until Ctrl-C")
                page.wait()
    return RunResult(
        summary=summary,
        files=[*paths.describe(len(specs), before), *([] if folder is None else folder.describe(names, before))],
        timing=watch.report(),
        failures=readers.failures | {name: why for source in opened for name, why in source.unread.items()},
        dropped={one.name: one.dropped for one in readers.readers if one.dropped},
        skipped_share=recognizer.scheduler.skipped_share,
        stopped=stopped,
        absence="" if summary.predictions else absence.reason,
    )


def _check(options: RunOptions) -> None:
    """Raise DferError for invalid settings, as far as they can be checked before a source or model is open."""
    check_sampling(options.window, options.fps)
    check_smoothing(options.smooth, options.unsure, options.neutral_prior)
    check_least(vars(options))
    if options.realtime and options.jobs:
        raise ParameterError("jobs", "files that play as if live are all read at once; leave out --jobs or --realtime")
    if isinstance(options.classes, str | Path):
        ClassMap.read_names(Path(options.classes))
    if options.show:
        from ..outputs.window import Window

        Window.check()
    if options.web is not None:
        from ..web import WebPage

        WebPage.check(options.web, options.host, options.token)
    if options.metrics is not None:
        from ..web.metrics import MetricsEndpoint

        if options.metrics and options.metrics == options.web:
            raise ParameterError("metrics", f"port {options.metrics} is the live page's; name another")
        MetricsEndpoint.check(options.metrics)


def _check_idle(options: RunOptions, specs: Sequence[SourceSpec]) -> None:
    """Raise ParameterError for settings that would have no effect."""
    if options.web is None:
        check_unset(options, "is for the live page; name its port (web), or leave it out", "host", "token")
    if options.boxes is not None:
        check_unset(
            options, "is for the detector, which boxes replace; leave one of them out", "min_face", "detect_every"
        )
    if options.photos and not any(file.suffix.lower() in IMAGE_SUFFIXES for spec in specs for file in files_of(spec)):
        check_unset(options, "is for images, and no source is one; leave it out", "photos")


def _sampling_rate(bundle: str | Path | None) -> float:
    try:
        return Bundle.open(DEMO if bundle is None else bundle).manifest.fps
    except DferError:  # reported when the model is opened, after all that needs no model is checked
        return IMAGE_RATE


def _open_recognizer(options: RunOptions, live: int, warn: Report) -> Recognizer:
    """Open the recogniser. live: number of live sources, whose readers need processors, too."""
    return Recognizer(
        options.bundle,
        provider=options.provider,
        precision=options.precision,
        threads=options.threads or default_threads(live),
        window=options.window,
        fps=options.fps,
        max_faces=options.max_faces,
        min_face=options.min_face,
        detect_every=options.detect_every,
        smooth=options.smooth,
        classes=options.classes,
        neutral_prior=options.neutral_prior,
        unsure=options.unsure,
        warn=warn,
    )


def _warn_of_letters(classes: Sequence[str], drawn: Callable[[str], str], warn: Report) -> None:
    if lost := [name for name in classes if "?" in drawn(name.replace("?", ""))]:
        told = ", ".join(lost)
        warn(
            f"pictures, whose font lacks them, have ? for letters of {told}; rows have all; --classes gives other names"
        )


def _path(name: str | Path | None) -> Path | None:
    return None if name is None else Path(name)


def _origin(bundle: str | Path | None) -> str:
    if bundle is not None:
        return f"model: bundle {bundle}"
    return "model: the bundled demo bundle (a demonstration; name your own with --bundle or $DFER_BUNDLE)"

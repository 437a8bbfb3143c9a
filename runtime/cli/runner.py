"""One run, from options to result: everything that `dfer-run` does, also callable from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle import DEMO, Bundle
from ..engines import LARGEST_BATCH
from ..errors import DferError, ParameterError, check_unset
from ..faces.orientation import rotated
from ..labels import in_ascii
from ..machine import default_threads, give_back_large_blocks, physical_cores
from ..outputs.absence import Absence
from ..outputs.folder import OutputFolder
from ..outputs.summary import Summary
from ..outputs.tables import run_header
from ..outputs.timeline import drawable
from ..outputs.writer import Drawing, OutputPaths, Sink, Sinks, file_sinks, file_states
from ..recognizer import Recognizer
from ..sources import (
    IMAGE_RATE,
    Source,
    SourceReaders,
    SourceSpec,
    expand,
    is_photo,
    open_sources,
    tell_apart,
)
from .interruption import Interruption, hold_back_interruption
from .run_options import RunOptions, check_options

if TYPE_CHECKING:
    from rich.console import Console

    from ..outputs.window import Window
    from ..pipeline.stream import FaceProvider
    from ..predictions import Step
    from ..timing import StageTimes
    from ..web import WebPage

Report = Callable[[str], object]
"""Called with one line."""


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
    inputs = [Path(path) for path in (options.boxes, options.classes) if isinstance(path, str | Path)]
    paths.check(specs, inputs)
    folder = None if options.out_dir is None else OutputFolder(Path(options.out_dir))
    check_options(options, specs)
    with ExitStack() as stack:
        stack.enter_context(paths.reserved(len(specs)))
        sources = _open_sources(options, specs, stack, warn)
        if folder is not None:
            folder.prepare([source.name for source in sources], specs, inputs, paths.wanted(len(specs)))
            stack.enter_context(folder.reserved())
        boxes = _read_boxes(options, sources)
        live = sum(source.live or options.realtime for source in sources)
        recognizer = stack.enter_context(_open_recognizer(options, live, warn))
        _tell_model(options, recognizer, live, tell)
        _warn_of_letters(options, recognizer.classes, warn)
        page = _open_page(options, recognizer, stack, tell)
        # With out_dir, videos are encoded in parallel: more jobs only take memory (`benchmarks/batches.py`).
        jobs = options.jobs or (max(2, physical_cores()) if folder is None else max(1, physical_cores() // 2))
        readers = stack.enter_context(SourceReaders(sources, realtime=options.realtime, jobs=jobs))
        names = [reader.name for reader in readers.readers]
        of_each = [] if folder is None else [path for one in folder.paths(names) for path in one.wanted()]
        before = file_states([*paths.wanted(len(specs)), *of_each])
        watch = recognizer.stopwatch
        drawing = Drawing(watch, recognizer.window)
        window = None
        if options.show:
            from ..outputs.window import Window

            window = stack.enter_context(Window(names, drawing))
        rates = {reader.name: reader.rate for reader in readers.readers}
        summary, absence = Summary(1 / recognizer.fps, rates), Absence(options.min_face)
        header = partial(run_header, recognizer, rotate=options.rotate)
        every = file_sinks(paths, recognizer.classes, rates, watch, partial(header, names), drawing, options.script)
        if folder is not None:
            every.append(folder.sink(readers.readers, recognizer.classes, watch, header, drawing))
        every += [summary, absence, *sinks]
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
            from .progress import OverallBar, ProgressBars

            together_read = sum(reader.live for reader in readers.readers) + jobs
            few = len(names) <= together_read
            bars: ProgressBars | OverallBar
            bars = ProgressBars(console, readers.readers) if few else OverallBar(console, readers.readers)
            stack.enter_context(bars)
            every.append(bars)
        if len(names) > 1:
            give_back_large_blocks()
        at_once = LARGEST_BATCH if window is None and page is None else 1  # live views need even motion
        stopped = _write_steps(_note_rates(recognizer.follow(readers, boxes, at_once), readers, rates), every, window)
        if page is not None and not stopped and not all(source.live for source in sources):
            with suppress(KeyboardInterrupt):
                tell(f"all is read; {page.url} stays until Ctrl-C")
                page.wait()
    return RunResult(
        summary=summary,
        files=[*paths.describe(len(specs), before), *([] if folder is None else folder.describe(names, before))],
        timing=watch.report(),
        failures=readers.failures | {name: why for source in sources for name, why in source.unread.items()},
        dropped={one.name: one.dropped for one in readers.readers if one.dropped},
        skipped_share=recognizer.scheduler.skipped_share,
        stopped=stopped,
        absence="" if summary.predictions else absence.reason,
    )


def _note_rates(steps: Iterable[Step], readers: SourceReaders, rates: dict[str, float | None]) -> Iterator[Step]:
    """Yield the steps with the frame rate of their source in `rates`: a file's is unknown before it is opened."""
    named = {reader.name: reader for reader in readers.readers}
    for step in steps:
        rates[step.source] = named[step.source].rate
        yield step


def _write_steps(steps: Iterable[Step], sinks: Sequence[Sink], window: Window | None) -> bool:
    """Give all sinks every step until the end, Ctrl-C, or the window is closed, then finish them.

    Returns whether it was stopped. Raises DferError for a second Ctrl-C.
    """
    stopped, last = False, Interruption()
    with ExitStack() as finishing:
        try:
            with Sinks(sinks) as together:
                try:
                    for step in steps:
                        together.write(step)
                        if window is not None and window.closed:
                            stopped = True
                            break
                    last = finishing.enter_context(hold_back_interruption())
                except KeyboardInterrupt:
                    stopped = True
        except KeyboardInterrupt as again:
            raise DferError("stopped once more while the outputs were finished: some are missing or cut off") from again
    return stopped or last.happened


def _sampling_rate(bundle: str | Path | None) -> float:
    try:
        return Bundle.open(DEMO if bundle is None else bundle).manifest.fps
    except DferError:  # reported when the model is opened, after all that needs no model is checked
        return IMAGE_RATE


def _open_sources(options: RunOptions, specs: Sequence[SourceSpec], stack: ExitStack, warn: Report) -> list[Source]:
    """Open the sources, rotated where asked; `stack` closes them."""
    sources = open_sources(
        specs,
        options.fps or _sampling_rate(options.bundle),
        warn,
        size=options.size,
        fps=options.camera_fps,
        reconnect_tries=options.reconnect_tries,
        photos=options.photos,
        hwaccel=options.hwaccel,
    )
    for source in sources:
        stack.callback(source.close)
    if not any(source.live for source in sources):
        check_unset(options, "is for cameras, and no source is live; leave it out", "size", "camera_fps")
    drawn = options.video is not None or options.plot is not None  # else pictures are not read for this
    alone = options.photos is not False
    if drawn and all(one.photos or (alone and is_photo(spec)) for one, spec in zip(sources, specs, strict=True)):
        check_unset(options, "photographs have no times; --out-dir writes annotated pictures instead", "video", "plot")
    tell_apart(sources)
    return sources if options.rotate is None else [rotated(source, options.rotate, warn) for source in sources]


def _read_boxes(options: RunOptions, sources: Sequence[Source]) -> Sequence[FaceProvider] | None:
    if options.boxes is None:
        return None
    from ..faces.boxes import read_boxes

    return read_boxes(Path(options.boxes), [source.name for source in sources])


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


def _open_page(options: RunOptions, recognizer: Recognizer, stack: ExitStack, tell: Report) -> WebPage | None:
    """Serve the live page if asked to; `stack` closes it."""
    if options.web is None:
        return None
    from ..web import ServedModel, WebPage

    model = ServedModel(
        name=recognizer.bundle.name,
        method=recognizer.bundle.manifest.method,
        provider=recognizer.provider,
        precision=recognizer.precision,
        window=recognizer.window,
        demo=options.bundle is None,
    )
    page = stack.enter_context(WebPage(recognizer.classes, options.web, options.host, options.token, model))
    tell(f"live page: {page.url}")
    return page


def _tell_model(options: RunOptions, recognizer: Recognizer, live: int, tell: Report) -> None:
    tell(f"{_origin(options.bundle)}; provider: {recognizer.provider}; precision: {recognizer.precision}")
    if live and options.smooth is None:
        tell(f"live labels are smoothed over {recognizer.smoothing(live=True):g} s (--smooth 0 for none)")


def _warn_of_letters(options: RunOptions, classes: Sequence[str], warn: Report) -> None:
    """Warn of names of classes that the fonts of the wanted pictures cannot write."""
    drawn: Callable[[str], str]
    if options.video is not None or options.show or options.out_dir is not None:
        drawn = in_ascii
    elif options.plot is not None and Path(options.plot).suffix.lower() != ".html":
        drawn = drawable
    else:
        return
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

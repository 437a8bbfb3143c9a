"""A run: sources read to their end, results written and shown as they come, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..outputs.summary import Summary, predictions_table, stages_table
from ..outputs.tables import run_header
from ..outputs.writer import OutputPaths, Outputs
from ..predictions import Prediction

if TYPE_CHECKING:
    from ..faces.boxes import GivenBoxes
    from ..pipeline.smoothing import Smoother
    from ..predictions import Step
    from ..recognizer import Recognizer
    from ..sources import SourceReader, SourceReaders
    from ..web import WebPage


class Run:
    """What `dfer-run` does once everything is open.

    boxes: per source, where its faces are, in place of the detector. show: open a window. page: the web page that
    watches. keep: remember all predictions, for the table of a demo.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        smoother: Smoother,
        readers: SourceReaders,
        paths: OutputPaths,
        console: Console,
        *,
        boxes: Sequence[GivenBoxes] | None = None,
        show: bool = False,
        page: WebPage | None = None,
        keep: bool = False,
    ) -> None:
        self._recognizer, self._smoother, self._readers, self._paths = recognizer, smoother, readers, paths
        self._boxes = boxes
        self._console, self._show, self._page, self._keep = console, show, page, keep
        self._kept: list[Prediction] = []
        self.summary = Summary(step=1 / recognizer.fps, gap=smoother.gap)

    def read(self) -> Outputs:
        """Read to the end of all sources, to Ctrl-C, or until the window is closed. Raises DferError when one fails."""
        names = [reader.name for reader in self._readers.readers]
        watch = self._recognizer.stopwatch
        with ExitStack() as stack:
            window = None
            if self._show:
                from ..outputs.window import Window

                window = stack.enter_context(Window(names))
            rates = {reader.name: reader.rate for reader in self._readers.readers}
            header = run_header(self._recognizer, self._smoother.classes, names)
            outputs = Outputs(self._paths, self._smoother.classes, rates, watch, header=header, window=window)
            stack.enter_context(outputs)
            tell = stack.enter_context(_progress(self._console, self._readers.readers))
            try:
                for step in self._recognizer.follow(self._readers, self._boxes, self._smoother.refine):
                    outputs.write(step)
                    if self._page is not None:
                        self._page.show(step, watch.report, self._readers.readers)
                    for prediction in step.predictions:
                        self.summary.add(prediction)
                    if self._keep:
                        self._kept.extend(step.predictions)
                    tell(step)
                    if window is not None and window.closed:
                        break
            except KeyboardInterrupt:
                self._console.print("stopped")
        return outputs

    def report(self, outputs: Outputs) -> None:
        """Print what was found, how long it took, and which files there are now."""
        console, scheduler = self._console, self._recognizer.scheduler
        if self._kept:
            console.print(predictions_table(self._kept, every=1.0))
        console.print(self.summary.table() if self.summary.predictions else "no face was found")
        console.print(stages_table(self._recognizer.stopwatch))
        for reader in self._readers.readers:
            if reader.dropped:
                console.print(f"{reader.name}: {reader.dropped} frames came too soon and were dropped", markup=False)
        if scheduler.skipped:
            console.print(
                f"too much for this machine: {scheduler.skipped_share:.0%} of the live samples were left out, so faces "
                "were read less often; a lower --fps, --max-faces or a smaller model would fit"
            )
        for line in outputs.written():
            console.print(f"wrote {line}", soft_wrap=True, markup=False)

    def failures(self) -> Mapping[str, str]:
        """Of several sources, those that failed on the way, and why."""
        return {
            reader.name: reader.error for reader in self._readers.readers if reader.state == "failed" and reader.error
        }


@contextmanager
def _progress(console: Console, readers: tuple[SourceReader, ...]) -> Iterator[Callable[[Step], None]]:
    """A bar per source; gives the function to call after each step."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, tuple[SourceReader, TaskID]] = {}
        for reader in readers:
            name = escape(reader.name.rsplit("/", 1)[-1])
            tasks[reader.name] = reader, progress.add_task(f"reading {name}", total=reader.count, now="")

        def tell(step: Step) -> None:
            reader, task = tasks[step.source]
            if step.predictions:
                state = "" if reader.state == "running" else f"[{reader.state}]  "
                now = "  ".join(f"{p.track_id}: {p.label} {p.confidence:.0%}" for p in step.predictions)
                progress.update(task, now=escape(state + now))
            progress.advance(task)

        yield tell

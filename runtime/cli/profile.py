"""`dfer-profile`: measures each stage on this machine, and compares with an earlier report."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import DferError, ParameterError, reports_errors
from ..storage import atomic_write, check_writable
from .options import (
    bundle_option,
    command,
    precision_option,
    provider_option,
    tell_bundle,
    tell_warning,
    threads_option,
    version_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from ..profiling.comparison import Change
    from ..profiling.report import Measurement, Report
    from ..recognizer import Recognizer

EPILOG = """\b
Examples:
  dfer-profile                                         # the demo clip and model, one minute
  dfer-profile clip.mp4 --bundle align.dfer --html profile.html
  dfer-profile --scenario multi --provider openvino --json openvino.json
  dfer-profile --json new.json --compare old.json      # what changed, beyond noise

\b
Scenarios, encoder and head alone (MLPerf's words): single, one face after another, 90th percentile; multi, eight
faces per query, 99th percentile; offline, faces per second at the best batch. All stages are measured in each.

\b
Exit status: 0 done, 1 an input, output or value cannot be used, 2 a command line that cannot be understood,
3 --compare found a stage slower.
"""


@command(epilog=EPILOG)
@click.argument("source", required=False)
@bundle_option
@click.option("--scenario", type=click.Choice(("single", "multi", "offline")), default="single", show_default=True)
@click.option("--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True, help="How long, in all.")
@provider_option()
@precision_option
@threads_option
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report with every sample.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), help="Write the report as a page to look at.")
@click.option("--compare", "old_path", type=click.Path(path_type=Path), help="A --json report from before.")
@version_option
@reports_errors
def main(
    source: str | None,
    bundle: Path | None,
    scenario: str,
    seconds: float,
    provider: str,
    precision: str,
    threads: int | None,
    json_path: Path | None,
    html_path: Path | None,
    old_path: Path | None,
) -> None:
    """Measure every stage on SOURCE (a video, a folder of images, a URL; default: the demo clip, drawn now).

    Back to back and at the source's own rate; warm-up apart; nothing clipped.
    """
    import json
    import tempfile

    from rich.console import Console

    from ..outputs.writer import files_read
    from ..profiling.comparison import compare_reports, differences
    from ..profiling.html import render_page
    from ..profiling.profiler import check_source
    from ..profiling.report import read_report
    from ..recognizer import Recognizer

    if not math.isfinite(seconds):
        raise ParameterError("seconds", f"{seconds} is no time")
    for path in (json_path, html_path):
        if path is not None:
            check_writable(path, aside=True)
    outputs = [path for path in (json_path, html_path) if path is not None]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise DferError(f"two outputs have the name {html_path}")
    if source is not None:
        check_source(source)
        read = files_read([source], outputs)
        if taken := next((path for path in outputs if path.resolve() in read), None):
            raise DferError(f"{taken} is the source; name another output")
    old = None if old_path is None else read_report(old_path)
    console = Console(stderr=True, highlight=False)
    tell_bundle(console)

    warn = partial(tell_warning, console)
    with (
        Recognizer(bundle, provider=provider, precision=precision, threads=threads, warn=warn) as recognizer,
        tempfile.TemporaryDirectory(prefix="dfer-profile.") as folder,
    ):
        report = _measure(console, recognizer, source, Path(folder), scenario, seconds)
    changes, other = ([], []) if old is None else (compare_reports(old, report), differences(old, report))
    if old is not None and not changes:
        other.append("nothing was measured in both reports")
    _show(Console(highlight=False), report, changes, other)
    if json_path is not None:
        _write(json_path, json.dumps(report.to_json(), separators=(",", ":")) + "\n")
    if html_path is not None:
        _write(html_path, render_page(report, changes, other))
    for written in (json_path, html_path):
        if written is not None:
            console.print(f"wrote {written}", soft_wrap=True, markup=False)
    if any(change.verdict == "slower" for change in changes):
        raise click.exceptions.Exit(3)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _measure(
    console: Console, recognizer: Recognizer, source: str | None, scratch: Path, scenario: str, seconds: float
) -> Report:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from ..procedural.demo import film_demo
    from ..profiling.energy import find_sensors
    from ..profiling.profiler import Profiler

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("measuring", total=1.0)

        def told(done: float, what: str) -> None:
            bar.update(task, completed=done, description=what)

        if source is None:
            told(0.0, "drawing the demo clip")
            source = str(scratch / "demo.mp4")
            film_demo(Path(source))
        sensors, reasons = find_sensors()
        report = Profiler(recognizer, source, seconds, sensors, told).measure(scenario, reasons)
        told(1.0, "done")
    return report


def _show(console: Console, report: Report, changes: Sequence[Change], other: Sequence[str]) -> None:
    from rich.markup import escape

    from ..profiling.html import headlines

    for measured in report.measurements:
        console.print(_measurement_table(measured))
    console.print(_batch_table(report))
    for line in (*headlines(report), *report.notes):
        console.print(line, soft_wrap=True, markup=False)
    for line in other:
        console.print(f"[yellow]not the same:[/] {escape(line)}", soft_wrap=True)
    if changes:
        console.print(_change_table(changes))


def _measurement_table(measured: Measurement) -> Table:
    from rich.table import Table

    from ..profiling.report import stage_times

    unit = "frames" if measured.part == "pipeline" else "queries"
    dropped = f", {measured.dropped} dropped" if measured.dropped else ""
    table = Table(
        title=f"{measured.part}, {measured.arrival}: {measured.runs} {unit} in {measured.seconds:.1f} s, "
        f"{measured.rate:.1f}/s{dropped} (ms)"
    )
    table.add_column("stage")
    for heading in ("n", "mean", "p50", "p90", "p95", "p99", "max"):
        table.add_column(heading, justify="right")
    for samples, mark in ((measured.warm_up, " (warm-up)"), (measured.steady, "")):
        rows = stage_times(samples)
        for row in rows:
            figures = (row.mean, row.p50, row.p90, row.p95, row.p99, row.max)
            cells = [row.stage + mark, str(row.n), *(f"{figure:.2f}" for figure in figures)]
            table.add_row(*cells, style="dim" if mark else None, end_section=row is rows[-1])
    return table


def _batch_table(report: Report) -> Table:
    from rich.table import Table

    table = Table(title="encoder by batch")
    for heading in ("faces", "n", "p50 (ms)", "p90 (ms)", "faces/s"):
        table.add_column(heading, justify="right")
    for batch in report.batches:
        figures = f"{batch.p50:.2f}", f"{batch.p90:.2f}", f"{batch.faces_per_second:.1f}"
        table.add_row(str(batch.size), str(batch.n), *figures)
    return table


def _change_table(changes: Sequence[Change]) -> Table:
    from rich.table import Table

    colours = {"slower": "red", "faster": "green", "unclear": "yellow", "same": "dim"}
    table = Table(title="against the report before (ms; interval of 99 %)")
    for heading in ("measured", "stage", "", "before", "now", "factor", "interval", "verdict"):
        table.add_column(heading, justify="right" if heading in ("before", "now", "factor") else "left")
    for change in changes:
        table.add_row(*change.cells(), style=colours[change.verdict])
    return table

"""The report of `dfer-profile` as an HTML page: one file, no script, no external resources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from ..timing import StageTimes
from .comparison import Change
from .profiler import TARGETS
from .report import Batch, Measurement, Report, stage_times

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --soft: #667085; --line: #d9dde4; --paper: #fff; --box: #f5f6f8;
  --bar: #3b6fd4; --late: #f2a33c; --worst: #d8453e; --good: #2f8f4e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --soft: #9aa3b2; --line: #343a45; --paper: #14171c;
  --box: #1d2128; --bar: #6d9bf1; --late: #f2b45f; --worst: #ef6b64; --good: #5cc07c; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2.2rem 0 .5rem }
.soft { color: var(--soft) } .figures { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0 }
.figure { background: var(--box); border-radius: 8px; padding: .7rem 1rem; flex: 1 1 10rem }
.figure b { display: block; font-size: 1.5rem; font-weight: 600 } .figure span { color: var(--soft); font-size: .85rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { text-align: right; padding: .2rem .5rem; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left } th { color: var(--soft); font-weight: 500 }
svg { width: 100%; height: auto; display: block } text { fill: var(--ink); font: 12px system-ui, sans-serif }
text.soft { fill: var(--soft) } .p50 { fill: var(--bar) } .p90 { fill: var(--bar); opacity: .45 }
.p99 { fill: var(--late); opacity: .6 } .max { stroke: var(--worst); stroke-width: 2 }
.grid { stroke: var(--line) } .slower { color: var(--worst) } .faster { color: var(--good) }
.same, .unclear { color: var(--soft) } details { margin: .5rem 0 } summary { cursor: pointer; color: var(--soft) }
.scroll { overflow-x: auto }
"""

_WIDTH, _LABEL, _ROW = 900, 80, 26  # of charts, pixels


def headlines(report: Report) -> list[str]:
    """Return the most important figures, a sentence each."""
    lines = [f"{name}: {value} ({about})" if about else f"{name}: {value}" for name, value, about in _figures(report)]
    lines.append("memory: " + ", ".join(f"{name} {value:.0f} MB" for name, value in report.memory.items()))
    return lines


def render_page(report: Report, changes: Sequence[Change] = (), other: Sequence[str] = ()) -> str:
    """Return the page as HTML. changes, other: against an older report, if any."""
    setup = report.setup
    title = f"{setup['provider']} {setup['precision']} on {report.machine['board'] or report.machine['cpu']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_subtitle(report))}</p>',
        '<div class="figures">',
        *(
            f'<div class="figure"><b>{escape(value)}</b>{escape(name)}<br><span>{escape(about)}</span></div>'
            for name, value, about in _figures(report)
        ),
        "</div>",
        *(_changes(changes, other) if changes or other else ()),
        *(part for measured in report.measurements for part in _section(measured)),
        "<h2>Encoder by batch</h2>",
        _batches(report.batches),
        "<h2>Machine and set-up</h2>",
        _facts({**report.machine, **_set_up(setup), **report.versions, **_memory(report)}),
        *(f'<p class="soft">{escape(note)}</p>' for note in report.notes),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>dfer-profile: {escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _subtitle(report: Report) -> str:
    setup = report.setup
    width, height = setup["frame"]
    return (
        f"dfer-profile, {report.created}; {setup['source']} ({width}×{height}), "
        f"{setup['threads']} thread{'s' * (setup['threads'] != 1)}, bundle {setup['bundle_sha256'][:12]}"
    )


def _figures(report: Report) -> list[tuple[str, str, str]]:
    """Return name, value and explanation of the scenario's figures, the pipeline's rate, and energy."""
    scenario, size = report.setup["scenario"], report.setup["samples_per_query"]
    found = []
    for measured in report.measurements:
        if measured.part == "query" and scenario in TARGETS and measured.steady.get("total"):
            share = TARGETS[scenario]
            (row,) = [row for row in stage_times(measured.steady) if row.stage == "total"]
            figure = row.p90 if share == 90 else row.p99
            what = "one face" if size == 1 else f"{size} faces"
            found.append((f"{scenario}, {measured.arrival}", f"{figure:.2f} ms", f"encoder and head, {what}, p{share}"))
        elif measured.part == "query" and scenario in TARGETS:
            found.append((f"{scenario}, {measured.arrival}", "not measured", "no query came in this time"))
        elif measured.part == "query":
            found.append((scenario, f"{measured.rate * size:.0f} faces/s", f"encoder and head, {size} at once"))
        else:
            busy = measured.busy / measured.seconds if measured.seconds else 0.0
            found.append(
                (f"pipeline, {measured.arrival}", f"{measured.rate:.0f} frames/s", f"{busy:.1f} processors busy")
            )
        if (joules := measured.joules_per_prediction) is not None:
            found.append(
                (
                    f"energy, {measured.part}, {measured.arrival}",
                    f"{joules:.3g} J",
                    "per prediction, all that is measured",
                )
            )
    return found


def _section(measured: Measurement) -> Iterable[str]:
    rows = stage_times(measured.steady)
    unit = "frames" if measured.part == "pipeline" else "queries"
    yield f"<h2>{escape(measured.part.capitalize())}, {escape(measured.arrival)}</h2>"
    dropped = f", {measured.dropped} dropped" if measured.dropped else ""
    rate = f"{measured.rate:.1f} per second{dropped}"
    yield f'<p class="soft">{measured.runs} {unit} in {measured.seconds:.1f} s, {rate}</p>'
    if rows:
        yield _bars(rows)
        yield '<p class="soft">Bars to the median, the 90th and the 99th percentile; the red stroke is the maximum.</p>'
        yield _table(rows)
    warm_up = _table(stage_times(measured.warm_up))
    yield f"<details><summary>warm-up, counted in nothing above</summary>{warm_up}</details>"


def _bars(rows: Sequence[StageTimes]) -> str:
    """Return a bar per stage: to the median, the 90th and 99th percentile; a stroke at the maximum. The axis ends at
    the largest 99th percentile; a maximum beyond it is drawn at the end with its value."""
    end = max(row.p99 for row in rows) or 1.0
    scale = (_WIDTH - _LABEL - 90) / end
    height = _ROW * len(rows) + 30
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="latency per stage">']
    for tick in _ticks(end):
        x = _LABEL + tick * scale
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - 22}"/>')
        parts.append(f'<text class="soft" x="{x:.1f}" y="{height - 6}" text-anchor="middle">{tick:g} ms</text>')
    for number, row in enumerate(rows):
        y = _ROW * number + 4
        parts.append(f'<text x="0" y="{y + 13}">{escape(row.stage)}</text>')
        for name, start, stop in (("p50", 0, row.p50), ("p90", row.p50, row.p90), ("p99", row.p90, row.p99)):
            x, width = _LABEL + start * scale, max(0.0, (stop - start) * scale)
            parts.append(
                f'<rect class="{name}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 10}">'
                f"<title>{row.stage} {name}: {stop:.2f} ms</title></rect>"
            )
        x = _LABEL + min(row.max, end) * scale
        parts.append(f'<line class="max" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + _ROW - 10}"/>')
        beyond = "→ " if row.max > end else ""
        parts.append(f'<text class="soft" x="{x + 6:.1f}" y="{y + 13}">{beyond}max {row.max:.1f}</text>')
    return "".join([*parts, "</svg>"])


def _ticks(end: float) -> list[float]:
    """Return four to nine round values from 0 to `end`."""
    step = 10.0 ** (len(f"{end:.0f}") - 1) if end >= 1 else 0.1
    while end / step < 4:
        step /= 2
    return [round(step * number, 6) for number in range(int(end / step) + 1)]


def _table(rows: Sequence[StageTimes]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("ms", "n", "mean", "p50", "p90", "p95", "p99", "max"))
    lines = [
        f"<tr><td>{escape(row.stage)}</td><td>{row.n}</td>"
        + "".join(f"<td>{value:.2f}</td>" for value in (row.mean, row.p50, row.p90, row.p95, row.p99, row.max))
        + "</tr>"
        for row in rows
    ]
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _batches(batches: Sequence[Batch]) -> str:
    """Return throughput as bars, each with the time of a run."""
    most = max(batch.faces_per_second for batch in batches)
    height = _ROW * len(batches)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="encoder by batch">']
    for number, batch in enumerate(batches):
        y, width = _ROW * number + 4, (_WIDTH - _LABEL - 330) * batch.faces_per_second / most
        words = f"{batch.faces_per_second:.0f} faces/s; {batch.p50:.2f} ms a run (p90 {batch.p90:.2f}, n {batch.n})"
        parts.append(f'<text x="0" y="{y + 13}">{batch.size}</text>')
        parts.append(f'<rect class="p50" x="{_LABEL}" y="{y}" width="{width:.1f}" height="{_ROW - 10}"/>')
        parts.append(f'<text class="soft" x="{_LABEL + width + 8:.1f}" y="{y + 13}">{words}</text>')
    return "".join([*parts, "</svg>"])


def _changes(changes: Sequence[Change], other: Sequence[str]) -> Iterable[str]:
    yield "<h2>Against the report before</h2>"
    for line in other:
        yield f'<p class="unclear">not the same: {escape(line)}</p>'
    if not changes:
        return
    head = ("measured", "stage", "", "before, ms", "now, ms", "factor", "99 % interval", "verdict")
    yield '<div class="scroll"><table><tr>' + "".join(f"<th>{name}</th>" for name in head) + "</tr>"
    for change in changes:
        yield (
            f'<tr class="{change.verdict}">' + "".join(f"<td>{escape(cell)}</td>" for cell in change.cells()) + "</tr>"
        )
    yield "</table></div>"


def _set_up(setup: Mapping[str, object]) -> dict[str, object]:
    """Return the set-up with the engine's threads told from the machine's."""
    return {"engine threads" if name == "threads" else name: value for name, value in setup.items()}


def _memory(report: Report) -> dict[str, str]:
    return {f"memory {name}": f"{value:.0f} MB" for name, value in report.memory.items()}


def _facts(values: Mapping[str, object]) -> str:
    rows = []
    for name, value in values.items():
        if value not in (None, (), []):
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append(f"<tr><td>{escape(name)}</td><td>{escape(shown)}</td></tr>")
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'

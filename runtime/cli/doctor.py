"""`dfer-doctor`: a page about what works on this machine and what to install."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import reports_errors
from .options import command, version_option

if TYPE_CHECKING:
    from rich.table import Table

    from .diagnosis import Examination

EPILOG = """\b
Examples:
  dfer-doctor
  dfer-doctor --bundle align.dfer
  dfer-doctor --json > machine.json

\b
Exit status: 0 bundle and CPU provider work, 1 one of them does not, 2 a command line that cannot be understood.
"""

_MARKS = {"works": ("✓", "green"), "fact": ("·", ""), "absent": ("–", "dim"), "broken": ("✗", "red")}


@command(epilog=EPILOG)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    envvar="DFER_BUNDLE",
    help="Model to check; default: $DFER_BUNDLE, else the demo bundle.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@version_option
@reports_errors
def main(bundle: Path | None, as_json: bool) -> None:
    """Look at this machine: providers, GPU, OpenCV, cameras, the bundle, and what would make it faster."""
    import json
    from dataclasses import asdict

    from rich.console import Console

    from .diagnosis import examine

    with Console(stderr=True).status("trying providers"):
        found = examine(bundle)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        console = Console(highlight=False)
        console.print(_page(found))
        for number, line in enumerate(found.advice, 1):
            console.print(f"[bold]for more speed {number}.[/] ", end="")
            console.print(line, soft_wrap=True, markup=False)
        if not found.advice:
            console.print("nothing to install for more speed: what suits this machine is here")
    if not found.healthy:
        raise click.exceptions.Exit(1)


def _page(found: Examination) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(4):
        table.add_column(overflow="fold")
    section = ""
    for finding in found.findings:
        mark, colour = _MARKS[finding.state]
        if section and finding.section != section:
            table.add_row()
        heading = f"[bold]{finding.section}[/]" if finding.section != section else ""
        section = finding.section
        table.add_row(heading, mark, escape(finding.name), escape(finding.text), style=colour)
    return table

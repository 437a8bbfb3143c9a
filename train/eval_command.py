"""`dfer-eval`: WAR, UAR and the confusion matrix of a checkpoint or a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..runtime.errors import reports_errors
from .metrics import Scores

if TYPE_CHECKING:
    from rich.console import Console

EPILOG = """\b
Examples:
  dfer-eval align.pt                                 # held-out procedural people
  dfer-eval align.pt --shuffle-frames                # the same without time's order
  dfer-eval align.dfer --stills labels.csv           # the exported bundle on photographs, split val
"""


@click.command(epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--stills", type=click.Path(path_type=Path), help="Test on a CSV of image,label,person,split.")
@click.option("--split", default="val", show_default=True, help="Which rows of --stills.")
@click.option("--identities", default=40, show_default=True, help="Held-out procedural people; 7 clips each.")
@click.option("--shuffle-frames", is_flag=True, help="Put each clip's frames in random order first.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Also write here.")
@click.option("--workers", default=2, show_default=True, help="Processes that draw faces.")
@reports_errors
def main(
    model: Path,
    stills: Path | None,
    split: str,
    identities: int,
    shuffle_frames: bool,
    json_path: Path | None,
    workers: int,
) -> None:
    """Score MODEL, a checkpoint (.pt) or a bundle (.dfer), on procedural people it has never seen, or on stills."""
    from rich.console import Console
    from rich.progress import Progress

    from .data import ClipSet
    from .data.procedural import HELD_OUT, ProceduralClips
    from .data.stills import StillClips
    from .evaluation import evaluate, open_model

    console = Console()
    classify, size, classes = open_model(model)
    clips: ClipSet
    with Progress(console=console) as progress:
        if stills is not None:
            clips, name = StillClips(stills, split), f"{stills.name}, split {split}"
        else:
            drawing = progress.add_task("drawing faces", total=identities)
            people = range(HELD_OUT, HELD_OUT + identities)
            clips = ProceduralClips(people, workers, lambda done: progress.update(drawing, completed=done))
            name = f"{identities} procedural people not trained on"
        testing = progress.add_task("testing", total=len(clips))
        scores = evaluate(classify, size, classes, clips, shuffle_frames, lambda n: progress.advance(testing, n))
    title = f"{model.name} on {name}" + (", frames shuffled" if shuffle_frames else "")
    _show(console, scores, title)
    if json_path is not None:
        values = {
            "data": name,
            "shuffled": shuffle_frames,
            "clips": int(scores.support.sum()),
            "war": scores.war,
            "uar": scores.uar(),
            "uar_min10": scores.uar(10),
            "classes": list(scores.classes),
            "confusion": scores.confusion.tolist(),
        }
        json_path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _show(console: Console, scores: Scores, title: str) -> None:
    from rich.table import Table

    table = Table(title=f"{title}: rows true, columns predicted")
    table.add_column("")
    for name in scores.classes:
        table.add_column(name[:5], justify="right")
    table.add_column("recall", justify="right")
    for name, row, recall, support in zip(
        scores.classes, scores.confusion, scores.recalls, scores.support, strict=True
    ):
        table.add_row(name, *(str(count) for count in row), f"{recall:.3f}" if support else "–")
    console.print(table)
    few = [name for name, n in zip(scores.classes, scores.support, strict=True) if n < 10]
    line = f"clips {scores.support.sum()}   WAR {scores.war:.4f}   UAR {scores.uar():.4f}"
    if few:
        line += f"   UAR of classes with ≥ 10 clips {scores.uar(10):.4f} (fewer: {', '.join(few)})"
    console.print(line)

"""`dfer-pretrain`: teach a small CLIP faces, so that it can be frozen."""

from __future__ import annotations

from pathlib import Path

import click

from ...runtime.cli.options import version_option
from ...runtime.errors import ParameterError, reports_errors, require
from ...runtime.labels import EXPRESSIONS
from .options import (
    balance_option,
    batch_option,
    clip_option,
    identities_option,
    seed_option,
    stills_option,
    stills_share_option,
    workers_option,
)

EPILOG = """\b
Examples:
  dfer-pretrain faces.pt                              # procedural faces only
  dfer-pretrain faces.pt --stills labels.csv --grey   # and photographs (CSV: image,label,person,split)
  dfer-train align.pt --clip dfer-small --pretrained faces.pt
"""


@click.command(epilog=EPILOG)
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@clip_option("The model to teach: dfer-small, or dfer-nano for tests.")
@stills_option("Teach it photographs as well: CSV with the columns image,label,person,split.")
@stills_share_option(0.7)
@identities_option(200)
@click.option(
    "--steps", type=click.IntRange(min=10), default=6000, show_default=True, help="How many batches to train on."
)
@batch_option("Images in a training step.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=2e-3,
    show_default=True,
    help="Peak learning rate (AdamW).",
)
@balance_option(0.6)
@click.option(
    "--affine",
    type=click.FloatRange(0, 2),
    default=1.0,
    show_default=True,
    help="How much crops are moved, turned and scaled; less is learned sooner and holds for fewer faces.",
)
@click.option("--grey", is_flag=True, help="Let the model see luma only (photographs in the stills are grey).")
@seed_option()
@workers_option("Processes that draw procedural people.")
@version_option
@reports_errors
def main(
    out: Path,
    clip: str,
    stills: Path | None,
    stills_share: float,
    identities: int,
    steps: int,
    batch: int,
    learning_rate: float,
    balance: float,
    affine: float,
    grey: bool,
    seed: int,
    workers: int,
) -> None:
    """Teach the CLIP model named by --clip expressions on single faces and write its weights to OUT."""
    if not out.parent.is_dir():
        raise ParameterError("out", f"folder {out.parent} does not exist")
    for module in ("torch", "open_clip"):
        require(module, "train")
    import torch
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    from ..data.procedural import HELD_OUT, ProceduralClips
    from ..data.stills import StillClips
    from ..metrics import Scores
    from ..models.clip import load_clip, save_weights
    from ..pretraining import Images, PretrainSettings, classify, pretrain

    console = Console()
    torch.manual_seed(seed)
    model = load_clip(clip, grey=grey)
    sources: list[tuple[Images, float]] = []
    tests: dict[str, Images] = {}
    if stills is not None:
        sources.append((Images.of_stills(StillClips(stills, "train")), stills_share))
        tests["stills, split val"] = Images.of_stills(StillClips(stills, "val"))
    with Progress(*Progress.get_default_columns(), TextColumn("{task.fields[note]}"), console=console) as progress:
        held_out = max(2, identities // 10)
        drawing = progress.add_task("drawing faces", total=identities + held_out, note="")
        drawn = Images.of_procedural(ProceduralClips(range(identities), workers, lambda _: progress.advance(drawing)))
        sources.append((drawn, 1 - stills_share if stills else 1.0))
        people = range(HELD_OUT, HELD_OUT + held_out)
        tests["procedural, held-out people"] = Images.of_procedural(
            ProceduralClips(people, workers, lambda _: progress.advance(drawing))
        )
        training = progress.add_task("pre-training", total=steps, note="")
        mean_loss = 0.0

        def show(step: int, loss: float) -> None:
            nonlocal mean_loss
            mean_loss = loss if step == 1 else 0.99 * mean_loss + 0.01 * loss
            progress.update(training, completed=step, note=f"loss {mean_loss:.3f}")

        settings = PretrainSettings(
            steps=steps, batch=batch, learning_rate=learning_rate, balance=balance, affine=affine, seed=seed
        )
        pretrain(model, sources, settings, show)
    save_weights(model, out)
    for name, images in tests.items():
        probabilities = classify(model, images)
        scores = Scores.of(EXPRESSIONS, images.targets.argmax(axis=1), probabilities)
        console.print(
            f"{name}: {len(probabilities)} images, accuracy {images.accuracy(probabilities):.3f}, "
            f"UAR over classes with 10 or more images {scores.uar(10):.3f}, "
            f"calibration error {scores.calibration_error:.3f}"
        )
    console.print(f"wrote {out}")

"""`dfer-pretrain`: train a small CLIP on faces, so that it can be frozen."""

from __future__ import annotations

from functools import partial
from itertools import accumulate
from math import isnan
from pathlib import Path

import click

from ...runtime.cli.options import command, version_option
from ...runtime.errors import ParameterError, explains_interruption, reports_errors, require
from ...runtime.labels import EXPRESSIONS
from ..options import check_out
from .options import (
    balance_option,
    batch_option,
    clip_option,
    identities_option,
    seed_option,
    workers_option,
)

EPILOG = """\b
Examples:
  dfer-pretrain faces.pt                                        # procedural faces only
  dfer-pretrain faces.pt --stills labels.csv --grey --compile   # and photographs (CSV: image,split, votes or label)
  dfer-pretrain better.pt --stills labels.csv --grey --teacher faces.pt
  dfer-pretrain large.pt --clip dfer-large --stills labels.csv --grey
  dfer-pretrain mine.pt --pretrained demo --teacher large.pt --teacher-clip dfer-large --stills labels.csv --grey
  dfer-train align.pt --clip dfer-small --pretrained faces.pt
"""

STILLS_SHARE = 0.7


@command(epilog=EPILOG)
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@clip_option(
    "The model to teach: dfer-small, dfer-large as a teacher, the transformer dfer-vit, or dfer-nano for tests."
)
@click.option(
    "--stills",
    type=click.Path(path_type=Path),
    metavar="CSV",
    multiple=True,
    help="Teach it photographs as well: a table with the columns image, split, and label or votes per class, of the "
    "seven expressions, as dfer-prepare --photos writes it. It learns from split train and is tested on split val, or "
    "on test where there is no val. Repeatable.",
)
@click.option(
    "--stills-share",
    type=click.FloatRange(0, 1, min_open=True),
    multiple=True,
    help=f"Share of each batch that is drawn from --stills, for each of them; procedural faces fill the rest. Default "
    f"{STILLS_SHARE} for one table.",
)
@identities_option(200)
@click.option(
    "--steps",
    type=click.IntRange(min=10),
    default=7000,
    show_default=True,
    help="How many batches to train on.",
)
@batch_option("Images in a training step.", default=128)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=2e-3,
    show_default=True,
    help="Peak learning rate (AdamW).",
)
@balance_option(0.5)
@click.option("--grey", is_flag=True, help="Let the model see luma only (photographs in the stills are grey).")
@click.option(
    "--pretrained",
    help="Weights to begin with, in place of random ones: demo for the demo model's, or a file of this command.",
)
@click.option(
    "--teacher",
    help="Weights that --pretrained of dfer-train takes: half of what is learned is then what they say of each image.",
)
@click.option("--teacher-clip", metavar="NAME", help="The CLIP that --teacher's weights are of.  [default: as --clip]")
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Compile the model first: takes a minute and makes steps a third faster; needs a C++ compiler.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run of the same options.")
@seed_option()
@workers_option("Processes that draw procedural people.")
@version_option
@reports_errors
@explains_interruption("the same command with --resume goes on from the last step that was saved")
def main(
    out: Path,
    clip: str,
    stills: tuple[Path, ...],
    stills_share: tuple[float, ...],
    identities: int,
    steps: int,
    batch: int,
    learning_rate: float,
    balance: float,
    grey: bool,
    pretrained: str | None,
    teacher: str | None,
    teacher_clip: str | None,
    compiled: bool,
    resume: bool,
    seed: int,
    workers: int,
) -> None:
    """Teach the CLIP model named by --clip expressions on single faces and write its weights to OUT.

    OUT is a file of PyTorch, or a small one in half precision where its name ends in .safetensors. Until the run is
    done a file beside it holds what --resume needs: faces.state for faces.pt.
    """
    check_out(out, ".safetensors")
    shares = stills_share or (STILLS_SHARE,) * (len(stills) == 1)
    photographs = round(sum(shares), 9)  # in floats, 0.33 + 0.56 + 0.11 is more than 1, 0.7 + 0.2 + 0.1 less
    if len(shares) != len(stills) or photographs > 1:
        raise ParameterError("stills_share", "give as many as --stills, which together are at most 1")
    if teacher_clip is not None and teacher is None:
        raise ParameterError("teacher_clip", "is the kind of --teacher, which is not given")
    for module in ("torch", "open_clip"):
        require(module, "train")
    import torch
    from rich.console import Console

    from ..data.images import Images
    from ..data.procedural import HELD_OUT, ProceduralClips
    from ..data.stills import StillClips, split_to_test
    from ..epoch_log import progress_bars, tell_anew, tell_warning
    from ..metrics import Scores
    from ..models.clip import load_clip, save_weights
    from ..pretraining import Pretraining, PretrainSettings, classify, description_tokens

    console = Console()
    warn, state = partial(tell_warning, console), out.with_suffix(".state")
    if resume and out.is_file() and not state.is_file():
        console.print(f"{out} is finished; there is nothing to resume", soft_wrap=True, markup=False)
        return
    if not resume:
        tell_anew(console, out)
    torch.manual_seed(seed)
    model = load_clip(clip, pretrained, grey)
    if grey and not model.preprocessing.grey:
        raise ParameterError("grey", f"the model of {pretrained} sees colour, and goes on doing so; leave this out")
    taught = None if teacher is None else load_clip(teacher_clip or clip, teacher, grey)
    sources: list[tuple[Images, float]] = []
    tests: dict[str, Images] = {}
    with progress_bars(console) as progress:
        held_out = max(2, identities // 10)
        reading = progress.add_task("reading photographs", total=len(stills), note="", visible=bool(stills))
        for table, share in zip(stills, shares, strict=True):
            sources.append((Images.of_stills(StillClips(table, "train", warn=warn)), share))
            split = split_to_test(table)  # only reported, never selected on
            tests[f"{table.name}, split {split}"] = Images.of_stills(StillClips(table, split, warn=warn))
            progress.advance(reading)
        drawing = progress.add_task("drawing faces", total=identities + held_out, note="")
        if photographs < 1:
            drawn = ProceduralClips(range(identities), workers, lambda _: progress.advance(drawing))
            sources.append((Images.of_procedural(drawn), 1 - photographs))
        people = range(HELD_OUT, HELD_OUT + held_out)
        tests["procedural, held-out people"] = Images.of_procedural(
            ProceduralClips(people, workers, lambda _: progress.advance(drawing))
        )
        settings = PretrainSettings(steps=steps, batch=batch, learning_rate=learning_rate, balance=balance, seed=seed)
        run = Pretraining(model, sources, settings, taught, state, compiled)
        # In pixels rather than steps, because image sizes grow: the time left is then right from the start.
        work = list(accumulate(run.size(step) ** 2 for step in range(1, steps + 1)))
        training = progress.add_task("pre-training", total=work[-1], note="")
        mean_loss = 0.0

        def show(step: int, loss: float) -> None:
            nonlocal mean_loss
            mean_loss = loss if mean_loss == 0 else 0.99 * mean_loss + 0.01 * loss
            note = f"step {step} of {steps}, loss {mean_loss:.3f}"
            progress.update(training, completed=work[step - 1], note=note)

        run.run(resume, show)
    save_weights(model, out, description_tokens(model))
    state.unlink(missing_ok=True)
    for name, images in tests.items():
        probabilities = classify(model, images)
        scores = Scores.of(EXPRESSIONS, images.labels, probabilities)
        uar = scores.uar(10)
        console.print(
            f"{name}: {len(probabilities)} images, WAR {scores.war:.3f} "
            f"({images.accuracy(probabilities):.3f} where classes that tie are all right), "
            f"{'' if isnan(uar) else f'UAR over classes with 10 or more images {uar:.3f}, '}"
            f"calibration error {scores.calibration_error:.3f}",
            markup=False,
        )
    console.print(f"wrote {out}", markup=False)

"""`dfer-distill`: distil a trained model's image tower into a small one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...runtime.cli.options import command, version_option
from ...runtime.errors import explains_interruption, reports_errors, require
from ..data.choice import DataChoice
from ..distillation.options import DistillOptions
from .options import (
    balance_option,
    batch_option,
    data_options,
    published_option,
    seed_option,
    stills_option,
    stills_share_option,
)

if TYPE_CHECKING:
    from ..distillation.run import DistillResult

EPILOG = """\b
Examples:
  dfer-prepare films/ faces/ && dfer-distill align.pt small.pt --tower mobilenetv4_conv_small --faces faces/
  dfer-distill align.pt small.pt --tower dfer_resnet_small --faces labels.csv   # photographs of dfer-prepare --photos
  dfer-distill align.pt small.pt --tower resnet18 --faces drawn --data folder --root faces/   # and tune the head
  dfer-distill align.pt vit.pt --tower deit_tiny_patch16_224 --image-size 112 --faces faces/
  dfer-distill small.pt tiny.pt --tower dfer_resnet_tiny --faces faces/         # a student teaches as well
  dfer-distill DFER-CLIP.pth small.pt --method dfer-clip --tower resnet18 --faces faces/   # of DFER-CLIP's authors
  dfer-distill align.pt small.pt …the same… --resume                            # after an interruption
  dfer-export --ckpt small.pt --int8 --calib faces/

\b
Exit status: 0 done, 1 something cannot be used or the run was stopped, 2 a command line that cannot be understood.
"""


@command(epilog=EPILOG)
@click.argument("teacher", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("out", metavar="STUDENT", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--tower",
    required=True,
    metavar="NAME",
    help="The student's image tower: any model of timm, or dfer_resnet_small, dfer_resnet_tiny or dfer_resnet_nano. It "
    "starts from random weights, or, if all of its layers are among those of the teacher's tower, from theirs.",
)
@click.option(
    "--faces",
    required=True,
    metavar="FOLDER|CSV|drawn",
    help="Faces to learn from, without labels: a folder that dfer-prepare wrote, or of other aligned crops (of train/, "
    "val/ and test/ in it, only train/); a table with a column image (rows of other splits than train are left out); "
    "or drawn, for procedural people, others than those of --data.",
)
@published_option()
@click.option(
    "--image-size",
    type=click.IntRange(32, 512),
    show_default="as the teacher's crops",
    help="Side of the face crops that the student reads, in pixels.",
)
@click.option(
    "--views",
    type=click.IntRange(min=0),
    default=DistillOptions.views,
    show_default=True,
    help="Augmented views of each face whose features the teacher computes once, beside the plain one.",
)
@click.option(
    "--held-back",
    type=click.FloatRange(0.01, 0.5),
    default=DistillOptions.held_back,
    show_default=True,
    help="Share of the faces that is not learned from; cosine and agreement with the teacher are measured there.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=DistillOptions.epochs,
    show_default=True,
    help="How often the tower sees as many views as there are faces.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=DistillOptions.learning_rate,
    show_default=True,
    help="Peak learning rate of the tower (AdamW).",
)
@batch_option("Views in a training step, over all processes together.", default=DistillOptions.batch)
@balance_option(DistillOptions.balance)
@click.option(
    "--features", type=click.Path(path_type=Path), help="Folder of stored features. Default: features/ beside STUDENT."
)
@click.option(
    "--tune-head/--no-tune-head",
    default=True,
    show_default=True,
    help="With clips of --data, tune the head on the student's features afterwards: the temporal part (JAS) and the "
    "class matrix (what MAT came to).",
)
@click.option(
    "--tune-epochs",
    type=click.IntRange(min=1),
    default=DistillOptions.tune_epochs,
    show_default=True,
    help="Epochs over the clips of --data for which the head is tuned.",
)
@data_options(identities=DistillOptions.identities, optional=True)
@stills_option("Tune the head on photographs as well: CSV with the columns image,label,person,split.")
@stills_share_option(DistillOptions.stills_share)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default=DistillOptions.precision,
    show_default=True,
    help="Number format of the forward passes; auto: half on a GPU, fp32 on a CPU.",
)
@click.option(
    "--tensorboard", type=click.Path(path_type=Path), help="Also write curves for TensorBoard to this folder."
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run of the same options.")
@seed_option()
@version_option
@reports_errors
@explains_interruption("the same command with --resume goes on from the last whole epoch")
def main(data: DataChoice, **options: Any) -> None:
    """Teach a small image tower the frame features of the trained model TEACHER, and write the checkpoint STUDENT.

    Faces need no labels. The temporal part and the class matrix are the teacher's. With labelled clips (--data, as for
    dfer-train) teacher and student are compared on a part of them that is held back, and the head is tuned on the rest;
    of clips that the teacher learned from, that part is the one that it was not trained on. Batches are balanced by
    what the teacher takes faces for.

    STUDENT is a checkpoint as dfer-train writes them, without a text side. Beside small.pt, say, come a line of JSON
    per epoch (small.jsonl; in the step "distillation", WAR is the agreement with the teacher and UAR its mean over
    classes), of a tuned head small.step-tuning.pt and small.last.pt as of dfer-train, and, until the run is done, what
    --resume needs (small.state, small.tuning.state).
    """
    data.check()
    for module in ("torch", "open_clip"):
        require(module, "train")
    from rich.console import Console

    from ..distillation.run import distill

    labelled = None if data.data == "none" else data
    console = Console(soft_wrap=True)
    chosen = DistillOptions(labelled=labelled, identities=data.identities, workers=data.workers, **options)
    result = distill(chosen, console)
    for line in _describe(result):
        console.print(line)
    out, quoted = result.checkpoint, shlex.quote(str(result.checkpoint))
    told = f"{out} is ready; next: dfer-eval {quoted}{data.asked}, dfer-export --ckpt {quoted}"
    console.print(told, markup=False, soft_wrap=True)


def _describe(result: DistillResult) -> list[str]:
    lines = [
        f"on faces that were held back: cosine with the teacher's features {result.cosine:.4f}, agreement "
        f"{result.agreement:.4f}"
    ]
    clips = "validation clips" if result.unseen else "clips that the teacher may have been trained on"
    for who, recalls in (
        ("the teacher", result.teacher),
        ("the student with the teacher's head", result.untuned),
        ("the student with its head tuned", result.tuned),
    ):
        if recalls is not None:
            lines.append(f"{who}: WAR {recalls.war:.4f}, UAR {recalls.uar:.4f} on {clips}")
    if result.tuned is None:
        why, lost = "head not tuned", ""
        if result.teacher is None:
            why, lost = "no labelled clips", "; the loss in WAR and UAR is unknown (--data measures it)"
        lines.append(f"{why}: the head, temperature and limit stay the teacher's, fitted to its own features{lost}")
    if result.calibration is not None:
        found = result.calibration.confidence
        lines.append(f"calibrated anew: temperature {found.temperature:.3g}; unsure below {found.unsure_below:.2f}")
    return lines


if __name__ == "__main__":
    main()

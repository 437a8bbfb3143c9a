"""`dfer-train`: train a method on clips and write its checkpoint."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...runtime.cli.options import command, version_option
from ...runtime.errors import explains_interruption, reports_errors, require
from ..data.choice import DataChoice
from ..landmarks import MIDDLE
from ..options import TrainOptions
from .options import (
    MethodName,
    balance_option,
    batch_option,
    clip_option,
    data_options,
    seed_option,
    stills_option,
    stills_share_option,
)

if TYPE_CHECKING:
    from ..confidence import Calibration

EPILOG = """\b
Examples:
  dfer-pretrain faces.pt && dfer-train align.pt --pretrained faces.pt
  dfer-train align.pt --pretrained faces.pt --stills labels.csv
  dfer-train dfew-1.pt --clip ViT-B-32-quickgelu --pretrained openai --tokens 64 --data dfew --root DFEW --fold 1
  dfer-train clip.pt --method dfer-clip --clip ViT-B-32-quickgelu --pretrained openai --crop 224 --data mafw --root MAFW
  dfer-train fine.pt --method finecliper --clip ViT-B-16-quickgelu --pretrained openai --data dfew --root DFEW --batch 8
  dfer-train fine.pt --method finecliper …the same… --captions captions.jsonl
  dfer-train fine.pt --method finecliper …the same… --middle distil --landmark-model face_landmark.tflite
  dfer-train zero.pt --method zero-shot --clip ViT-B-32-quickgelu --pretrained openai   # plain CLIP, without data
  dfer-train told.pt --method zero-shot …the same… --data mafw --root MAFW --captions captions.jsonl
  torchrun --nproc-per-node 4 -m dfer.train.cli.train clip.pt --method dfer-clip --data dfew --root DFEW …
  dfer-train align.pt …the same… --resume               # after an interruption

\b
Steps of align-dfer (BAP): 1 text, 2 video, 3 joint; three numbers for --epochs, --learning-rate and --depth
(layers of the text encoder, the video encoder and the synchronizer): 40,30,30, 0.05,0.05,0.05 and 1,2,3.
dfer-clip is one step: --epochs 50, --learning-rate of temporal net, prompts and image encoder 0.01,0.001,0.00001,
--depth 1.
finecliper is one step: --epochs 30, --learning-rate 0.0003, --depth 1. Options of its own are --descriptions, and by
--option ratio=0.25 (width of adapters), adapter=lora (or none), activation=tower, adapter_scale=0.5 (of the adapter
beside the MLP), no_text_adapters=true, no_negatives, no_temporal, checkpointing.
zero-shot reads no labels. With --captions it is one step: --epochs 30, --learning-rate 0.0003, --depth 2.
"""

METHOD_OPTIONS = ("tokens", "no_mat", "no_jas", "single_step", "descriptions", "freeze_image_encoder")
"""Options that are passed to the method if given; it refuses those that it does not have."""


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic in click's later versions only
    """Comma-separated numbers, as a tuple."""

    name = "N,N,…"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            numbers = tuple(self.kind(part) for part in value.split(",") if part)
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers with commas between them", param, ctx)
        if any(number <= 0 for number in numbers):
            self.fail(f"{value!r}: the numbers must be positive", param, ctx)
        return numbers


class Setting(click.ParamType):  # type: ignore[type-arg]
    """NAME=VALUE as a pair; VALUE is parsed as JSON if possible, else it is text."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, equals, text = value.partition("=")
        if not name or not equals:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        name = name.replace("-", "_")
        if name in METHOD_OPTIONS:
            self.fail(f"{value!r}: give --{name.replace('_', '-')} itself, which is an option of its own", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


@command(epilog=EPILOG)
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--method",
    type=MethodName(),
    default=TrainOptions.method,
    show_default=True,
    help="The model to train.",
)
@clip_option("The CLIP that it stands on: dfer-small, dfer-vit, dfer-nano, or a model of open_clip such as ViT-B-32.")
@click.option(
    "--pretrained",
    help="CLIP's weights: demo for the demo model's, a file of dfer-pretrain or open_clip, or one of open_clip's tags.",
)
@click.option(
    "--image-size",
    type=click.IntRange(32, 512),
    show_default="CLIP's own",
    help="Side of the images that CLIP's vision transformer sees, in pixels. Fewer pixels are fewer tokens: with 128 "
    "in place of 224, ViT-B/32 in INT8 is about 1.6 times as fast.",
)
@click.option(
    "--patches",
    type=click.IntRange(min=1),
    show_default="all",
    help="How many patches of its image the vision transformer reads, those nearest the middle of the face. A multiple "
    "of 16 with the class token is fastest: with --image-size 128, 15 of the 16 of ViT-B/32 take an eighth to a sixth "
    "less time in INT8.",
)
@click.option(
    "--crop",
    type=click.IntRange(32, 512),
    show_default="--image-size, else 112, or CLIP's own size where that is smaller",
    help="Side of the face crops that the model is given, in pixels; CLIP's own size is reached by upsampling.",
)
@data_options(identities=DataChoice.identities)
@stills_option("Train on photographs of --data's classes as well: CSV with the columns image,label,person,split.")
@stills_share_option(TrainOptions.stills_share)
@click.option(
    "--stills-most",
    type=click.IntRange(min=1),
    default=TrainOptions.stills_most,
    show_default=True,
    help="Photographs of any one class to take at most, so that common classes do not crowd out rare ones.",
)
@click.option(
    "--captions",
    metavar="FILE",
    help="finecliper, zero-shot: JSON lines {clip, text} that tell how the face moves in training clips (dfer-prepare "
    "--caption-prompts asks for them); drawn for those of procedural people. Used in training only.",
)
@click.option(
    "--caption-weight",
    type=click.FloatRange(0, min_open=True),
    default=TrainOptions.caption_weight,
    show_default=True,
    help="What the loss of --captions counts by, beside that of the classes.",
)
@click.option(
    "--middle",
    type=click.Choice(MIDDLE),
    help="finecliper: learn from pictures of landmarks, too, and of the regions that they enclose. Used in training "
    "only; a step costs about three times as much.",
)
@click.option(
    "--middle-weight",
    type=click.FloatRange(0, min_open=True),
    default=TrainOptions.middle_weight,
    show_default=True,
    help="What the loss of --middle counts by, beside that of the classes.",
)
@click.option(
    "--landmarks",
    type=click.Path(path_type=Path, dir_okay=False),
    help="For --middle: .npz with an array [frames, points, 2] under each clip's name, in shares of width and height; "
    "68 points (iBUG), 468 or 478 (MediaPipe's mesh), or 5.",
)
@click.option(
    "--landmark-model",
    type=click.Path(path_type=Path, dir_okay=False),
    help="For --middle: face_landmark.tflite of MediaPipe 0.10.21, which finds them. With neither, drawn people "
    "give theirs exactly; in other clips the detector finds five points, which hardly move in aligned crops and tell "
    "little.",
)
@click.option(
    "--validation",
    type=click.FloatRange(0.01, 0.5),
    default=TrainOptions.validation,
    show_default=True,
    help="Share of the training clips that is held back to choose the best epoch by.",
)
@click.option(
    "--validation-split",
    metavar="NAME",
    help="Choose the best epoch on this split of --stills, and of --data folder or csv, in place of --validation. "
    "Probabilities are calibrated on it too, so photographs that the encoder learned from should not be in it.",
)
@click.option(
    "--select-on-test", is_flag=True, help="Choose the best epoch on the test split, as some papers' code does."
)
@click.option(
    "--epochs", type=Numbers(int), default="", help="Epochs of each step of the method, with commas between; see below."
)
@click.option(
    "--learning-rate",
    type=Numbers(float),
    default="",
    help="Highest learning rates, one or more; see below.",
)
@click.option(
    "--depth", type=Numbers(int), default="", help="Layers of each of the method's temporal parts; see below."
)
@click.option(
    "--tokens", type=click.IntRange(min=1), help="align-dfer: learned tokens in a sentence. Default: 16; paper: 64."
)
@click.option("--no-mat", is_flag=True, help="align-dfer, ablation: class descriptions in place of learned tokens.")
@click.option("--no-jas", is_flag=True, help="align-dfer, ablation: the mean over time in place of the synchronizer.")
@click.option("--single-step", is_flag=True, help="align-dfer, ablation: everything at once in place of BAP.")
@click.option(
    "--descriptions",
    type=click.Path(path_type=Path),
    help="dfer-clip, finecliper, zero-shot, and align-dfer --no-mat: JSON of class → text, or texts, in place of ours.",
)
@click.option(
    "--freeze-image-encoder",
    is_flag=True,
    help="dfer-clip: leave the image encoder as it is and train on stored features, which is much faster.",
)
@click.option(
    "--option",
    "settings",
    type=Setting(),
    multiple=True,
    help="An option of a method that has no name of its own here, such as one of another package; repeatable.",
)
@click.option(
    "--views",
    type=click.IntRange(min=0),
    default=TrainOptions.views,
    show_default=True,
    help="Augmented views of each clip whose features are computed and stored, beside the plain one.",
)
@click.option(
    "--augmentation",
    type=click.Choice(["paper", "resized-crop", "strong"]),
    help="How views differ: paper crops a little and flips, resized-crop takes 8 to 100 % of the area and changes the "
    "brightness, strong turns, relights and blurs. Default: strong for procedural clips, for others resized-crop of "
    "dfer-clip, else paper; as their authors do.",
)
@click.option(
    "--features",
    type=click.Path(path_type=Path),
    help="Folder of stored features, and of landmarks that were found. Default: features/ beside OUT.",
)
@batch_option("Clips in a training step, over all processes together.")
@balance_option(TrainOptions.balance)
@click.option(
    "--span",
    type=click.FloatRange(0.25, 1),
    default=TrainOptions.span,
    show_default=True,
    help="Least share of a clip that a training window covers; below 1 the model also reads windows that are as much "
    "shorter (dfer-export --window), and labels come sooner. For frozen image encoders.",
)
@click.option(
    "--history",
    type=click.FloatRange(0, 1),
    default=TrainOptions.history,
    show_default=True,
    help="Share of training windows that begin with the end of another clip, so that in video a label follows its "
    "face sooner; for frozen image encoders.",
)
@click.option(
    "--class-weights",
    is_flag=True,
    help="Weigh each clip's loss so that all classes count alike, however often --balance draws them.",
)
@click.option(
    "--ema",
    type=click.FloatRange(0, 0.9999),
    default=TrainOptions.ema,
    show_default=True,
    help="Decay of a moving average of the weights, which is then what is evaluated and kept; 0 for none.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default=TrainOptions.precision,
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
def main(settings: tuple[tuple[str, Any], ...], **options: Any) -> None:
    """Train a model and write the checkpoint OUT, chosen on a validation split cut from the training clips.

    OUT is the best epoch of the last step; until the run is done, of the last step that is over. Beside mine.pt, say,
    come the best epoch of every step (mine.step-….pt) and the last one (mine.last.pt), which hold only what was trained
    and need OUT for the rest, a line of JSON per epoch (mine.jsonl), and, until the run is done, what --resume needs
    (mine.state). Without --pretrained the encoder is random, which only makes sense for tests.
    """
    for module in ("torch", "open_clip"):
        require(module, "train")
    from rich.console import Console

    from ..run import run_training

    given = {name: options.pop(name) for name in METHOD_OPTIONS}
    chosen = {name: value for name, value in given.items() if value not in (None, False)} | dict(settings)
    console = Console(soft_wrap=True)
    result = run_training(TrainOptions(method_options=chosen, **options), console)
    on_test = options["select_on_test"] or options["data"].split_name(options["validation_split"] or "") == "test"
    if not result.steps:
        console.print("nothing was trained: without captions this is plain CLIP with class texts")
    if result.calibration is not None:
        console.print(_describe(result.calibration))
    if on_test:
        console.print("[bold red]epochs were chosen on the test split: these figures are no test results[/]")
    out, quoted = result.checkpoint, shlex.quote(str(result.checkpoint))
    told = f"{out} is ready; next: dfer-eval {quoted}{options['data'].asked}, dfer-export --ckpt {quoted}"
    console.print(told, markup=False, soft_wrap=True)


def _describe(calibration: Calibration) -> str:
    found = calibration.confidence
    return (
        f"calibrated on {calibration.clips} clips: temperature {found.temperature:.3g}, calibration error "
        f"{calibration.error_before:.3f} before and {calibration.error_after:.3f} after; unsure below "
        f"{found.unsure_below:.2f}"
    )


if __name__ == "__main__":
    main()

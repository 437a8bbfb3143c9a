"""`dfer-train`: Align-DFER by BAP on features of a frozen CLIP, or DFER-CLIP on pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...runtime.cli.options import version_option
from ...runtime.errors import DferError, reports_errors, require
from ..data.choice import DataChoice, data_options

EPILOG = """\b
Examples:
  dfer-pretrain faces.pt && dfer-train align.pt --pretrained faces.pt
  dfer-train align.pt --pretrained faces.pt --stills labels.csv
  dfer-train dfew-1.pt --clip ViT-B-32 --pretrained openai --tokens 64 --data dfew --root DFEW --fold 1
  dfer-train clip.pt --method dfer-clip --clip ViT-B-32-quickgelu --pretrained openai --crop 224 --data mafw --root MAFW
  torchrun --nproc-per-node 4 -m dfer.train.cli.train clip.pt --method dfer-clip --data dfew --root DFEW …
  dfer-train align.pt …the same… --resume               # after an interruption

\b
Steps of align-dfer (BAP): 1 text, 2 video, 3 joint; three numbers for --epochs, --learning-rate and --depth
(layers of the text encoder, the video encoder and the synchronizer): 40,30,30, 0.05,0.05,0.05 and 1,2,3.
dfer-clip is one step: --epochs 50, --learning-rate of temporal net, prompts and image encoder 0.01,0.001,0.00001,
--depth 1.
"""


class Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers with commas between them, as a tuple."""

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


@click.command(epilog=EPILOG)
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--method", type=click.Choice(["align-dfer", "dfer-clip"]), default="align-dfer", show_default=True)
@click.option("--clip", "clip_name", default="dfer-small", show_default=True, help="CLIP model: ours or open_clip's.")
@click.option("--pretrained", help="Its weights: a file of dfer-pretrain or open_clip, or an open_clip tag.")
@click.option("--crop", type=click.IntRange(32, 512), default=112, show_default=True, help="Side of crops, pixels.")
@data_options(identities=150)
@click.option("--stills", type=click.Path(path_type=Path), help="Also photographs: CSV of image,label,person,split.")
@click.option("--stills-share", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Of each batch.")
@click.option("--stills-most", type=click.IntRange(min=1), default=600, show_default=True, help="Of any one class.")
@click.option("--validation", type=click.FloatRange(0.01, 0.5), default=0.1, show_default=True, help="Of training.")
@click.option("--select-on-test", is_flag=True, help="Choose epochs on the test split, as some papers' code does.")
@click.option("--tokens", type=click.IntRange(min=1), default=16, show_default=True, help="Per sentence (paper: 64).")
@click.option("--epochs", type=Numbers(int), default="", help="Per step.")
@click.option("--learning-rate", type=Numbers(float), default="", help="Peaks.")
@click.option("--depth", type=Numbers(int), default="", help="Layers.")
@click.option("--no-mat", is_flag=True, help="Ablation: class descriptions in place of learned tokens.")
@click.option("--no-jas", is_flag=True, help="Ablation: the mean over time in place of the synchronizer.")
@click.option("--single-step", is_flag=True, help="Ablation: everything at once in place of BAP.")
@click.option("--descriptions", type=click.Path(path_type=Path), help="JSON: class → text, in place of ours.")
@click.option("--freeze-image-encoder", is_flag=True, help="dfer-clip on features.")
@click.option("--views", type=click.IntRange(min=0), default=4, show_default=True, help="Augmented views per clip.")
@click.option("--augmentation", type=click.Choice(["paper", "strong"]), help="Default: strong for procedural data.")
@click.option("--features", type=click.Path(path_type=Path), help="Folder of stored features; default: beside OUT.")
@click.option("--batch", type=click.IntRange(min=2), default=64, show_default=True, help="Clips per step.")
@click.option("--balance", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="1: classes alike.")
@click.option("--class-weights", is_flag=True, help="Weigh the loss by 1/count of the class.")
@click.option("--ema", type=click.FloatRange(0, 0.9999), default=0.0, show_default=True, help="Of the weights.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True)
@click.option("--tensorboard", type=click.Path(path_type=Path), help="Folder for TensorBoard's curves.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run of the same options.")
@click.option("--seed", default=0, show_default=True)
@version_option
@reports_errors
def main(out: Path, choice: DataChoice, resume: bool, **options: Any) -> None:
    """Train a model and write the checkpoint OUT, chosen on a validation split cut from the training clips.

    OUT is the best epoch of the last step. Beside it come the best epoch of every step (OUT.step-….pt), the last one
    (OUT.last.pt), a line of JSON per epoch (OUT.jsonl), and, until the run is done, what --resume needs (OUT.state).
    Without --pretrained the encoder is random, which only makes sense for tests.
    """
    if not out.parent.is_dir():
        raise DferError(f"folder {out.parent} does not exist")
    for module in ("torch", "open_clip"):
        require(module, "train")
    from ..run import RunOptions, run_training

    run_training(out, choice, RunOptions(**options), resume)


if __name__ == "__main__":
    main()

"""`dfer-train`: Align-DFER on features of a frozen CLIP."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ..runtime.errors import DferError, reports_errors, require

EPILOG = """\b
Examples:
  dfer-pretrain faces.pt && dfer-train align.pt --pretrained faces.pt
  dfer-train align.pt --pretrained faces.pt --stills labels.csv
  dfer-train align.pt --clip ViT-B-32 --pretrained openai --tokens 64
  dfer-export --ckpt align.pt
"""


@click.command(epilog=EPILOG)
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--clip", "clip_name", default="dfer-small", show_default=True, help="CLIP model to freeze.")
@click.option("--pretrained", help="Its weights: a file of dfer-pretrain or open_clip, or an open_clip tag.")
@click.option("--identities", default=150, show_default=True, help="Procedural people; 7 clips each.")
@click.option("--stills", type=click.Path(path_type=Path), help="CSV of image,label,person,split.")
@click.option("--stills-share", default=0.5, show_default=True, help="Part of each batch that is stills.")
@click.option("--stills-most", default=600, show_default=True, help="Photographs used of any one class.")
@click.option("--tokens", default=16, show_default=True, help="Learned tokens per sentence (paper: 64).")
@click.option("--layers", default=2, show_default=True, help="Depth of the synchronizer.")
@click.option("--views", default=4, show_default=True, help="Augmented views per clip.")
@click.option("--epochs", default=30, show_default=True)
@click.option("--batch", default=64, show_default=True, help="Clips per step.")
@click.option("--learning-rate", default=0.05, show_default=True, help="Peak learning rate (SGD).")
@click.option("--balance", default=0.5, show_default=True, help="0: classes as they come; 1: equally often.")
@click.option("--seed", default=0, show_default=True)
@click.option("--workers", default=2, show_default=True, help="Processes that draw faces.")
@reports_errors
def main(
    out: Path,
    clip_name: str,
    pretrained: str | None,
    identities: int,
    stills: Path | None,
    stills_share: float,
    stills_most: int,
    tokens: int,
    layers: int,
    views: int,
    epochs: int,
    batch: int,
    learning_rate: float,
    balance: float,
    seed: int,
    workers: int,
) -> None:
    """Train Align-DFER and write the checkpoint OUT.

    Data are procedural clips, and photographs with --stills. Without --pretrained the encoder is random, which only
    makes sense for tests.
    """
    if not out.parent.is_dir():
        raise DferError(f"folder {out.parent} does not exist")
    for module in ("torch", "open_clip"):
        require(module, "train")
    import torch
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    from .checkpoint import save_checkpoint
    from .clip import load_clip
    from .data import ClipSet
    from .data.procedural import ProceduralClips
    from .data.stills import StillClips
    from .features import encode_clips
    from .methods.align_dfer import AlignDfer
    from .training import TrainSettings, train

    console = Console()
    torch.manual_seed(seed)
    method = AlignDfer(load_clip(clip_name, pretrained), tokens=tokens, layers=layers).eval()
    settings = TrainSettings(epochs=epochs, batch=batch, learning_rate=learning_rate, balance=balance, seed=seed)
    clip_sets: list[tuple[ClipSet, float]] = []
    if stills is not None:
        clip_sets.append((StillClips(stills, "train", stills_most), stills_share))
    with Progress(*Progress.get_default_columns(), TextColumn("{task.fields[note]}"), console=console) as progress:
        drawing = progress.add_task("drawing faces", total=identities, note="")
        drawn = ProceduralClips(range(identities), workers, lambda done: progress.update(drawing, completed=done))
        clip_sets.append((drawn, 1 - stills_share if stills else 1.0))
        encoding = progress.add_task("encoding clips", total=sum(len(clips) for clips, _ in clip_sets), note="")
        sources = [
            (encode_clips(method, clips, views, seed, lambda n: progress.advance(encoding, n)), share)
            for clips, share in clip_sets
        ]
        training = progress.add_task("training", total=epochs, note="")
        train(
            method,
            sources,
            settings,
            lambda epoch, loss: progress.update(training, completed=epoch, note=f"loss {loss:.3f}"),
        )
    data = {"identities": identities, "stills": len(clip_sets[0][0]) if stills else 0}
    save_checkpoint(method, out, {"settings": asdict(settings), "data": data, "views": views})
    console.print(f"wrote {out}; next: dfer-eval {out}, dfer-export --ckpt {out}")

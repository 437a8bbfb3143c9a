"""`dfer-export`: a checkpoint becomes a bundle that `dfer-run` runs without torch."""

from __future__ import annotations

from pathlib import Path

import click

from ..runtime.errors import DferError, reports_errors, require

EPILOG = """\b
Examples:
  dfer-export --ckpt align.pt                       # writes align.dfer/
  dfer-export --ckpt align.pt --out models/a.dfer
  dfer-export --ckpt DFER-CLIP.pth --method dfer-clip
  dfer-run clip.mp4 --bundle align.dfer
"""


@click.command(epilog=EPILOG)
@click.option(
    "--ckpt",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Checkpoint of dfer-train, or one for --method.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Bundle to write; default: CKPT with .dfer for .pt.")
@click.option(
    "--method",
    type=click.Choice(["dfer-clip"]),
    help="CKPT is an official checkpoint of this method: only its tensors are read, nothing in it can run.",
)
@reports_errors
def main(ckpt: Path, out: Path | None, method: str | None) -> None:
    """Export a checkpoint: the class matrix, the encoder and the head as ONNX, compared with PyTorch.

    Nothing is written unless the graphs agree with the model they came from.
    """
    if not ckpt.name:
        raise DferError("--ckpt is empty; name a checkpoint of dfer-train")
    out = out or ckpt.with_suffix(".dfer")
    if not out.parent.is_dir():
        raise DferError(f"folder {out.parent} does not exist")
    for module in ("torch", "open_clip", "onnx", "onnxscript"):
        require(module, "export")
    from rich.console import Console
    from rich.table import Table

    from .exporting import export_checkpoint
    from .parity import GATES

    console = Console()
    with console.status("exporting") as status:
        bundle, parity = export_checkpoint(ckpt, out, lambda step: status.update(step), official=method is not None)
    gate = GATES["fp32"]
    table = Table(title=f"fp32 against PyTorch, {parity.frames} frames")
    for heading in ("figure", "measured", "must be"):
        table.add_column(heading)
    table.add_row("feature cosine (lowest)", f"{parity.cosine:.7f}", f"≥ {gate.min_cosine}")
    table.add_row("|Δp| (largest)", f"{parity.max_delta:.2g}", f"≤ {gate.max_delta:g}")
    table.add_row("same top-1", f"{parity.top1:.0%}", "")
    console.print(table)
    size = sum((bundle.path / name).stat().st_size for name in bundle.digests)
    console.print(f"wrote {bundle.path}/ ({size / 1e6:.1f} MB); try: dfer-run --demo --bundle {bundle.path}")

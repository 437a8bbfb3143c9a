"""`dfer-export`: a checkpoint becomes a bundle that `dfer-run` runs without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..runtime.cli.options import version_option
from ..runtime.errors import DferError, reports_errors, require
from .engine import CHOICES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..runtime.bundle import Bundle
    from ..train.data.choice import DataChoice
    from .exporting import Exported

DATA_SETS = ("dfew", "ferv39k", "mafw")

EPILOG = """\b
Examples:
  dfer-export --ckpt align.pt                       # writes align.dfer/
  dfer-export --ckpt align.pt --out models/a.dfer
  dfer-export --ckpt align.pt --fp16 --int8 --calib FACES   # a folder of videos or face crops, or a CSV of crops
  dfer-export --ckpt align.pt --int8 --calib dfew --root DFEW --fold 1
  dfer-export --ckpt align.pt --fp16 --engine tensorrt-rtx --targets sm86,sm89
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
@click.option("--fp16", is_flag=True, help="Also write an encoder in half precision.")
@click.option(
    "--bf16", is_flag=True, help="Also compare and time the fp32 encoder in BF16, which OpenVINO can compute."
)
@click.option("--int8", is_flag=True, help="Also write an encoder in INT8; needs --calib.")
@click.option(
    "--calib",
    metavar="FACES",
    help="Faces to measure INT8 on and judge by: a folder of videos or of crops, a CSV of image[,label[,split]], or "
    f"one of the data sets {', '.join(DATA_SETS)}, found in --root.",
)
@click.option("--root", type=click.Path(path_type=Path), help="Folder of --calib's data set.")
@click.option("--fold", type=click.IntRange(min=1), default=1, show_default=True, help="Of --calib's data set.")
@click.option("--lists", type=click.Path(path_type=Path), help="Its annotation lists, when not in --root.")
@click.option(
    "--calib-min",
    type=click.IntRange(min=2),
    default=500,
    show_default=True,
    help="Frames that --calib must give.",
)
@click.option(
    "--gate",
    type=click.Choice(["default", "strict", "off"]),
    default="default",
    show_default=True,
    help="How closely every precision must agree with PyTorch.",
)
@click.option(
    "--engine",
    type=click.Choice(CHOICES),
    default="auto",
    show_default=True,
    help="Also build engines: auto for the GPU here, with what is installed.",
)
@click.option("--targets", default="", metavar="SM86,…", help="Build TensorRT-RTX engines for these; no GPU needed.")
@version_option
@reports_errors
def main(
    ckpt: Path,
    out: Path | None,
    method: str | None,
    fp16: bool,
    bf16: bool,
    int8: bool,
    calib: str | None,
    root: Path | None,
    fold: int,
    lists: Path | None,
    calib_min: int,
    gate: str,
    engine: str,
    targets: str,
) -> None:
    """Export a checkpoint: the class matrix, the encoder and the head as ONNX, compared with PyTorch.

    Nothing is written unless the graphs of every precision agree with the model they came from.
    """
    if not ckpt.name:
        raise DferError("--ckpt is empty; name a checkpoint of dfer-train")
    out = out or ckpt.with_suffix(".dfer")
    if not out.parent.is_dir():
        raise DferError(f"folder {out.parent} does not exist")
    if int8 and not calib:
        raise DferError("--int8 needs --calib: videos or face crops to measure ranges on")
    faces = _faces(calib, root, fold, lists)
    for module in ("torch", "open_clip", "onnx", "onnxscript"):
        require(module, "export")
    from rich.console import Console

    from .exporting import ExportOptions, export_checkpoint

    console = Console()
    options = ExportOptions(fp16=fp16, bf16=bf16, int8=int8, faces=faces, minimum=calib_min, gate=gate)
    with console.status("exporting") as status:
        exported = export_checkpoint(ckpt, out, status.update, official=method is not None, options=options)
    _print(console, exported, gate)
    _build_engines(console, exported.bundle, engine, [target for target in targets.split(",") if target])


def _faces(calib: str | None, root: Path | None, fold: int, lists: Path | None) -> Path | DataChoice | None:
    """What --calib and the options beside it mean. A folder that has a data set's name is written ./dfew."""
    if calib in DATA_SETS:
        if root is None:
            raise DferError(f"--calib {calib} needs --root, the folder of its clips")
        from ..train.data.choice import DataChoice

        return DataChoice(calib, root, fold, lists, max_missing=0.01, identities=0, workers=1)
    if root is not None or lists is not None or fold != 1:
        raise DferError(f"--root, --fold and --lists are for --calib {', '.join(DATA_SETS)}")
    return Path(calib) if calib else None


def _build_engines(console: Console, bundle: Bundle, engine: str, targets: list[str]) -> None:
    """Engines of every graph that TensorRT reads, and a table of them."""
    from rich.table import Table

    from .engine import build_engines

    graphs = sorted(
        {
            name
            for precision in bundle.manifest.precisions
            if precision != "bf16"  # a way to run the FP32 graph
            for name in bundle.manifest.graphs(precision, "")
        }
    )
    with console.status("building engines") as status:

        def progress(phase: str, done: int, total: int) -> None:
            status.update(f"building engines: {phase.lower()}, {done} of {total}")

        rows = build_engines(bundle, graphs, engine, targets, status.update, progress)
    if not rows:
        return
    table = Table(title=f"engines in {bundle.path}/engines")
    for heading in ("graph", "library", "target", "size", "seconds"):
        table.add_column(heading)
    for row in rows:
        took = row.refused or ("was there" if row.seconds is None else f"{row.seconds:.1f}")
        table.add_row(row.graph, f"{row.product} {row.version}", row.target, f"{row.size / 1e6:.1f} MB", took)
    console.print(table)


def _print(console: Console, exported: Exported, gate: str) -> None:
    """Tables of agreement, of INT8's most sensitive layers and of latency, and what to do next."""
    bundle = exported.bundle
    console.print(_parity_table(exported, gate))
    if exported.int8 is not None:
        made = exported.int8
        console.print(
            f"int8: {made.total - len(made.floating)} of {made.total} layers, ranges by {made.kind}; "
            f"every layer alone is drawn in {bundle.path.with_suffix('.int8.png')}",
            soft_wrap=True,
        )
        console.print(_sensitivity_table(exported))
    if exported.measurements:
        console.print(_latency_table(exported, gate))
        for line in _slower(exported):
            console.print(f"[yellow]note:[/] {line}", soft_wrap=True)
    size = sum((bundle.path / name).stat().st_size for name in bundle.digests)
    console.print(f"wrote {bundle.path}/ ({size / 1e6:.1f} MB); try: dfer-run --demo --bundle {bundle.path}")


def _parity_table(exported: Exported, gate: str) -> Table:
    from rich.table import Table

    from .exporting import ENCODERS
    from .parity import GATES, TIE

    bundle = exported.bundle
    labelled = any(parity.war is not None for parity in exported.parity.values())
    table = Table(
        title="against PyTorch" + (", gate off" if gate == "off" else ""),
        caption=f"with ties: or another class that PyTorch gives a probability less than {TIE} lower",
    )
    for heading in ("", "encoder", "frames", "feature cosine", "|Δp|", "same top-1", "with ties"):
        table.add_column(heading)
    if labelled:
        table.add_column("WAR")
        table.add_column("UAR")
    for precision, parity in exported.parity.items():
        limits = GATES.get(gate, {}).get(precision)
        file = bundle.path / ENCODERS[precision]
        row = [
            precision,
            f"{file.stat().st_size / 1e6:.1f} MB",
            str(parity.frames),
            f"{parity.cosine:.6f}" + (f"\n≥ {limits.min_cosine}" if limits else ""),
            f"{parity.max_delta:.2g}" + (f"\n≤ {limits.max_delta:g}" if limits and limits.max_delta < 1 else ""),
            f"{parity.exact_top1:.1%}",
            f"{parity.top1:.1%}" + (f"\n≥ {limits.min_top1:.1%}" if limits and limits.min_top1 else ""),
        ]
        if parity.war is not None and parity.uar is not None:
            row += [f"{parity.war:.1%}", f"{parity.uar:.1%}"]
        table.add_row(*row)
    return table


def _sensitivity_table(exported: Exported) -> Table:
    from rich.table import Table

    assert exported.int8 is not None
    table = Table(title="the layers that INT8 hurts most, each alone")
    for heading in ("layer", "feature cosine", "|Δp|", ""):
        table.add_column(heading)
    for sensitivity in exported.int8.ranking[: max(5, len(exported.int8.floating))]:
        left = "left float" if sensitivity.layer in exported.int8.floating else ""
        table.add_row(sensitivity.layer, f"{sensitivity.cosine:.5f}", f"{sensitivity.delta:.2g}", left)
    return table


def _latency_table(exported: Exported, gate: str) -> Table:
    from rich.table import Table

    table = Table(title="encoder latency here, ms (median)")
    for heading in ("provider", "precision", "batch 1", "batch 8", "agrees there", ""):
        table.add_column(heading)
    for provider, by_precision in exported.measurements.items():
        for precision, found in by_precision.items():
            best = exported.bundle.manifest.recommended.get(provider) == precision
            agrees = "yes" if found.parity.passes(precision, gate) else "no"
            milliseconds = [f"{found.latency[batch]:.1f}" for batch in sorted(found.latency)]
            table.add_row(provider, precision, *milliseconds, agrees, "recommended" if best else "")
    return table


def _slower(exported: Exported) -> list[str]:
    """Where INT8 is no gain, in words."""
    lines = []
    for provider, by_precision in exported.measurements.items():
        if "int8" in by_precision:
            others = {name: found.latency[1] for name, found in by_precision.items() if name != "int8"}
            faster = [name for name, value in others.items() if value <= by_precision["int8"].latency[1]]
            if faster:
                lines.append(f"on {provider}, int8 is slower than {' and '.join(faster)}")
    return lines

"""`dfer-export`: a checkpoint becomes a bundle that `dfer-run` runs without torch."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..runtime.cli.options import command, version_option
from ..runtime.errors import DferError, ParameterError, reports_errors, require
from ..train.cli.options import published_option
from .engine import CHOICES, build_engines, check_engines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..calibration.int8 import Int8
    from ..runtime.bundle import Bundle
    from ..train.data.choice import DataChoice
    from .exporting import ExportResult

DATA_SETS = ("dfew", "ferv39k", "mafw")

EPILOG = """\b
Examples:
  dfer-export --ckpt align.pt                       # writes align.dfer/
  dfer-export --ckpt align.pt --out models/a.dfer
  dfer-export --ckpt align.pt --fp16 --int8 --calib FACES   # a folder of videos or face crops, or a CSV of crops
  dfer-export --ckpt align.pt --int8 --calib dfew --root DFEW --fold 1
  dfer-export --ckpt align.pt --fp16 --engine tensorrt-rtx --targets sm86,sm89
  dfer-export --ckpt fine.pt --describe classes.json --out other.dfer
  dfer-export --bundle fine.dfer --describe classes.json --out other.dfer  # its encoders; fine.pt lies beside it
  dfer-export --ckpt DFER-CLIP.pth --method dfer-clip
  dfer-export --bundle align.dfer --triton models/  # the encoder as a model for a Triton server
  dfer-run clip.mp4 --bundle align.dfer
"""


@command(epilog=EPILOG)
@click.option(
    "--ckpt",
    "checkpoint",
    type=click.Path(path_type=Path),
    help="Checkpoint of dfer-train, or of --method's authors.",
)
@click.option(
    "--bundle",
    "exported",
    type=click.Path(path_type=Path),
    help="A bundle that is there already: for --triton, in place of --ckpt; with --describe, its encoders are taken, "
    "and nothing is measured anew. Texts are read by --ckpt, or by the checkpoint of its name beside the bundle.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to write the bundle to; default: the checkpoint's name with .dfer.",
)
@published_option()
@click.option(
    "--describe",
    "described",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="JSON",
    help="Give the model other classes, by a JSON of class → text, or texts, whose mean counts; for methods that read "
    "words.",
)
@click.option("--fp16", is_flag=True, help="Also export an encoder in half precision.")
@click.option(
    "--bf16", is_flag=True, help="Also compare and time the FP32 encoder computed in BF16, which OpenVINO can do."
)
@click.option("--int8", is_flag=True, help="Also export an encoder in INT8; needs --calib.")
@click.option(
    "--int8-for",
    type=click.Choice(["all", "cpu"]),
    default="all",
    show_default=True,
    help="Which providers the INT8 encoder is for; ONNX Runtime's CPU provider has a graph of its own, and with that "
    "alone the bundle is smaller.",
)
@click.option(
    "--calib",
    "faces",
    metavar="FACES",
    help="Faces to calibrate INT8 on, and held-out ones to test every precision on: a folder of videos or of face "
    f"crops, a CSV of image[,label[,split]], or the data set {', '.join(DATA_SETS)}, found in --root.",
)
@click.option("--root", type=click.Path(path_type=Path), help="Folder of the data set that --calib names.")
@click.option(
    "--fold", type=click.IntRange(min=1), default=1, show_default=True, help="Fold of the data set that --calib names."
)
@click.option(
    "--lists", type=click.Path(path_type=Path), help="Folder of that data set's annotation lists, if not in --root."
)
@click.option(
    "--calib-min",
    "minimum",
    type=click.IntRange(min=2),
    default=500,
    show_default=True,
    help="Fewest frames that --calib must have.",
)
@click.option(
    "--window",
    type=float,
    help="Seconds of video behind each prediction that dfer-run shall take, unless told otherwise. Default: as much as "
    "in training, where the checkpoint tells how long its clips were, else 2.",
)
@click.option(
    "--fps", type=float, default=8.0, show_default=True, help="Frames per second that it shall sample, likewise."
)
@click.option(
    "--gate",
    type=click.Choice(["default", "strict", "off"]),
    default="default",
    show_default=True,
    help="How closely every precision must agree with PyTorch; off lets all pass.",
)
@click.option(
    "--engine",
    type=click.Choice(CHOICES),
    default="auto",
    show_default=True,
    help="Engines to build too; auto: for this machine's GPU, with each TensorRT that is installed.",
)
@click.option(
    "--targets",
    default="",
    metavar="SM86,…",
    help="Build TensorRT-RTX engines for GPUs of these compute capabilities; needs no GPU.",
)
@click.option(
    "--triton",
    "repository",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Also write the encoder as a model of this repository of Triton, for dfer-run --provider triton://HOST/MODEL.",
)
@click.option(
    "--triton-precision",
    type=click.Choice(["auto", "fp32", "fp16", "int8"]),
    default="auto",
    show_default=True,
    help="Its precision; auto: what the bundle recommends for a GPU.",
)
@click.option("--triton-tensorrt", is_flag=True, help="Let the server build TensorRT engines of it.")
@version_option
@reports_errors
def main(
    checkpoint: Path | None,
    exported: Path | None,
    out: Path | None,
    published_by: str | None,
    described: Path | None,
    fp16: bool,
    bf16: bool,
    int8: bool,
    int8_for: str,
    faces: str | None,
    root: Path | None,
    fold: int,
    lists: Path | None,
    minimum: int,
    window: float | None,
    fps: float,
    gate: str,
    engine: str,
    targets: str,
    repository: Path | None,
    triton_precision: str,
    triton_tensorrt: bool,
) -> None:
    """Export a checkpoint: the class matrix, the encoder and the head as ONNX, compared with PyTorch.

    Nothing is written unless the graphs of every precision agree with the model they came from.
    """
    from .model_repository import place_of
    from .options import ExportOptions, check_given, check_out, check_precision, trained_window

    check_given(exported is not None, described is not None, repository is not None)
    if exported is not None:
        from ..runtime.bundle import Bundle

        bundle = Bundle.open(exported)
        if described is not None:
            if repository is not None and out is not None:
                place_of(out, repository)
            bundle = _describe(bundle, checkpoint, described, out)
        elif repository is None or checkpoint is not None:
            raise DferError("--bundle is for --triton FOLDER, or for --describe JSON with --out")
        if repository is not None:
            _write_repository(bundle, repository, triton_precision, triton_tensorrt)
        return
    if checkpoint is None:
        raise DferError("name what to export: --ckpt CHECKPOINT, or --bundle BUNDLE with --triton FOLDER")
    if not checkpoint.name:
        raise ParameterError("checkpoint", "is empty; name a checkpoint of dfer-train")
    if checkpoint.is_dir():
        ready = f"bundle already; run it: dfer-run clip.mp4 --bundle {shlex.quote(str(checkpoint))}"
        is_bundle = (checkpoint / "manifest.json").is_file()
        raise ParameterError("checkpoint", f"{checkpoint} is a {ready if is_bundle else 'folder; name a file'}")
    out = out or checkpoint.with_suffix(".dfer")
    check_out(out)
    options = ExportOptions(fp16, bf16, int8, int8_for, _faces(faces, root, fold, lists), minimum, gate, window, fps)
    built_for = [target for target in targets.split(",") if target]
    check_engines(engine, built_for)  # now, not after minutes of exporting
    if repository is not None:
        check_precision(options, triton_precision)
        place_of(out, repository)
    for module in ("torch", "open_clip", "onnx", "onnxscript"):
        require(module, "export")
    from rich.console import Console

    from .exporting import export_checkpoint

    console = Console()
    with console.status("exporting") as status:
        result = export_checkpoint(checkpoint, out, options, status.update, published_by, described)
    _print(console, result, gate)
    if window is None and trained_window(result.bundle.manifest.provenance["training"]) is None:
        told = "how long the training clips were is not known, so windows of 2 s are assumed; --window gives others"
        console.print(told, soft_wrap=True)
    _build_engines(console, result.bundle, engine, built_for)
    if repository is not None:
        _write_repository(result.bundle, repository, triton_precision, triton_tensorrt)


def _describe(bundle: Bundle, checkpoint: Path | None, described: Path, out: Path | None) -> Bundle:
    if out is None:
        raise DferError("--bundle with --describe needs --out, the bundle to write")
    require("torch", "export")
    from .exporting import describe_bundle

    bundle = describe_bundle(bundle, checkpoint, described, out, lambda line: click.echo(line, err=True))
    click.echo(f"wrote {bundle.path}/ with the classes {', '.join(bundle.manifest.classes)}")
    return bundle


def _write_repository(bundle: Bundle, repository: Path, precision: str, tensorrt: bool) -> None:
    from .model_repository import write_repository

    try:
        model = write_repository(bundle, repository, precision, tensorrt)
    except ParameterError as error:
        raise ParameterError(f"triton_{error.parameter}", error.problem) from error
    place, quoted = shlex.quote(str(repository.resolve())), shlex.quote(str(bundle.path))
    click.echo(f"wrote {model}/; try: tritonserver --model-repository={place}")
    click.echo(f"and: dfer-run clip.mp4 --bundle {quoted} --provider triton://localhost:8000/{model.name}")


def _faces(faces: str | None, root: Path | None, fold: int, lists: Path | None) -> Path | DataChoice | None:
    """Return the faces of --calib and its related options. A folder named like a data set must be given as ./dfew."""
    if faces in DATA_SETS:
        if root is None:
            raise DferError(f"--calib {faces} needs --root, the folder of its clips")
        from ..train.data.choice import DataChoice

        chosen = DataChoice(faces, root, fold, lists)
        if chosen.one_list:  # held-out faces would be the calibration faces
            raise ParameterError(
                "lists", f"{lists} is one list; name the folder of the lists of training and test clips"
            )
        return chosen
    if root is not None or lists is not None or fold != 1:
        raise DferError(f"--root, --fold and --lists are for --calib {', '.join(DATA_SETS)}")
    return Path(faces) if faces else None


def _build_engines(console: Console, bundle: Bundle, engine: str, targets: list[str]) -> None:
    """Build engines of every graph for TensorRT, and print a table of them."""
    from rich.table import Table

    from ..runtime.engines.store import EngineStore

    graphs = sorted(
        {
            name
            for precision, entry in bundle.manifest.precisions.items()
            if precision != "bf16"  # it runs the FP32 graph
            and "default" in entry["files"]["encoder"]  # not for ONNX Runtime's CPU provider alone
            for name in bundle.manifest.graphs(precision, "")
        }
    )
    with console.status("building engines") as status:

        def progress(phase: str, done: int, total: int) -> None:
            status.update(f"building engines: {phase.lower()}, {done} of {total}")

        rows = build_engines(bundle, graphs, engine, targets, status.update, progress)
    if not rows:
        return
    table = Table(title="engines")
    for heading in ("graph", "library", "target", "size", "seconds"):
        table.add_column(heading)
    for row in rows:
        took = row.refused or ("built before" if row.seconds is None else f"{row.seconds:.1f}")
        table.add_row(row.graph, f"{row.product} {row.version}", row.target, f"{row.size / 1e6:.1f} MB", took)
    console.print(table)
    if any(row.size for row in rows):
        console.print(
            f"engines are in {EngineStore(bundle).folder}; other machines find them at the same place in their cache",
            soft_wrap=True,
            markup=False,
        )


def _print(console: Console, result: ExportResult, gate: str) -> None:
    """Print tables of parity, INT8 sensitivity and latency, the warnings, and what to do next."""
    from ..train.epoch_log import tell_warning
    from .latency import slower

    bundle = result.bundle
    console.print(_parity_table(result, gate))
    if result.int8 is not None:
        int8 = result.int8
        console.print(
            f"int8: {int8.total - len(int8.floating)} of {int8.total} layers, {int8.kind} ranges; "
            f"the sensitivity to each layer is plotted in {bundle.path.with_suffix('.int8.png')}",
            soft_wrap=True,
            markup=False,
        )
        console.print(_sensitivity_table(int8))
    if result.measurements:
        console.print(_latency_table(result, gate))
    for line in (*result.warnings, *slower(result.measurements)):
        tell_warning(console, line)
    size = sum((bundle.path / name).stat().st_size for name in bundle.digests)
    quoted = shlex.quote(str(bundle.path))
    told = f"wrote {bundle.path}/ ({size / 1e6:.1f} MB); try: dfer-run --demo --bundle {quoted}"
    console.print(told, markup=False, soft_wrap=True)


def _parity_table(result: ExportResult, gate: str) -> Table:
    from rich.table import Table

    from .parity import GATES, TIE

    bundle = result.bundle
    labelled = any(parity.war is not None for parity in result.parity.values())
    table = Table(
        title="agreement with PyTorch" + (", gate off" if gate == "off" else ""),
        caption=f"with ties: classes whose probabilities in PyTorch differ by at most {TIE} count as the same",
    )
    for heading in ("", "encoder", "frames", "feature cosine", "|Δp|", "same top-1", "with ties"):
        table.add_column(heading)
    if labelled:
        table.add_column("WAR")
        table.add_column("UAR")
    for precision, parity in result.parity.items():
        limits = GATES.get(gate, {}).get(precision)
        names = bundle.manifest.precisions[precision]["files"]["encoder"]
        file = bundle.path / next(iter(names.values()))
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


def _sensitivity_table(int8: Int8) -> Table:
    from rich.table import Table

    table = Table(title="the most sensitive layers, each alone in INT8")
    for heading in ("layer", "feature cosine", "|Δp|", ""):
        table.add_column(heading)
    for sensitivity in int8.ranking[: max(5, len(int8.floating))]:
        float_ = "stays float" if sensitivity.layer in int8.floating else ""
        table.add_row(sensitivity.layer, f"{sensitivity.cosine:.5f}", f"{sensitivity.delta:.2g}", float_)
    return table


def _latency_table(result: ExportResult, gate: str) -> Table:
    from rich.table import Table

    table = Table(title="encoder latency here, ms (median)")
    for heading in ("provider", "precision", "batch 1", "batch 8", "passes its gate", ""):
        table.add_column(heading)
    for provider, by_precision in result.measurements.items():
        for precision, found in by_precision.items():
            best = result.bundle.manifest.recommended.get(provider) == precision
            passes = "–" if gate == "off" else "yes" if found.parity.passes(precision, gate) else "no"
            milliseconds = [f"{found.latency[batch]:.1f}" for batch in sorted(found.latency)]
            table.add_row(provider, precision, *milliseconds, passes, "recommended" if best else "")
    return table

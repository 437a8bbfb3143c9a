"""`dfer-eval`: WAR, UAR, recalls and the confusion matrix of a checkpoint or a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...runtime.cli.options import command, precision_option, provider_option, refuse_given, version_option
from ...runtime.errors import ParameterError, reports_errors
from ...runtime.storage import atomic_write
from ..data.choice import DataChoice
from .options import data_options, stills_option

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from ..checkpoints.protocol import LearnedFrom
    from ..data.matching import Matching
    from ..evaluation import Model
    from ..metrics import Scores

EPILOG = """\b
Examples:
  dfer-eval align.pt                                 # held-out procedural people
  dfer-eval align.pt --shuffle-frames                # the same without time's order
  dfer-eval align.dfer --stills labels.csv           # the exported bundle on photographs, split val
  dfer-eval align.dfer --precision int8 --provider openvino
  dfer-eval zero.pt --describe mafw.json --data mafw --root MAFW
  dfer-eval dfew-1.pt --data dfew --root DFEW --fold 1 --plot confusion.png
  dfer-eval 'dfew-{fold}.pt' --data dfew --root DFEW # five folds, and their mean
"""


@command(epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@data_options(identities=40)
@stills_option("Test on photographs instead: CSV with the columns image,label,person,split.")
@click.option(
    "--split",
    help="Which part of the data to test on, as its lists name it. Default: test; for --stills val, or test where "
    "there is no val.",
)
@provider_option("cpu", "Where a bundle runs.")
@precision_option
@click.option(
    "--describe",
    "described",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="JSON",
    help="Give the model other classes, by a JSON of class → text, or texts; for methods that read words.",
)
@click.option(
    "--ckpt",
    "checkpoint",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Checkpoint that a bundle was exported from, which reads the texts of --describe. Default: that of its name "
    "beside the bundle.",
)
@click.option(
    "--shuffle-frames",
    is_flag=True,
    help="Put each clip's frames in random order first: what is lost is what the model reads from time.",
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write scores, recalls and the confusion matrix to this file.",
)
@click.option(
    "--plot",
    "plot_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also draw the confusion matrix to this file (.png).",
)
@version_option
@reports_errors
def main(
    model: Path,
    data: DataChoice,
    stills: Path | None,
    split: str | None,
    provider: str,
    precision: str,
    described: Path | None,
    checkpoint: Path | None,
    shuffle_frames: bool,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Score MODEL, a checkpoint (.pt) or a bundle (.dfer), on clips it was not trained on.

    With {fold} in its name, MODEL stands for the models of all folds: five, or those that a CSV has. Classes of other
    data are matched by name, and clips of a class that the model does not have are left out and counted.
    """
    for name, path in (("json_path", json_path), ("plot_path", plot_path)):
        if path is not None and not path.parent.is_dir():
            raise ParameterError(name, f"folder {path.parent} does not exist")
    if plot_path is not None and plot_path.suffix.lower() != ".png":
        raise ParameterError("plot_path", f"the name must end in .png, not {plot_path.name}")
    if stills is not None:
        names = ("data", "root", "fold", "lists", "max_missing", "identities")
        refuse_given(names, "no effect with --stills, which tests on photographs; leave out one or the other")
    if "{fold}" in str(model):
        refuse_given(
            ["fold"], f"no effect with {{fold}} in {model}, which stands for the models of all folds; leave it out"
        )
    from rich.console import Console

    from ...runtime.cli.progress import LongProgress
    from ..epoch_log import tell_warning
    from ..evaluation import open_model

    console = Console()
    warn = partial(tell_warning, console)
    folds = data.folds() if "{fold}" in str(model) else [data.fold]
    results = []
    with LongProgress(console=console) as progress:
        for fold in folds:
            path = Path(str(model).replace("{fold}", str(fold)))
            with open_model(path, provider, precision, described, checkpoint, warn) as opened:
                tested = _test(opened, replace(data, fold=fold), stills, split, shuffle_frames, progress, warn)
            run_as = "" if tested.provider is None else f" ({tested.precision} on {tested.provider})"
            results.append(replace(tested, name=f"{path.name}{run_as} on {tested.name}"))
    for result in results:
        _show(console, result)
    if len(results) > 1:
        war = sum(result.scores.war for result in results) / len(results)
        uar = sum(result.scores.uar() for result in results) / len(results)
        console.print(f"mean of {len(results)} folds   WAR {war:.4f}   UAR {uar:.4f}")
    if json_path is not None:
        values = [_values(result, shuffle_frames, described) for result in results]
        with atomic_write(json_path) as aside:
            aside.write_text(json.dumps(values if len(values) > 1 else values[0], indent=2) + "\n", encoding="utf-8")
    if plot_path is not None:
        from ..metrics import pooled
        from ..plots import plot_confusion

        plot_confusion(pooled([result.scores for result in results]), model.name, plot_path, warn)


@dataclass(frozen=True)
class Tested:
    """Scores of a model on a set of clips.

    name: of the clips, for titles. test_set, fold, part: as in `LearnedFrom.protocol`; fold is None for a set without
    folds, part (`DataChoice.part`) is None for all clips of a folder that is not divided. provider, precision: as in
    `Model`.
    """

    name: str
    test_set: str
    fold: int | None
    part: str | None
    scores: Scores
    matching: Matching
    learned: LearnedFrom | None
    provider: str | None
    precision: str | None

    @property
    def protocol(self) -> str:
        if self.learned is None:
            return "unknown: the model does not say what it was trained on"
        return self.learned.protocol(self.test_set, self.fold, self.part)


def _test(
    model: Model,
    data: DataChoice,
    stills: Path | None,
    split: str | None,
    shuffle: bool,
    progress: Progress,
    warn: Callable[[str], object],
) -> Tested:
    """Test a model on the requested clips."""
    from ..checkpoints.protocol import stills_name
    from ..data import ClipSet
    from ..data.matching import match_classes
    from ..data.stills import StillClips, classes_of_stills, split_to_test
    from ..epoch_log import add_bar
    from ..evaluation import evaluate

    clips: ClipSet
    part: str | None
    if stills is not None:
        part = split = split or split_to_test(stills)
        classes = classes_of_stills(stills, model.classes, warn)
        clips, name = StillClips(stills, split, warn=warn, classes=classes), f"{stills.name}, split {split}"
    else:
        split = None if split is None else data.split_name(split)
        part = data.part(split or "test", True)
        if split not in (None, "test", part):
            raise ParameterError("split", f"{data.root or data.name} has no split {split!r}; leave --split out")
        show = add_bar(progress, "opening clips")
        clips = data.open(split or "test", True, show, warn, model.size)
        show(len(clips), len(clips))
        named = "all clips" if part is None else f"split {part}"
        name = f"{data.name} not trained on" if data.data == "procedural" else f"{data.name}, {named}"
        if data.undivided:
            warn("the folder has no train and test, so these may be the clips the model learned from")
    matching = match_classes(clips, model.classes)
    testing = progress.add_task("testing", total=int((matching.labels >= 0).sum()))
    scores = evaluate(model, clips, shuffle, lambda n: progress.advance(testing, n), matching)
    test_set = data.set_name if stills is None else stills_name(stills)
    name += ", frames shuffled" if shuffle else ""
    fold = data.fold if stills is None and data.has_folds else None
    return Tested(name, test_set, fold, part, scores, matching, model.learned, model.provider, model.precision)


def _values(tested: Tested, shuffled: bool, described: Path | None) -> dict[str, Any]:
    scores, learned = tested.scores, tested.learned
    return {
        "data": tested.name,
        "provider": tested.provider,
        "precision": tested.precision,
        "protocol": tested.protocol,
        "training_sets": None if learned is None else list(learned.labels),
        "caption_sets": None if learned is None else list(learned.captions),
        "encoder_taught": None if learned is None else learned.encoder,
        "test_set": tested.test_set,
        "fold": tested.fold,
        "split": tested.part,
        "described": None if described is None else described.name,
        **tested.matching.to_json(),
        "shuffled": shuffled,
        "clips": int(scores.support.sum()),
        "war": scores.war,
        "uar": scores.uar(),
        "uar_min10": None if isnan(few := scores.uar(10)) else few,
        "calibration_error": scores.calibration_error,
        "uncalibrated_error": scores.uncalibrated_error,
        "confidence": {
            name: None if isnan(value) else value
            for name, value in zip(("right", "wrong"), scores.confidence, strict=True)
        },
        "recalls": {
            name: float(recall)
            for name, recall, support in zip(scores.classes, scores.recalls, scores.support, strict=True)
            if support
        },
        "classes": list(scores.classes),
        "confusion": scores.confusion.tolist(),
    }


def _show(console: Console, tested: Tested) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    scores, learned = tested.scores, tested.learned
    title = f"{escape(tested.name)}: rows true, columns predicted"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0)  # so that eleven classes fit into 80 columns
    table.add_column(overflow="fold")
    for number in range(1, len(scores.classes) + 1):
        table.add_column(str(number), justify="right")
    table.add_column("recall", justify="right")
    rows = zip(scores.classes, scores.confusion, scores.recalls, scores.support, strict=True)
    for number, (name, row, recall, support) in enumerate(rows, 1):
        counts = (str(count) for count in row)
        table.add_row(f"{number:2} {escape(name)}", *counts, f"{recall:.3f}" if support else "–")
    console.print(table)
    told = f"protocol: {tested.protocol}"
    if learned is not None:
        for kind, names in (("labels", learned.labels), ("captions", learned.captions)):
            told += f"; {kind} of {', '.join(names)}" if names else ""
    told += f"; tested on {tested.test_set}" + ("" if tested.fold is None else f", fold {tested.fold}")
    console.print(told, soft_wrap=True, markup=False)
    for line in tested.matching.report():
        console.print(line, soft_wrap=True, markup=False)
    few = [name for name, n in zip(scores.classes, scores.support, strict=True) if n < 10]
    line = f"clips {scores.support.sum()}   WAR {scores.war:.4f}   UAR {scores.uar():.4f}"
    if few and len(few) < len(scores.classes):
        line += f"   UAR of classes with ≥ 10 clips {scores.uar(10):.4f} (fewer: {', '.join(few)})"
    console.print(line)
    right, wrong = ("–" if isnan(one) else f"{one:.3f}" for one in scores.confidence)
    console.print(
        f"calibration error {scores.calibration_error:.4f} ({scores.uncalibrated_error:.4f} before calibration)   "
        f"mean confidence {right} when right, {wrong} when wrong"
    )

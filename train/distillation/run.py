"""One distillation from options to checkpoint: compute the teacher's features, train the tower, tune the head."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from ...runtime.errors import ParameterError
from ..checkpoints.checkpoint import load_checkpoint, save_checkpoint
from ..checkpoints.protocol import KEY, LearnedFrom
from ..checkpoints.states import check_finished
from ..confidence import Calibration
from ..data import CLIP_SECONDS, ClipSet
from ..data.batches import Sampling, Source
from ..data.choice import DRAWN
from ..data.features import Extraction, FeatureSet, stored_features
from ..data.subsets import split_validation
from ..epoch_log import EpochLog, add_bar, progress_bars, tell_anew, tell_epoch, tell_warning
from ..fabric import resolve_precision, start_fabric
from ..methods import Method, method_class
from ..methods.student import Student, check_teacher, distillation_phase
from ..models.tower import build_tower
from ..training import Epoch, Trainer, TrainSettings
from .batches import TaughtBatches
from .crops import open_crops
from .labelled import Labelled, is_tuned, tuning_state
from .options import DistillOptions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_UNIT = 0.01  # features whose norms differ from 1 by less count as L2-normalised
_AT_ONCE = 256  # batch size of the head


@dataclass(frozen=True)
class Recalls:
    """Recalls on labelled clips, 0..1."""

    war: float
    uar: float


@dataclass(frozen=True)
class DistillResult:
    """A trained student and its measures.

    agreement: share of the held-back crops on which it predicts the teacher's class, with the teacher's head.
    cosine: mean cosine, over those crops, of its features with the teacher's.
    On held-back labelled clips, if there are any: teacher; untuned, the student with the teacher's head; tuned, with
    its own head, at the best epoch, and its calibration.
    unseen: whether the teacher is known not to have been trained on these clips; if not, there is no new calibration.
    """

    checkpoint: Path
    agreement: float
    cosine: float
    teacher: Recalls | None = None
    untuned: Recalls | None = None
    tuned: Recalls | None = None
    calibration: Calibration | None = None
    unseen: bool = False

    @classmethod
    def of_checkpoint(cls, path: Path, training: dict[str, Any]) -> DistillResult:
        """Build from the training record of a student's checkpoint."""
        told = training["distillation"]
        labelled = {name: Recalls(**told[name]) for name in ("teacher_recalls", "untuned_recalls") if name in told}
        best, fitted = training.get("scores"), training.get("calibration")
        return cls(
            path,
            told["agreement"],
            told["cosine"],
            labelled.get("teacher_recalls"),
            labelled.get("untuned_recalls"),
            Recalls(best[-1]["war"], best[-1]["uar"]) if best else None,
            None if fitted is None else Calibration.from_json(fitted),
            told.get("unseen", False),
        )


def distill(options: DistillOptions, console: Console | None = None) -> DistillResult:
    """Train a student and write its checkpoint, as `dfer-distill` does.

    console: shows progress and warnings; None for silence; quiet in all processes but the first.
    Raises DferError for unusable options, teacher or faces.
    """
    options.check()
    console = console or Console(quiet=True)
    fabric = start_fabric(options.precision)
    console.quiet |= fabric.global_rank != 0
    load = method_class(options.published_by).load_published if options.published_by else load_checkpoint
    teacher, training = load(options.teacher)
    size = options.image_size or teacher.preprocessing.size
    check_teacher(teacher)
    build_tower(options.tower, teacher.width, size)  # fails early if it cannot be built
    asked = _asked(options, size, training, teacher)
    window = {name: training[name] for name in (CLIP_SECONDS, "span", "history") if name in training}
    state = options.out.with_suffix(".state")
    taught = None
    if options.resume and options.out.is_file() and not state.is_file():
        taught = _finished(options, asked)
    elif not options.resume:
        tell_anew(console, options.out)
    with progress_bars(console) as progress:
        finished = taught is not None
        if taught is None:
            taught = _Distillation(options, fabric, progress, teacher, asked, size).run(state, window)
        elif options.faces != DRAWN:  # drawn ones are the same as long as their number is
            crops = {"crops": _open_crops(options, teacher, size, progress).fingerprint}
            check_finished(options.out, {"crops": taught[1]["distillation"]["crops"]}, crops)
        student, training = taught
        labelled = None
        if options.labelled is not None:
            largest = max(teacher.preprocessing.size, student.preprocessing.size)
            labelled = Labelled(options, fabric, progress, window, training["distillation"], largest)
        if finished and (labelled is None or labelled.used(training)):
            console.print(f"{escape(str(options.out))} is finished; there is nothing to resume")
            return DistillResult.of_checkpoint(options.out, training)
        if labelled is not None:
            labelled.use(teacher, student)
    fabric.barrier()
    return DistillResult.of_checkpoint(options.out, load_checkpoint(options.out)[1])


def _asked(options: DistillOptions, size: int, training: dict[str, Any], teacher: Method) -> dict[str, Any]:
    """Return the settings that a resumed run must share with the interrupted one; checkpoints record them too."""
    digest = hashlib.sha256(options.teacher.read_bytes()).hexdigest()
    taught = {
        "file": options.teacher.name,
        "sha256": digest,
        "method": teacher.name,
        "trained_on": training.get("name"),
    }
    learned = LearnedFrom.of_training(training)
    return {
        "teacher": taught | ({} if learned is None else {KEY: learned.to_json()}),
        "tower": options.tower,
        "image_size": size,
        "faces": f"{options.identities} procedural people" if options.faces == DRAWN else Path(options.faces).name,
        "views": options.views,
        "held_back": options.held_back,
        "epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "batch": options.batch,
        "balance": options.balance,
        "precision": resolve_precision(options.precision),
        "seed": options.seed,
    }


def _finished(options: DistillOptions, asked: dict[str, Any]) -> tuple[Student, dict[str, Any]]:
    """Load a student whose tower is trained. Raises ParameterError if it was trained with other settings."""
    student, training = load_checkpoint(options.out)
    if not isinstance(student, Student):
        raise ParameterError("resume", f"{options.out} is no student; name another file, or distil without")
    made = {name: value for name, value in training["distillation"].items() if name in asked}
    if options.labelled is not None and is_tuned(training):
        asked = dict(asked)
        for name, was, now in (
            ("data", training["name"], options.labelled.name),
            ("stills_share", sum(training["shares"][1:]), 0 if options.stills is None else options.stills_share),
            ("tune_head", True, options.tune_head),
            ("tune_epochs", training["plan"]["epochs"][0], options.tune_epochs),
        ):
            made[name], asked[name] = was, now
    check_finished(options.out, made, asked)
    return student, training


def _open_crops(options: DistillOptions, teacher: Method, size: int, progress: Progress) -> ClipSet:
    show, warn = add_bar(progress, "opening faces"), partial(tell_warning, progress.console)
    return open_crops(options, teacher.classes, max(size, teacher.preprocessing.size), warn, show)


class _Distillation:
    """The distillation of the tower: encode the crops with the teacher, then train the student on the features."""

    def __init__(
        self,
        options: DistillOptions,
        fabric: Fabric,
        progress: Progress,
        teacher: Method,
        asked: dict[str, Any],
        size: int,
    ) -> None:
        self._options, self._fabric, self._progress, self._asked = options, fabric, progress, asked
        self._teacher = teacher
        fabric.to_device(teacher)
        self._size = size
        self._extraction = Extraction(
            options.views,
            "strong",
            options.seed,
            batch=options.batch,
            window=1,
            rank=fabric.global_rank,
            world=fabric.world_size,
            precision=asked["precision"],
        )

    def run(self, state: Path, window: dict[str, Any]) -> tuple[Student, dict[str, Any]]:
        """Train the tower and write the checkpoint; return the student and its training record."""
        options, fabric, progress = self._options, self._fabric, self._progress
        if not options.resume:
            tuning_state(options.out).unlink(missing_ok=True)
        crops = _open_crops(options, self._teacher, self._size, progress)
        features = self._encode(crops)
        training, held_back = split_validation(features.labels, options.held_back, options.seed, crops.groups)
        torch.manual_seed(options.seed)
        student = Student.of_teacher(self._teacher.cpu(), options.tower, self._size, _length(features))
        fabric.to_device(student)
        sampling = Sampling(options.batch, options.balance, rank=fabric.global_rank, world=fabric.world_size)
        task = progress.add_task("distilling", total=None, note="")

        def batches(rows: NDArray[np.int64]) -> TaughtBatches:
            advance = partial(progress.advance, task)
            part = features.part(rows)
            return TaughtBatches(crops, part, self._extraction, self._size, options.workers, sampling, advance)

        learned, tested = batches(training), batches(held_back)
        progress.update(task, total=options.epochs * learned.steps)
        division = Source(crops, 1.0, training, held_back).division
        record = {**self._asked, "crops": crops.fingerprint, "division": division, "model": student.config()}
        phases = [distillation_phase(options.epochs, options.learning_rate)]
        settings = TrainSettings(seed=options.seed)
        trainer = Trainer(student, phases, learned, tested, settings, fabric, state, record)
        writes = fabric.global_rank == 0
        goes_on = options.resume and state.is_file()
        log = EpochLog(options.out.with_suffix(".jsonl"), options.tensorboard, goes_on) if writes else None

        def on_epoch(epoch: Epoch) -> None:
            cosine = _mean_cosine(student, tested, fabric)
            if log is not None:
                log.write(epoch, cosine=cosine)
            note = f"loss {epoch.loss:.3f}, cosine {cosine:.3f}, agreement {epoch.war:.3f}"
            progress.update(task, completed=epoch.number * learned.steps, note=note)
            tell_epoch(progress.console, epoch, note)

        trainer.run(options.resume, on_epoch)
        told: dict[str, Any] = {
            **{name: value for name, value in record.items() if name != "model"},
            "crops_learned": len(training),
            "crops_held_back": len(held_back),
            "agreement": trainer.results[-1].war,
            "class_agreement": trainer.results[-1].uar,
            "cosine": _mean_cosine(student, tested, fabric),
        }
        notes = {"distillation": told, **window}  # the head was trained on these windows
        if log is not None:
            save_checkpoint(student, options.out, notes, student.confidence)
            log.close()
            state.unlink(missing_ok=True)
        return student, notes

    def _encode(self, crops: ClipSet) -> FeatureSet:
        """Return the teacher's features of all views of the crops; their labels are its predictions."""
        options, teacher, fabric = self._options, self._teacher, self._fabric
        task = self._progress.add_task("encoding with the teacher", total=len(crops) / fabric.world_size, note="")
        folder = options.features or options.out.parent / "features"
        advance = partial(self._progress.advance, task)
        stored = stored_features(folder, teacher, crops, self._extraction, advance, fabric.barrier)
        labels = _predict(teacher, stored.features[0, :, 0])
        counts = np.bincount(labels, minlength=len(teacher.classes)).tolist()
        listed = ", ".join(f"{name} {n}" for name, n in zip(teacher.classes, counts, strict=True))
        self._progress.console.print(escape(f"faces as the teacher takes them: {listed}"), soft_wrap=True)
        return replace(stored, labels=labels)


def _length(features: FeatureSet) -> float | None:
    """Return the mean norm of the test views' features; None if they are L2-normalised."""
    lengths = np.linalg.norm(features.features[0, :, 0].astype(np.float32), axis=-1)
    return None if np.abs(lengths - 1).max() < _UNIT else float(lengths.mean())


@torch.inference_mode()
def _predict(method: Method, features: NDArray[np.float16]) -> NDArray[np.int64]:
    """Return the class, int64 [N], that the head predicts for each frame feature [N,D], repeated to fill a window."""
    device, matrix = next(method.parameters()).device, method.class_matrix()
    found = []
    for start in range(0, len(features), _AT_ONCE):
        part = torch.from_numpy(features[start : start + _AT_ONCE].astype(np.float32)).to(device)
        found.append(method.logits(part[:, None].expand(-1, method.window, -1), matrix).argmax(dim=-1).cpu().numpy())
    return np.concatenate(found)


@torch.no_grad()
def _mean_cosine(student: Student, batches: TaughtBatches, fabric: Fabric) -> float:
    """Return the mean cosine of the student's and the teacher's features of test views, over all processes."""
    student.eval()
    total = torch.zeros(2, device=fabric.device)  # sum and number of cosines
    for batch in batches.in_order():
        assert batch.taught is not None
        with fabric.autocast():
            features = student.encode_frames(batch.inputs.to(fabric.device))
        cosines = torch.cosine_similarity(features.float(), batch.taught.to(fabric.device), dim=-1)
        total += torch.stack([cosines.sum(), torch.ones_like(cosines).sum()])
    summed: Any = fabric.all_reduce(total, reduce_op="sum")
    return float(summed[0] / summed[1])

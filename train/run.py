"""One training run from options to checkpoint: data → features or pixels → phases → `out`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TextColumn

from .checkpoints.checkpoint import load_checkpoint, save_checkpoint, save_trained
from .data import ClipSet
from .data.batches import Batches, FeatureBatches, PixelBatches, Sampling
from .data.features import Extraction, FeatureSet, stored_features
from .data.stills import StillClips
from .data.subsets import Subset, split_validation
from .epoch_log import EpochLog
from .fabric import start_fabric
from .methods import Method, method_class
from .methods.method import build_method, check_options
from .methods.phases import Phase, adapt_plan
from .models.clip import load_clip
from .options import TrainOptions
from .training import Epoch, Trainer, TrainSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its checkpoint, and the best epoch of every step of the method, in order."""

    checkpoint: Path
    steps: tuple[Epoch, ...]


def run_training(options: TrainOptions, console: Console | None = None) -> TrainResult:
    """Train and write `options.out`, as `dfer-train` does.

    console: where progress and warnings are shown, None for nowhere; kept quiet in all processes but the first.
    Raises DferError for options or data that cannot work.
    """
    options.check()
    console = console or Console(quiet=True)
    state = options.out.with_suffix(".state")
    fabric = start_fabric(options.precision)
    console.quiet |= fabric.global_rank != 0
    if options.resume and options.out.is_file() and not state.is_file():
        console.print(f"{escape(str(options.out))} is finished; there is nothing to resume")
        scores = load_checkpoint(options.out)[1].get("scores", [])
        return TrainResult(options.out, tuple(Epoch(**one) for one in scores))
    if state.is_file() and not options.resume:
        console.print(f"{escape(str(state))}: an interrupted run; starting anew, resuming would go on with it")
    torch.manual_seed(options.seed)
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console) as progress:
        return TrainResult(options.out, tuple(_Run(options, fabric, progress, state).train()))


@dataclass(frozen=True)
class _Source:
    """Clips to train on with the share of each batch they fill, divided into training and validation."""

    clips: ClipSet
    share: float
    training: NDArray[np.int64]
    validation: NDArray[np.int64]


class _Run:
    """What the parts of one run share."""

    def __init__(self, options: TrainOptions, fabric: Fabric, progress: Progress, state: Path) -> None:
        self._options, self._fabric, self._progress, self._state = options, fabric, progress, state
        self._augmentation = options.augmentation or ("strong" if options.data.data == "procedural" else "paper")
        self._sampling = Sampling(options.batch, options.balance, rank=fabric.global_rank, world=fabric.world_size)

    def train(self) -> list[Epoch]:
        """Returns the best epoch of each step."""
        options, fabric = self._options, self._fabric
        chosen = method_class(options.method)
        check_options(chosen, options.method_options)
        plan = adapt_plan(chosen.default_plan, options.epochs, options.learning_rate, options.depth)
        clip = load_clip(options.clip, options.pretrained, crop_size=options.crop)
        sources, test = self._open_data()
        method = build_method(chosen, clip, sources[0].clips.classes, plan, options.method_options)
        phases = method.phases(plan)
        fabric.to_device(method)
        settings = TrainSettings(class_weights=options.class_weights, ema=options.ema, seed=options.seed)
        record: dict[str, Any] = {
            "model": method.config(),
            "options": {name: _plain(value) for name, value in options.method_options.items()},
            "plan": asdict(plan),
            "settings": asdict(settings),
            "batch": options.batch,
            "balance": options.balance,
            "views": options.views,
            "augmentation": self._augmentation,
            "data": self._fingerprints(sources),
        }
        make_batches = self._pixel_batches if method.trains_encoder(phases) else self._feature_batches
        training, validation = make_batches(method, sources, test)
        trainer = Trainer(method, phases, training, validation, settings, fabric, self._state, record)
        self._run_and_write(trainer, method, phases, record)
        return trainer.results

    def _run_and_write(self, trainer: Trainer, method: Method, phases: list[Phase], record: dict[str, Any]) -> None:
        """Run the trainer, and write log and checkpoints as it goes."""
        out, writes = self._options.out, self._fabric.global_rank == 0
        log = EpochLog(out.with_suffix(".jsonl"), self._options.tensorboard, self._options.resume) if writes else None
        task = self._progress.add_task("training", total=sum(phase.epochs for phase in phases), note="")
        steps = [phase.step for phase in phases]

        def on_epoch(epoch: Epoch) -> None:
            if log is not None:
                log.write(epoch)
            before = sum(phase.epochs for phase in phases[: steps.index(epoch.step)])
            note = f"{epoch.step}, loss {epoch.loss:.3f}, WAR {epoch.war:.3f}, UAR {epoch.uar:.3f}"
            self._progress.update(task, completed=before + epoch.number, note=note)

        def save(name: str, training: dict[str, Any]) -> None:
            save_trained(method, method.trained_state(phases), out.with_suffix(f".{name}.pt"), training, out)

        def on_step(epoch: Epoch) -> None:
            if writes:
                scores = [one.to_json() for one in trainer.results]
                training = {**record, "name": self._options.data.name, "scores": scores}
                save_checkpoint(method, out, training)
                save(f"step-{epoch.step}", training)

        def on_end() -> None:
            if writes:
                save("last", record)

        trainer.run(self._options.resume, on_epoch, on_step, on_end)
        if log is not None:
            log.close()
            self._state.unlink(missing_ok=True)

    def _open_data(self) -> tuple[list[_Source], ClipSet | None]:
        """The training clips, photographs last; and the test clips, where epochs are chosen on them."""
        options, data, progress = self._options, self._options.data, self._progress
        stills = None if options.stills is None else StillClips(options.stills, "train", options.stills_most)
        task = progress.add_task("opening clips", total=data.identities, note="")
        clips = data.open("train", False, lambda done: progress.update(task, completed=done), self._warn)
        progress.update(task, completed=data.identities)
        sets: list[tuple[ClipSet, float]] = [(clips, 1.0)]
        if stills is not None:
            sets = [(clips, 1 - options.stills_share), (stills, options.stills_share)]
        if options.select_on_test:
            everything = [_Source(clips, share, np.arange(len(clips)), np.arange(0)) for clips, share in sets]
            return everything, data.open("test", held_out=True, warn=self._warn)
        return [
            _Source(clips, share, *split_validation(clips.labels, options.validation, options.seed, clips.groups))
            for clips, share in sets
        ], None

    def _fingerprints(self, sources: list[_Source]) -> list[str]:
        """Of the training clips. The first process reads them where they are new, the others find its digests."""
        task = self._progress.add_task("checking clips", total=len(sources), note="")
        found = []
        for source in sources:
            with self._fabric.rank_zero_first(local=True):
                found.append(source.clips.fingerprint)
            self._progress.advance(task)
        return found

    def _warn(self, message: str) -> None:
        self._progress.console.print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True)

    def _feature_batches(self, method: Method, sources: list[_Source], test: ClipSet | None) -> tuple[Batches, Batches]:
        options, fabric = self._options, self._fabric
        clips_in_all = sum(len(source.clips) for source in sources) + (0 if test is None else len(test))
        task = self._progress.add_task("encoding clips", total=clips_in_all / fabric.world_size, note="")

        def encode(clips: ClipSet, views: int) -> FeatureSet:
            share = Extraction(
                views, self._augmentation, options.seed, rank=fabric.global_rank, world=fabric.world_size
            )
            folder = options.features or options.out.parent / "features"
            advance = partial(self._progress.advance, task)
            return stored_features(folder, method, clips, share, advance, fabric.barrier)

        sets = [encode(source.clips, options.views) for source in sources]
        training = [(whole.part(source.training), source.share) for whole, source in zip(sets, sources, strict=True)]
        if test is not None:
            validation = [(encode(test, 0), 1.0)]
        else:
            validation = [(whole.part(source.validation), 1.0) for whole, source in zip(sets, sources, strict=True)]
        return FeatureBatches(training, self._sampling), FeatureBatches(validation, self._sampling)

    def _pixel_batches(self, method: Method, sources: list[_Source], test: ClipSet | None) -> tuple[Batches, Batches]:
        def batches(parts: list[tuple[ClipSet, float]]) -> PixelBatches:
            size, workers = method.preprocessing.size, self._options.data.workers
            return PixelBatches(parts, method.classes, size, self._augmentation, workers, self._sampling)

        training: list[tuple[ClipSet, float]] = [
            (Subset(source.clips, source.training), source.share) for source in sources
        ]
        held_back = [Subset(source.clips, source.validation) for source in sources] if test is None else [test]
        return batches(training), batches([(clips, 1.0) for clips in held_back])


def _plain(value: Any) -> Any:
    """As checkpoints and state files can hold it."""
    return str(value) if isinstance(value, Path) else value

"""One training run from options to checkpoint: data → features or pixels → phases → `OUT`."""

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

from ..runtime.errors import DferError
from .checkpoints.checkpoint import save_checkpoint
from .data import ClipSet, labels_of
from .data.batches import Batches, FeatureBatches, PixelBatches, Sampling
from .data.choice import DataChoice
from .data.features import Extraction, FeatureSet, stored_features
from .data.stills import StillClips
from .data.subsets import Subset, split_validation
from .epoch_log import EpochLog
from .fabric import start_fabric
from .methods import Method, method_classes
from .methods.align_dfer import AlignDfer
from .methods.dfer_clip import DferClip
from .methods.phases import adapt_plan
from .models.clip import Clip, load_clip
from .models.descriptions import DESCRIPTIONS, load_descriptions
from .models.prompts import DescribedPrompts
from .training import Epoch, Trainer, TrainSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class RunOptions:
    """The options of `dfer-train` that are not about which data; see its --help."""

    method: str
    clip_name: str
    pretrained: str | None
    crop: int
    stills: Path | None
    stills_share: float
    stills_most: int
    validation: float
    select_on_test: bool
    tokens: int
    epochs: tuple[int, ...]
    learning_rate: tuple[float, ...]
    depth: tuple[int, ...]
    no_mat: bool
    no_jas: bool
    single_step: bool
    descriptions: Path | None
    freeze_image_encoder: bool
    views: int
    augmentation: str | None
    features: Path | None
    batch: int
    balance: float
    class_weights: bool
    ema: float
    precision: str
    tensorboard: Path | None
    seed: int

    def check(self) -> None:
        """Raise DferError for options that contradict each other."""
        align = self.method == "align-dfer"
        if not align and (self.no_mat or self.no_jas or self.single_step):
            raise DferError("--no-mat, --no-jas and --single-step are about align-dfer's parts")
        if align and self.freeze_image_encoder:
            raise DferError("align-dfer's image encoder is always frozen; --freeze-image-encoder is for dfer-clip")
        if align and self.descriptions is not None and not self.no_mat:
            raise DferError("--descriptions: align-dfer's tokens are wordless; with --no-mat, descriptions are used")
        if self.select_on_test and self.stills is not None:
            raise DferError("--select-on-test: photographs have no test split to choose on")


@dataclass(frozen=True)
class _Source:
    """Clips to train on with the share of each batch they fill, divided into training and validation."""

    clips: ClipSet
    share: float
    training: NDArray[np.int64]
    validation: NDArray[np.int64]


def run_training(out: Path, choice: DataChoice, options: RunOptions, resume: bool) -> None:
    """Train and write `out`. See `dfer-train --help`. Raises DferError for options or data that cannot work."""
    options.check()
    state = out.with_suffix(".state")
    fabric = start_fabric(options.precision)
    console = Console(quiet=fabric.global_rank != 0, soft_wrap=True)
    if resume and out.is_file() and not state.is_file():
        console.print(f"{escape(str(out))} is finished; there is nothing to resume")
        return
    if state.is_file() and not resume:
        console.print(f"{escape(str(state))}: an interrupted run; starting anew, --resume would go on with it")
    torch.manual_seed(options.seed)
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console) as progress:
        best = _Run(out, choice, options, fabric, progress).run(state, resume)
    where = "the test split" if options.select_on_test else "validation clips"
    for epoch in best:
        console.print(
            f"step {epoch.step}: best epoch {epoch.number} of {epoch.epochs}, "
            f"WAR {epoch.war:.4f}, UAR {epoch.uar:.4f} on {where}"
        )
    if options.select_on_test:
        console.print("[bold red]epochs were chosen on the test split: these figures are no test results[/]")
    console.print(f"wrote {out}; next: dfer-eval {out}, dfer-export --ckpt {out}", markup=False)


class _Run:
    """What the parts of one run share."""

    def __init__(self, out: Path, choice: DataChoice, options: RunOptions, fabric: Fabric, progress: Progress) -> None:
        self._out, self._choice, self._options, self._fabric = out, choice, options, fabric
        self._progress = progress
        self._augmentation = options.augmentation or ("strong" if choice.data == "procedural" else "paper")
        self._sampling = Sampling(options.batch, options.balance, rank=fabric.global_rank, world=fabric.world_size)

    def run(self, state: Path, resume: bool) -> list[Epoch]:
        """Returns the best epoch of each step."""
        options, fabric, out = self._options, self._fabric, self._out
        plan = adapt_plan(
            method_classes()[options.method].default_plan,
            options.epochs,
            options.learning_rate,
            options.depth,
            options.single_step,
        )
        clip = load_clip(options.clip_name, options.pretrained, crop_size=options.crop)
        sources, test = self._open_data()
        method = self._build_method(clip, sources[0].clips.classes, plan.depths)
        phases = method.phases(plan)
        fabric.to_device(method)
        trains_encoder = any(prefix.startswith("clip_model") for phase in phases for prefix in phase.rates)
        make_batches = self._pixel_batches if trains_encoder else self._feature_batches
        training, validation = make_batches(method, sources, test)
        settings = TrainSettings(class_weights=options.class_weights, ema=options.ema, seed=options.seed)
        record: dict[str, Any] = {
            "model": method.config(),
            "plan": asdict(plan),
            "settings": asdict(settings),
            "batch": options.batch,
            "balance": options.balance,
            "views": options.views,
            "augmentation": self._augmentation,
            "data": [source.clips.fingerprint for source in sources],
        }
        trainer = Trainer(method, phases, training, validation, settings, fabric, state, record)
        task = self._progress.add_task("training", total=sum(phase.epochs for phase in phases), note="")
        writes = fabric.global_rank == 0
        epoch_log = EpochLog(out.with_suffix(".jsonl"), options.tensorboard, append=resume) if writes else None

        def on_epoch(epoch: Epoch) -> None:
            if epoch_log is not None:
                epoch_log.write(epoch)
            steps = [phase.step for phase in phases]
            before = sum(phase.epochs for phase in phases[: steps.index(epoch.step)])
            note = f"{epoch.step}, loss {epoch.loss:.3f}, WAR {epoch.war:.3f}, UAR {epoch.uar:.3f}"
            self._progress.update(task, completed=before + epoch.number, note=note)

        def on_step(epoch: Epoch) -> None:
            if writes:
                training = {**record, "name": self._choice.name, "scores": [one.to_json() for one in trainer.results]}
                save_checkpoint(method, out.with_suffix(f".step-{epoch.step}.pt"), training)
                if epoch.step == phases[-1].step:
                    save_checkpoint(method, out, training)

        def on_end() -> None:
            if writes:
                save_checkpoint(method, out.with_suffix(".last.pt"), record)

        trainer.run(resume, on_epoch, on_step, on_end)
        if epoch_log is not None:
            epoch_log.close()
            state.unlink(missing_ok=True)
        return trainer.results

    def _open_data(self) -> tuple[list[_Source], ClipSet | None]:
        """The training clips, photographs last; and the test clips, where epochs are chosen on them."""
        choice, options, progress = self._choice, self._options, self._progress
        stills = None if options.stills is None else StillClips(options.stills, "train", options.stills_most)
        task = progress.add_task("opening clips", total=choice.identities, note="")
        clips = choice.open("train", False, lambda done: progress.update(task, completed=done), self._warn)
        progress.update(task, completed=choice.identities)
        sets: list[tuple[ClipSet, float]] = [(clips, 1.0)]
        if stills is not None:
            sets = [(clips, 1 - options.stills_share), (stills, options.stills_share)]
        if options.select_on_test:
            everything = [_Source(clips, share, np.arange(len(clips)), np.arange(0)) for clips, share in sets]
            return everything, choice.open("test", held_out=True, warn=self._warn)
        return [
            _Source(clips, share, *split_validation(clips.labels, options.validation, options.seed, clips.groups))
            for clips, share in sets
        ], None

    def _warn(self, message: str) -> None:
        self._progress.console.print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True)

    def _build_method(self, clip: Clip, classes: tuple[str, ...], depths: tuple[int, ...]) -> Method:
        options = self._options
        described = DESCRIPTIONS if options.descriptions is None else load_descriptions(options.descriptions, classes)
        if options.method == DferClip.name:
            prompts = DescribedPrompts.from_sentences(clip, [described[name][0] for name in classes])
            frozen = options.freeze_image_encoder
            return DferClip(clip, prompts, classes, layers=depths[0], freeze_image_encoder=frozen)
        layers = None if options.no_jas else depths[-1]
        method = AlignDfer(clip, classes, tokens=0 if options.no_mat else options.tokens, video_layers=layers)
        if options.no_mat:
            method.describe_classes(described)
        return method

    def _feature_batches(self, method: Method, sources: list[_Source], test: ClipSet | None) -> tuple[Batches, Batches]:
        options, fabric = self._options, self._fabric
        clips_in_all = sum(len(source.clips) for source in sources) + (0 if test is None else len(test))
        task = self._progress.add_task("encoding clips", total=clips_in_all / fabric.world_size, note="")

        def encode(clips: ClipSet, views: int) -> FeatureSet:
            share = Extraction(
                views, self._augmentation, options.seed, rank=fabric.global_rank, world=fabric.world_size
            )
            folder = options.features or self._out.parent / "features"
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
            labelled = [(clips, labels_of(clips, method.classes), share) for clips, share in parts]
            size, workers = method.preprocessing.size, self._choice.workers
            return PixelBatches(labelled, size, self._augmentation, workers, self._sampling)

        training: list[tuple[ClipSet, float]] = [
            (Subset(source.clips, source.training), source.share) for source in sources
        ]
        held_back = [Subset(source.clips, source.validation) for source in sources] if test is None else [test]
        return batches(training), batches([(clips, 1.0) for clips in held_back])

"""One training run from options to checkpoint: data → features or pixels → phases → `out`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from ..runtime.errors import ParameterError, check_unset
from ..runtime.labels import EXPRESSIONS
from .captions.clips import captioned, captions_of, check_unlabelled, open_unlabelled
from .captions.contrast import CaptionTokens
from .captions.reading import Captions
from .checkpoints.checkpoint import load_checkpoint, save_checkpoint, save_trained
from .checkpoints.protocol import KEY, Division, divisions_of, learned_from
from .checkpoints.states import check_finished
from .confidence import LEAST, Calibration, Confidence
from .data import ClipSet
from .data.batches import Batches, FeatureBatches, PixelBatches, Sampling, Source, clip_seconds, count_classes
from .data.features import Extraction, FeatureSet, stored_features
from .data.procedural import ProceduralClips
from .data.stills import StillClips
from .data.subsets import Subset
from .data.videos import VideoClips
from .digests import plain_option, weights_digest
from .epoch_log import EpochLog, add_bar, progress_bars, tell_anew, tell_epoch, tell_step, tell_warning
from .fabric import resolve_precision, start_fabric
from .landmarks.reading import Landmarks, find_landmarks, read_landmarks
from .methods import Method, method_class
from .methods.method import build_method, check_options
from .methods.phases import Phase, Plan, adapt_plan
from .models.clip import load_clip
from .models.descriptions import load_descriptions
from .options import TrainOptions
from .training import Epoch, Trainer, TrainSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its checkpoint, the best epoch of every step of the method, in order, and its calibration.

    steps: empty if nothing was trained. calibration: None without labels, with too few held-back clips to fit it on,
    and for a run of an earlier version.
    """

    checkpoint: Path
    steps: tuple[Epoch, ...]
    calibration: Calibration | None = None


def run_training(options: TrainOptions, console: Console | None = None) -> TrainResult:
    """Train and write `options.out`, as `dfer-train` does.

    console: shows progress and warnings; None for silence; quiet in all processes but the first.
    Raises DferError for unusable options or data.
    """
    options.check()
    console = console or Console(quiet=True)
    state = options.out.with_suffix(".state")
    fabric = start_fabric(options.precision)
    console.quiet |= fabric.global_rank != 0
    made: dict[str, Any] | None = None
    if options.resume and options.out.is_file() and not state.is_file():
        method, made = load_checkpoint(options.out)
        if method.name != options.method:
            raise ParameterError("resume", f"{options.out} is of {method.name}; name another file, or go without")
    if not options.resume:
        tell_anew(console, options.out)
    torch.manual_seed(options.seed)
    with progress_bars(console) as progress:
        run = Run(options, fabric, progress, state, made)
        return TrainResult(options.out, tuple(run.train()), run.calibration)


class Run:
    """One run: opens data, makes batches, trains and writes checkpoints.

    made: the training record of a finished `options.out`, to compare with.
    divisions: of the clips and the photographs; None: as the options say.
    """

    def __init__(
        self,
        options: TrainOptions,
        fabric: Fabric,
        progress: Progress,
        state: Path,
        made: dict[str, Any] | None = None,
        divisions: tuple[Division, ...] | None = None,
    ) -> None:
        self._options, self._fabric, self._progress, self._state, self._made = options, fabric, progress, state, made
        usual = "strong" if options.data.data == "procedural" else method_class(options.method).augmentation
        self._augmentation = options.augmentation or usual
        self._precision = resolve_precision(options.precision)
        rank, world, span, history = fabric.global_rank, fabric.world_size, options.span, options.history
        self._sampling = Sampling(options.batch, options.balance, span=span, history=history, rank=rank, world=world)
        self._warn = partial(tell_warning, progress.console)
        self.calibration: Calibration | None = None
        self.divisions = divisions or divisions_of(options)

    def train(self) -> list[Epoch]:
        """Train as the options say; return the best epoch of each step."""
        options = self._options
        chosen = method_class(options.method)
        own = dict(options.method_options)
        if options.captions is not None:
            own |= {"captions": None} | ({"caption_weight": options.caption_weight} if chosen.labelled else {})
        if options.middle is not None:
            own |= {"middle": options.middle, "middle_weight": options.middle_weight}
        if not chosen.labelled:
            check_unlabelled(options, options.captions is not None)
        check_options(chosen, own)
        plan = adapt_plan(chosen.default_plan, options.epochs, options.learning_rate, options.depth)
        size: dict[str, Any] = {"image_size": options.image_size, "patches": options.patches}
        clip = load_clip(options.clip, options.pretrained, crop_size=options.crop, **size)
        start = weights_digest(clip.model.state_dict())
        captions: Captions | None = None
        sources: list[Source] = []
        if chosen.labelled:
            sources = self.open_data(clip.preprocessing.size)
            clips = sources[0].clips
            classes = clips.classes
            if options.captions is not None:
                captions = captions_of(clips, options.captions, classes, options.data.listed())
        else:
            texts = options.method_options.get("descriptions")
            classes = EXPRESSIONS if texts is None else tuple(load_descriptions(texts))
            if options.captions is not None:
                source, captions = self._open_captioned(classes, clip.preprocessing.size)
                sources.append(source)
        if captions is not None:
            own["captions"] = CaptionTokens(clip, captions.texts)
            self._show_captions(captions, own["captions"], sources[0])
        method = build_method(chosen, clip, classes, plan, own)
        identity: dict[str, Any] = {
            "options": {name: plain_option(value) for name, value in options.method_options.items()},
            "pretrained": start,
        }
        if captions is not None:
            identity["captions"] = {"sha256": captions.digest, "weight": options.caption_weight}
        if options.middle is not None:
            landmarks = self._gather_landmarks(sources[0])
            sources[0] = replace(sources[0], landmarks=landmarks)
            identity["middle"] = {"sha256": landmarks.digest, "weight": options.middle_weight}
        learned = learned_from(options, chosen.labelled, self.divisions, clip.taught)
        return self.fit(method, plan, sources, identity, {KEY: learned.to_json()})

    def fit(
        self,
        method: Method,
        plan: Plan,
        sources: list[Source],
        identity: dict[str, Any],
        notes: dict[str, Any] | None = None,
        confidence: Confidence | None = None,
    ) -> list[Epoch]:
        """Train `method` and write its checkpoints; return the best epoch of each step.

        identity: plain values, besides the options, that a resumed run must share with the interrupted one.
        notes: further plain values for the checkpoint's training record.
        confidence: the model's confidence; None: fit it to the held-back clips.
        """
        options, fabric = self._options, self._fabric
        phases = method.phases(plan)
        fabric.to_device(method)
        settings = TrainSettings(class_weights=options.class_weights, ema=options.ema, seed=options.seed)
        record: dict[str, Any] = {
            "model": method.config(),
            "plan": asdict(plan),
            "settings": asdict(settings),
            "batch": options.batch,
            "balance": options.balance,
            "span": options.span,
            "history": options.history,
            "views": options.views,
            "augmentation": self._augmentation,
            "precision": self._precision,
            "shares": [source.share for source in sources],
            "validation": self.divisions[0].share,
            **self.digests(sources),
            **identity,
        }
        notes = (notes or {}) | clip_seconds(sources)
        if self._made is not None:
            return self._finished(self._made, record)
        if not phases:
            if fabric.global_rank == 0:
                save_checkpoint(method, options.out, record | notes)
            return []
        on_pixels = method.trains_encoder(phases)
        of_features = ["span", "history", "views", *(["features"] if options.middle is None else [])]  # or of landmarks
        if on_pixels:
            problem = "is for methods with a frozen image encoder, which train on stored features"
            check_unset(options, problem, *of_features)
        elif not options.views:
            check_unset(options, "has no effect without augmented views; add some (views)", "augmentation")
        make_batches = self._pixel_batches if on_pixels else self._feature_batches
        training, validation = make_batches(method, sources)
        trainer = Trainer(method, phases, training, validation, settings, fabric, self._state, record)
        self._run_and_write(trainer, method, phases, record | notes, confidence)
        return trainer.results

    def _finished(self, made: dict[str, Any], record: dict[str, Any]) -> list[Epoch]:
        """Return the results of an earlier run. Raises ParameterError if its settings were different."""
        out = self._options.out
        extras = {"captions": None, "middle": None}  # recorded only if given; earlier versions recorded less
        known = record | extras | made
        check_finished(out, {name: known[name] for name in extras | record}, record)
        self._progress.console.print(f"{escape(str(out))} is finished; there is nothing to resume")
        fitted = made.get("calibration")
        self.calibration = None if fitted is None else Calibration.from_json(fitted)
        results = [Epoch(**one) for one in made.get("scores", [])]
        for result in results:
            tell_step(self._progress.console, result, self.divisions[0].chosen_on)
        return results

    def _run_and_write(
        self, trainer: Trainer, method: Method, phases: list[Phase], record: dict[str, Any], kept: Confidence | None
    ) -> None:
        """Run the trainer, and write log and checkpoints as it goes."""
        out, writes = self._options.out, self._fabric.global_rank == 0
        goes_on = self._options.resume and (self._state.is_file() or out.is_file())  # `out`: a student to be tuned
        log = EpochLog(out.with_suffix(".jsonl"), self._options.tensorboard, goes_on) if writes else None
        task = self._progress.add_task("training", total=sum(phase.epochs for phase in phases), note="")
        steps = [phase.step for phase in phases]

        def on_epoch(epoch: Epoch) -> None:
            if log is not None:
                log.write(epoch)
            before = sum(phase.epochs for phase in phases[: steps.index(epoch.step)])
            note = f"{epoch.step}, loss {epoch.loss:.3f}, {epoch.told(3)}"
            whole = [phase.epochs for phase in phases if phase.step == epoch.step][-1]  # epochs with all layers
            if epoch.number <= epoch.epochs - whole:
                note += "; layers are still to be added, so it is not chosen"
            self._progress.update(task, completed=before + epoch.number, note=note)
            tell_epoch(self._progress.console, epoch, note)

        def save(name: str, training: dict[str, Any], confidence: Confidence) -> None:
            trained, path = method.trained_state(phases), out.with_suffix(f".{name}.pt")
            save_trained(method, trained, path, training, out, confidence)

        def on_step(epoch: Epoch) -> None:
            tell_step(self._progress.console, epoch, self.divisions[0].chosen_on)
            if method.labelled and kept is None:
                self.calibration = trainer.calibrate()
            if writes:
                scores = [one.to_json() for one in trainer.results]
                training = {**record, "name": self._options.data.name, "scores": scores}
                confidence = kept or Confidence()
                if self.calibration is not None:
                    training["calibration"] = self.calibration.to_json()
                    confidence = self.calibration.confidence
                save_checkpoint(method, out, training, confidence)
                save(f"step-{epoch.step}", training, confidence)

        def on_end() -> None:
            if writes:
                save("last", record, Confidence())

        trainer.run(self._options.resume, on_epoch, on_step, on_end)
        if method.labelled and kept is None and self.calibration is None:
            told = (
                f"not calibrated, since fewer than {LEAST} clips were held back: temperature 1, and no label is unsure"
            )
            self._progress.console.print(told, soft_wrap=True)
        if log is not None:
            log.close()
            self._state.unlink(missing_ok=True)

    def open_data(self, size: int) -> list[Source]:
        """Open the training clips and the clips to choose epochs on, photographs last; print how many there are.

        size: as in `DataChoice.open`. Raises DferError for missing data, or data of only one class.
        """
        sources = self._open_data(size)
        pairs = zip(self.divisions, sources, strict=True)
        self.divisions = tuple(replace(division, trained=source.names_digest) for division, source in pairs)
        counts, warnings = count_classes(sources)
        for line in counts:
            self._progress.console.print(escape(line), soft_wrap=True)
        for warning in warnings:
            self._warn(warning)
        return sources

    def _open_data(self, size: int) -> list[Source]:
        options, data = self._options, self._options.data
        if options.stills is not None and not options.stills.is_file():  # checked before clips are drawn
            raise ParameterError("stills", f"{options.stills}: no such file")
        show = add_bar(self._progress, "opening clips")
        clips, split = data.open("train", False, show, self._warn, size), self.divisions[0].chosen_on
        show(len(clips), len(clips))
        held_back = None if split is None else data.open(split, True, show, self._warn, size)
        if options.stills is None:
            return [Source.divided(clips, 1.0, self.divisions[0], held_back)]
        stills = partial(StillClips, options.stills, warn=self._warn, classes=clips.classes)
        of_clips, of_stills = self.divisions
        chosen_on = None if of_stills.chosen_on is None else stills(of_stills.chosen_on)
        one = Source.divided(clips, 1 - options.stills_share, of_clips, held_back)
        people = one.people if data.data == "csv" else {}  # drawn people have numbers, not names
        photographs = stills("train", of_stills.most)
        two = Source.divided(photographs, options.stills_share, of_stills, chosen_on, people)
        if not people:
            return [one, two]
        kinds = ("clips", "photographs")
        return [one.apart_from(two, *kinds, self._warn), two.apart_from(one, *kinds[::-1], self._warn)]

    def _open_captioned(self, classes: tuple[str, ...], size: int) -> tuple[Source, Captions]:
        """Open the clips that have captions, for training without labels, and their captions."""
        options = self._options
        assert options.captions is not None
        show = add_bar(self._progress, "opening clips")
        clips, splits = open_unlabelled(options.data, options.out, show, self._warn, size)
        show(len(clips), len(clips))
        captions = captions_of(clips, options.captions, classes, splits)
        self._progress.console.print(escape(captions.report(clips.names)), soft_wrap=True)
        own = captioned(clips, captions, classes)
        return Source.divided(own, 1.0, self.divisions[0], None), captions

    def _show_captions(self, captions: Captions, tokens: CaptionTokens, source: Source) -> None:
        training = [source.clips.names[index] for index in source.training]
        told = captions.report(training)
        if isinstance(source.clips, Subset):  # all have captions; `_open_captioned` has printed the report
            told = f"clips to train on + to validate on: {len(training)}+{len(source.validation)}, without labels"
        self._progress.console.print(escape(told), soft_wrap=True)
        if tokens.cut:
            self._warn(f"{tokens.cut} captions fill CLIP's context; what is longer is cut")

    def _gather_landmarks(self, source: Source) -> Landmarks:
        """Read or detect the training clips' landmarks, by the options; the first process detects, the others read."""
        options, clips = self._options, source.clips
        assert isinstance(clips, (VideoClips, ProceduralClips))  # photographs are another source
        if options.landmarks is not None:
            found = read_landmarks(options.landmarks, clips, source.training)
        elif options.landmark_model is None and isinstance(clips, ProceduralClips):
            found = Landmarks(clips.landmarks)
        else:
            task = self._progress.add_task("finding landmarks", total=len(source.training), note="")
            advance = partial(self._progress.advance, task)
            folder, workers = options.features or options.out.parent / "features", options.data.workers
            with self._fabric.rank_zero_first(local=True):
                found = find_landmarks(clips, source.training, folder, options.landmark_model, workers, advance)
        told = found.report([clips.names[index] for index in source.training])
        self._progress.console.print(escape(told), soft_wrap=True)
        return found

    def digests(self, sources: list[Source]) -> dict[str, list[str]]:
        """Return digests of the clips and of their divisions, as a record has them.

        The first process reads new clips; the others find its cached digests.
        """
        sets = [clips for source in sources for clips in (source.clips, source.held_back) if clips is not None]
        task = self._progress.add_task("checking clips", total=len(sets), note="")
        found = []
        for clips in sets:
            with self._fabric.rank_zero_first(local=True):
                found.append(clips.fingerprint)
            self._progress.advance(task)
        return {"data": found, "division": [source.division for source in sources]}

    def _feature_batches(self, method: Method, sources: list[Source]) -> tuple[Batches, Batches]:
        options, fabric = self._options, self._fabric
        held_back = [source.held_back for source in sources if source.held_back is not None]
        clips_in_all = sum(map(len, [*(source.clips for source in sources), *held_back]))
        task = self._progress.add_task("encoding clips", total=clips_in_all / fabric.world_size, note="")

        def encode(clips: ClipSet, views: int) -> FeatureSet:
            rank, world, precision = fabric.global_rank, fabric.world_size, self._precision
            share = Extraction(views, self._augmentation, options.seed, rank=rank, world=world, precision=precision)
            folder = options.features or options.out.parent / "features"
            advance = partial(self._progress.advance, task)
            return stored_features(folder, method, clips, share, advance, fabric.barrier)

        training, validation = [], []
        for source in sources:
            whole = encode(source.clips, options.views)
            training.append((whole.part(source.training), source.share))
            tested = whole.part(source.validation) if source.held_back is None else encode(source.held_back, 0)
            validation.append((tested, 1.0))
        return FeatureBatches(training, self._sampling), FeatureBatches(validation, self._sampling)

    def _pixel_batches(self, method: Method, sources: list[Source]) -> tuple[Batches, Batches]:
        def batches(parts: list[tuple[ClipSet, float]]) -> PixelBatches:
            size, workers = method.preprocessing.size, self._options.data.workers
            return PixelBatches(parts, method.classes, size, self._augmentation, workers, self._sampling)

        training = [(source.trained, source.share) for source in sources]
        return batches(training), batches([(source.tested, 1.0) for source in sources])

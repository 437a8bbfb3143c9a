"""Labelled clips in a distillation: they test teacher and student, and tune the student's head."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress

from ..checkpoints.checkpoint import save_checkpoint
from ..checkpoints.protocol import KEY, LearnedFrom, divisions_of, learned_from, stills_name
from ..checkpoints.states import check_finished
from ..confidence import Confidence
from ..digests import weights_digest
from ..epoch_log import tell_warning
from ..evaluation import MethodModel, evaluate
from ..methods import Method
from ..methods.phases import Plan
from ..methods.student import Student
from ..metrics import pooled
from ..options import TrainOptions
from ..run import Run
from .options import DistillOptions

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Labelled:
    """The labelled clips and photographs of a distillation, opened and divided.

    For a set that the teacher was trained on, the same clips are held back as in its training.
    window: the entries of the teacher's training record on its windows. told: the student's record of its
    distillation. size: as in `DataChoice.open`. Raises DferError as `Run.open_data`.
    """

    def __init__(
        self,
        options: DistillOptions,
        fabric: Fabric,
        progress: Progress,
        window: Mapping[str, Any],
        told: Mapping[str, Any],
        size: int,
    ) -> None:
        assert options.labelled is not None
        self._options, self._fabric, self._progress = options, fabric, progress
        self._window, self._told = window, told
        self._choice = TrainOptions(
            options.out,
            options.labelled,
            options.stills,
            options.stills_share,
            features=options.features,
            span=window.get("span", TrainOptions.span),
            history=window.get("history", TrainOptions.history),
            precision=options.precision,
            tensorboard=options.tensorboard,
            resume=True,  # resumes only the tuning, if any; its epochs are appended to the tower's log
            seed=options.seed,
        )
        self._learned = LearnedFrom.of_training({"distillation": told})
        own = divisions_of(self._choice)
        earlier = [None if self._learned is None else self._learned.division_of(division) for division in own]
        divisions = tuple(one or other for one, other in zip(earlier, own, strict=True))
        self._run = Run(self._choice, fabric, progress, tuning_state(options.out), divisions=divisions)
        self._sources = self._run.open_data(size)
        same = all(one.trained in ("", now.trained) for one, now in zip(divisions, self._run.divisions, strict=True))
        self._unseen = None not in earlier and same
        self._digests = self._run.digests(self._sources)

    def used(self, training: Mapping[str, Any]) -> bool:
        """Return whether a student with this training record has been tested, and tuned if it is to be, on these clips.

        Raises ParameterError if it was tuned on others.
        """
        options, told = self._options, self._told
        if is_tuned(training):
            made = {name: training[name] for name in self._digests if name in training}
            check_finished(options.out, made, self._digests)
            return True
        same = told.get("tested", self._digests) == self._digests  # earlier versions recorded names only
        return not options.tune_head and told.get("tested_on") == self._names() and same

    def use(self, teacher: Method, student: Student) -> None:
        """Test teacher and student on the clips that are held back, then tune the student's head on the others."""
        options, progress, run = self._options, self._progress, self._run
        tested = [source.tested for source in self._sources]
        warn = partial(tell_warning, progress.console)
        if not self._unseen:
            warn(
                "the teacher may have been trained on clips that are held back here, since it does not say how these "
                "data were divided, or they were others: figures may be too good, and its temperature and limit are "
                "kept"
            )
        if "test" in [division.chosen_on for division in run.divisions]:
            warn("the test split is held back, as by the teacher: figures of it are no test results")
        told = {**self._told, "unseen": self._unseen, "tested_on": self._names(), "tested": self._digests}
        for name, model in (("teacher", teacher), ("untuned", student)):
            task = progress.add_task(f"testing {name}", total=sum(map(len, tested)), note="")
            opened = MethodModel(model)
            scores = pooled([evaluate(opened, clips, progress=partial(progress.advance, task)) for clips in tested])
            told[f"{name}_recalls"] = {"war": scores.war, "uar": scores.uar()}
        notes = {"distillation": told, **self._window}
        if not options.tune_head:
            if self._fabric.global_rank == 0:
                save_checkpoint(student, options.out, notes, student.confidence)
            return
        identity = {"student": weights_digest(student.state_dict())}
        kept = None if self._unseen else student.confidence
        student.confidence = Confidence()  # the tuned head is calibrated anew
        plan = Plan((options.tune_epochs,), Student.default_plan.learning_rates)
        if self._learned is not None:
            notes[KEY] = self._learned.and_of(learned_from(self._choice, True, run.divisions)).to_json()
        run.fit(student, plan, self._sources, identity, notes, kept)

    def _names(self) -> list[str]:
        clips, stills = self._choice.data, self._choice.stills
        return [clips.name, clips.set_name, *([] if stills is None else [stills_name(stills)])]


def is_tuned(training: Mapping[str, Any]) -> bool:
    """Return whether the tuning of the head of a student with this training record is finished."""
    return "scores" in training


def tuning_state(out: Path) -> Path:
    """Return the path of the state that the tuning of the student `out` resumes from."""
    return out.with_suffix(".tuning.state")

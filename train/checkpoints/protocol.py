"""What a model learned from, and what a test of it therefore shows: supervised, cross-data or zero-shot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runtime.errors import DferError

if TYPE_CHECKING:
    from ..options import TrainOptions

KEY = "learned_from"
"""Where checkpoints, and the provenance of bundles, keep it among what is told of the training."""


@dataclass(frozen=True)
class Division:
    """How a run divides a labelled set: what of it is trained on, and on what epochs are chosen and probabilities
    calibrated.

    name, fold: of the set; None for one without folds. part: what is trained on (`DataChoice.part`).
    chosen_on: the split that epochs are chosen on; None for a `share` of each class of `part`, drawn by `seed`.
    most: of photographs, those of a class that are taken at most; None for all.
    trained: digest of the names of all that is trained on, empty until they are known (`Source.names_digest`).
    """

    name: str
    fold: int | None
    part: str | None
    chosen_on: str | None
    share: float
    seed: int
    most: int | None = None
    trained: str = ""

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Division:
        """From the values of `asdict`. Raises KeyError, TypeError or ValueError for others."""
        fold, most = (None if told[name] is None else int(told[name]) for name in ("fold", "most"))
        part, chosen_on = (None if told[name] is None else str(told[name]) for name in ("part", "chosen_on"))
        share, seed = float(told["share"]), int(told["seed"])
        return cls(str(told["name"]), fold, part, chosen_on, share, seed, most, str(told["trained"]))


@dataclass(frozen=True)
class LearnedFrom:
    """The sets that a model learned from, by their names (`DataChoice.set_name`).

    labels: those whose labels it learned. captions: those whose clips' captions. folds: of those that have folds.
    encoder: weights of its CLIP that were taught expressions by labels (`dfer-pretrain`), None for others.
    divisions: of those whose labels it learned; none are known of models of earlier versions.
    """

    labels: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    folds: tuple[tuple[str, int], ...] = ()
    encoder: str | None = None
    divisions: tuple[Division, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `of_training` reads them."""
        plain = {name: list(value) for name, value in asdict(self).items() if isinstance(value, tuple)}
        return {**plain, "folds": [list(pair) for pair in self.folds], "encoder": self.encoder}

    @classmethod
    def of_training(cls, training: object) -> LearnedFrom | None:
        """From what a checkpoint or a bundle tells of its training; None where it does not say. A student that was
        not tuned learned from what its teacher did.

        Raises DferError for what is no such record.
        """
        if not isinstance(training, Mapping):
            return None
        try:
            told = training.get(KEY)
            if told is None and "distillation" in training:
                told = training["distillation"]["teacher"].get(KEY)
            if told is None:
                return None
            labels, captions = (tuple(map(str, told[name])) for name in ("labels", "captions"))
            folds = tuple((str(name), int(fold)) for name, fold in told["folds"])
            encoder = told["encoder"]
            divisions = tuple(map(Division.from_json, told.get("divisions", ())))
            return cls(labels, captions, folds, None if encoder is None else str(encoder), divisions)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DferError(
                f"the model's record of its training cannot be read ({type(error).__name__}: {error})"
            ) from error

    def and_of(self, other: LearnedFrom) -> LearnedFrom:
        """From both, one after the other."""
        labels, captions, folds = (
            tuple(dict.fromkeys([*one, *two]))
            for one, two in (
                (self.labels, other.labels),
                (self.captions, other.captions),
                (self.folds, other.folds),
            )
        )
        divisions = tuple(dict.fromkeys([*self.divisions, *other.divisions]))
        return LearnedFrom(labels, captions, folds, self.encoder or other.encoder, divisions)

    def division_of(self, own: Division) -> Division | None:
        """How the model's training divided `own`'s set; `own` if it was not trained on it. None if unknown, ambiguous,
        or another part or fold."""
        name = own.name.lower()
        if name not in map(str.lower, (*self.labels, *self.captions)):
            return own
        found = [one for one in self.divisions if one.name.lower() == name]
        return found[0] if [(one.part, one.fold) for one in found] == [(own.part, own.fold)] else None

    def protocol(self, test: str, fold: int | None = None, part: str | None = "test") -> str:
        """What a test on the set `test` shows; names of sets are compared without regard to case.

        fold: of a set that has folds. What is trained on one has learned other folds' test clips.
        part: what of the set is tested on (`DataChoice.part`).

        >>> LearnedFrom(captions=("mafw",)).protocol("dfew")
        'zero-shot'
        >>> LearnedFrom(captions=("mafw",)).protocol("MAFW")
        'not zero-shot: captions and test come from MAFW'
        >>> LearnedFrom(labels=("mafw",)).protocol("dfew")
        'cross-data'
        >>> LearnedFrom(labels=("faces",)).protocol("faces", part="train")
        'not held out: trained on these clips'
        """
        name = test.lower()
        told_of = name in map(str.lower, self.captions)
        leak = f"not zero-shot: captions and test come from {test}"
        taught = f"labels taught its encoder expressions ({self.encoder})"
        if name not in map(str.lower, self.labels):
            if self.labels:
                notes = [leak] * told_of + [taught] * (self.encoder is not None)  # of which sets, nobody noted
                return "; ".join(["cross-data", *notes])
            if told_of:
                return leak
            if self.encoder is not None:
                return f"not zero-shot: {taught}"
            return "zero-shot"
        others = [str(number) for one, number in self.folds if one.lower() == name and number != fold]
        divisions = [one for one in self.divisions if one.name.lower() == name and one.fold == fold]
        trained = [one.part for one in divisions] or ["train"]
        if others:
            supervised = f"not held out: trained on fold {', '.join(others)} of {test}"
        elif part is None or None in trained or part in trained:
            supervised = "not held out: trained on these clips"
        elif part in [one.chosen_on for one in divisions]:
            supervised = "supervised; epochs chosen and calibrated on this split"
        else:
            supervised = "supervised"
        return supervised + (f"; {leak}" if told_of else "")


def divisions_of(options: TrainOptions) -> tuple[Division, ...]:
    """How a run divides its clips and, where there are some, its photographs."""
    data, split = options.data, "test" if options.select_on_test else options.validation_split
    fold, chosen_on = data.fold if data.has_folds else None, split if options.divides_by_split else None
    share, seed = options.validation, options.seed
    clips = Division(data.set_name, fold, data.part("train"), chosen_on, share, seed)
    if options.stills is None:
        return (clips,)
    name, split = stills_name(options.stills), options.validation_split
    return clips, Division(name, None, "train", split, share, seed, options.stills_most)


def learned_from(
    options: TrainOptions, labelled: bool, divisions: tuple[Division, ...], taught: bool = False
) -> LearnedFrom:
    """What a run learns from. labelled: whether its method reads labels. divisions: of those. taught: see `Clip`."""
    data, told = options.data, options.captions is not None
    labels = [data.set_name] if labelled else []
    if options.stills is not None:
        labels.append(stills_name(options.stills))
    folds = ((data.set_name, data.fold),) if data.has_folds and (labelled or told) else ()
    encoder = Path(str(options.pretrained)).name if taught else None
    captions = (data.set_name,) if told else ()
    return LearnedFrom(tuple(labels), captions, folds, encoder, divisions if labelled else ())


def stills_name(table: Path) -> str:
    """What protocols call a table of photographs: by its name and that of its folder."""
    return f"{table.resolve().parent.name}/{table.name}"

"""What a model was trained on, and the resulting protocol of a test: supervised, cross-data or zero-shot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runtime.errors import DferError

if TYPE_CHECKING:
    from ..options import TrainOptions

KEY = "learned_from"
"""The key of `LearnedFrom` in the training record of checkpoints and in the provenance of bundles."""


@dataclass(frozen=True)
class Division:
    """How a run divides a labelled set into a part to train on, and a part to choose epochs and calibrate on.

    name, fold: of the set; fold is None for a set without folds. part: the part trained on (`DataChoice.part`).
    chosen_on: the split that epochs are chosen on; None for a `share` of each class of `part`, drawn with `seed`.
    most: for photographs, the maximum per class; None for all.
    trained: digest of the names of everything trained on (`Source.names_digest`); empty until they are known.
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
        """Build from the values of `asdict`. Raises KeyError, TypeError or ValueError for anything else."""
        fold, most = (None if told[name] is None else int(told[name]) for name in ("fold", "most"))
        part, chosen_on = (None if told[name] is None else str(told[name]) for name in ("part", "chosen_on"))
        share, seed = float(told["share"]), int(told["seed"])
        return cls(str(told["name"]), fold, part, chosen_on, share, seed, most, str(told["trained"]))


@dataclass(frozen=True)
class LearnedFrom:
    """The sets that a model was trained on, by name (`DataChoice.set_name`).

    labels: sets whose labels were used. captions: sets whose captions were used. folds: of the sets that have folds.
    encoder: name of its CLIP's weights if those were trained on expression labels (`dfer-pretrain`), else None.
    divisions: of the sets in `labels`; empty for models of earlier versions.
    """

    labels: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    folds: tuple[tuple[str, int], ...] = ()
    encoder: str | None = None
    divisions: tuple[Division, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `of_training` reads back."""
        plain = {name: list(value) for name, value in asdict(self).items() if isinstance(value, tuple)}
        return {**plain, "folds": [list(pair) for pair in self.folds], "encoder": self.encoder}

    @classmethod
    def of_training(cls, training: object) -> LearnedFrom | None:
        """Read from the training record of a checkpoint or bundle; None if it has no such entry.

        A student whose head was not tuned has its teacher's. Raises DferError for a malformed record.
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
        """Merge with another record, without duplicates."""
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
        """Return how the model's training divided `own`'s set, or `own` if it was not trained on that set.

        None if that is unknown, ambiguous, or was another part or fold.
        """
        name = own.name.lower()
        if name not in map(str.lower, (*self.labels, *self.captions)):
            return own
        found = [one for one in self.divisions if one.name.lower() == name]
        return found[0] if [(one.part, one.fold) for one in found] == [(own.part, own.fold)] else None

    def protocol(self, test: str, fold: int | None = None, part: str | None = "test") -> str:
        """Return the protocol of a test on the set `test`; names of sets are compared case-insensitively.

        fold: of a set that has folds. A model trained on one fold has seen the test clips of the others.
        part: the part of the set that is tested on (`DataChoice.part`).

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
                notes = [leak] * told_of + [taught] * (self.encoder is not None)  # its sets are not recorded
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
    """Return how a run divides its clips and its photographs, if any."""
    data, split = options.data, "test" if options.select_on_test else options.validation_split
    fold = data.fold if data.has_folds else None
    chosen_on = data.split_name(split) if split is not None and options.divides_by_split else None
    share, seed = options.validation, options.seed
    clips = Division(data.set_name, fold, data.part("train"), chosen_on, share, seed)
    if options.stills is None:
        return (clips,)
    name, split = stills_name(options.stills), options.validation_split
    return clips, Division(name, None, "train", split, share, seed, options.stills_most)


def learned_from(
    options: TrainOptions, labelled: bool, divisions: tuple[Division, ...], taught: bool = False
) -> LearnedFrom:
    """Return what a run trains on. labelled: whether its method uses labels. divisions: of them. taught: see `Clip`."""
    data, told = options.data, options.captions is not None
    labels = [data.set_name] if labelled else []
    if options.stills is not None:
        labels.append(stills_name(options.stills))
    folds = ((data.set_name, data.fold),) if data.has_folds and (labelled or told) else ()
    encoder = Path(str(options.pretrained)).name if taught else None
    captions = (data.set_name,) if told else ()
    return LearnedFrom(tuple(labels), captions, folds, encoder, divisions if labelled else ())


def stills_name(table: Path) -> str:
    """Return the name of a table of photographs in protocols: its folder's name and its own."""
    return f"{table.resolve().parent.name}/{table.name}"

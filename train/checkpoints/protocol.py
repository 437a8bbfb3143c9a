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
class LearnedFrom:
    """The sets that a model learned from, by their names (`DataChoice.set_name`).

    labels: those whose labels it learned. captions: those whose clips' captions. folds: of those that have folds.
    encoder: weights of its CLIP that were taught expressions by labels (`dfer-pretrain`), None for others.
    """

    labels: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    folds: tuple[tuple[str, int], ...] = ()
    encoder: str | None = None

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
            return cls(labels, captions, folds, None if encoder is None else str(encoder))
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
        return LearnedFrom(labels, captions, folds, self.encoder or other.encoder)

    def protocol(self, test: str, fold: int | None = None) -> str:
        """What a test on the set `test` shows; names of sets are compared without regard to case.

        fold: of a set that has folds. What is trained on one has learned other folds' test clips.

        >>> LearnedFrom(captions=("mafw",)).protocol("dfew")
        'zero-shot'
        >>> LearnedFrom(captions=("mafw",)).protocol("MAFW")
        'not zero-shot: captions and test come from MAFW'
        >>> LearnedFrom(labels=("mafw",)).protocol("dfew")
        'cross-data'
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
        supervised = f"not held out: trained on fold {', '.join(others)} of {test}" if others else "supervised"
        return supervised + (f"; {leak}" if told_of else "")


def learned_from(options: TrainOptions, labelled: bool, taught: bool = False) -> LearnedFrom:
    """What a run learns from. labelled: whether its method reads labels. taught: see `Clip`."""
    data, told = options.data, options.captions is not None
    labels = [data.set_name] if labelled else []
    if options.stills is not None:
        labels.append(stills_name(options.stills))
    folds = ((data.set_name, data.fold),) if data.has_folds and (labelled or told) else ()
    encoder = Path(str(options.pretrained)).name if taught else None
    return LearnedFrom(tuple(labels), (data.set_name,) if told else (), folds, encoder)


def stills_name(table: Path) -> str:
    """What protocols call a table of photographs: by its name and that of its folder."""
    return f"{table.resolve().parent.name}/{table.name}"

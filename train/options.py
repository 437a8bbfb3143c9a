"""Options of a training run: one typed object, with defaults, for Python and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..runtime.errors import ParameterError, check_unset
from .captions import WEIGHT
from .data.choice import DataChoice
from .landmarks import WEIGHT as MIDDLE_WEIGHT

_OF_OTHERS = {
    "stills_share": "stills",
    "stills_most": "stills",
    "caption_weight": "captions",
    "middle_weight": "middle",
}


def check_out(out: Path, *others: str) -> None:
    """Raise ParameterError if there is no folder for `out`, or its name does not end in .pt, .pth or one of `others`.

    The names of the files beside it are made by replacing that ending: run.1 and run.2 would share run.state.
    """
    if not out.parent.is_dir():
        raise ParameterError("out", f"folder {out.parent} does not exist")
    if out.suffix.lower() not in (".pt", ".pth", *others):
        raise ParameterError(
            "out", f"{out}: the name must end in {', '.join(('.pt', *others))}; {out.name}.pt would do"
        )


@dataclass(frozen=True)
class TrainOptions:
    """Options for training the checkpoint `out`; see `dfer-train --help` for more about each.

    data: the clips. stills: a CSV of photographs of the clips' classes, which fill `stills_share` of each batch, with
    at most `stills_most` per class.
    method, method_options: a method's name, and options for its `from_options`, which refuses others.
    captions: a file of captions of training clips, or "drawn" for those of procedural people, for methods that use
    captions. caption_weight: weight of their loss, relative to that of labels.
    middle: "distil" for methods that learn from pictures of landmarks. middle_weight: weight of that loss. landmarks:
    an .npz of them; landmark_model: MediaPipe's face_landmark.tflite, to detect them. With neither, procedural people
    provide theirs, and in other clips the detector finds five points.
    clip, pretrained: open_clip's name of the model, or ours, and its weights. image_size: side of its vision
    transformer's images, pixels, None for its own. patches: how many of their patches it reads, None for all. crop:
    side of crops, pixels, None for `image_size`, else the smaller of 112 and the tower's own.
    validation: share of the training clips for choosing epochs and calibrating probabilities. Instead,
        validation_split names a split of the stills, and of clips in folders or a CSV, and select_on_test uses
        the test split.
    epochs, learning_rate, depth: as many numbers as in the method's plan; empty for its defaults.
    views: stored augmented views per clip. augmentation: a key of `augmentation.AUGMENTATIONS`, None for the default.
    features: folder of stored features, None for one beside `out`. batch: clips per step, over all processes.
    balance: 0 draws clips as they come, 1 all classes equally often. span, history: see `Sampling`; for stored
    features only. class_weights, ema: see `TrainSettings`.
    precision: "auto", "fp32", "bf16" or "fp16". tensorboard: folder for its curves.
    resume: continue an interrupted run with the same options.
    """

    out: Path
    data: DataChoice = field(default_factory=DataChoice)
    stills: Path | None = None
    stills_share: float = 0.5
    stills_most: int = 600
    method: str = "align-dfer"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    captions: str | Path | None = None
    caption_weight: float = WEIGHT
    middle: str | None = None
    middle_weight: float = MIDDLE_WEIGHT
    landmarks: Path | None = None
    landmark_model: Path | None = None
    clip: str = "dfer-small"
    pretrained: str | None = None
    image_size: int | None = None
    patches: int | None = None
    crop: int | None = None
    validation: float = 0.1
    validation_split: str | None = None
    select_on_test: bool = False
    epochs: tuple[int, ...] = ()
    learning_rate: tuple[float, ...] = ()
    depth: tuple[int, ...] = ()
    views: int = 4
    augmentation: str | None = None
    features: Path | None = None
    batch: int = 64
    balance: float = 0.5
    span: float = 1.0
    history: float = 0.0
    class_weights: bool = False
    ema: float = 0.0
    precision: str = "auto"
    tensorboard: Path | None = None
    resume: bool = False
    seed: int = 0

    def check(self) -> None:
        """Raise ParameterError for errors that show before any file is opened."""
        check_out(self.out)
        self.data.check()
        for name in {option.name for option in fields(self)} & self.method_options.keys():
            raise ParameterError(name, "is an option of its own; give it as that, not among the method's options")
        for name, needed in _OF_OTHERS.items():
            if getattr(self, needed) is None:
                check_unset(self, f"has no effect without {needed}; name these, or go without", name)
        if self.landmarks is not None and self.landmark_model is not None:
            raise ParameterError("landmark_model", "finds landmarks, and they are given already; leave one out")
        for option in ("landmarks", "landmark_model"):
            path = getattr(self, option)
            if path is not None and self.middle is None:
                raise ParameterError(option, "landmarks serve the middle level only, which is off")
            if path is not None and not path.is_file():
                raise ParameterError(option, f"{path}: no such file")
        self._check_validation()

    def _check_validation(self) -> None:
        """Raise ParameterError if there are no clips for choosing epochs, or two answers to which they are."""
        from .data.lists import SPLITS  # imported late: it loads the video readers

        if self.validation_split is not None and SPLITS.get(self.validation_split.lower()) == "train":
            raise ParameterError(
                "validation_split",
                f"{self.validation_split} is trained on, so epochs cannot be chosen on it; name another split, or go "
                "without: then a share of the training clips is held back",
            )
        if self.select_on_test and self.validation_split is not None:
            raise ParameterError("validation_split", "epochs are to be chosen on the test split; leave one out")
        if self.select_on_test and self.stills is not None:
            raise ParameterError("select_on_test", "photographs have no test split to choose on")
        if self.validation_split is not None and self.stills is None and not self.divides_by_split:
            raise ParameterError(
                "validation_split", f"{self.data.data} clips have no such split; only folders and a CSV do"
            )
        if self.divides_by_split:  # else validation clips would silently be the training clips
            option = "select_on_test" if self.select_on_test else "validation_split"
            if self.data.undivided:
                raise ParameterError(option, f"{self.data.root} has no folders train, val or test; make some")
            if self.data.one_list:
                raise ParameterError(option, f"{self.data.lists} is one list, of no split; name the folder of lists")
            check_unset(self, f"has no effect with {option}, which names the clips; leave one out", "validation")

    @property
    def divides_by_split(self) -> bool:
        """Whether the validation clips are a separate split."""
        return self.select_on_test or (self.validation_split is not None and self.data.data in ("folder", "csv"))

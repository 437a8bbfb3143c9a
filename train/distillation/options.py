"""Options of a distillation: one typed object, with defaults, for Python and the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runtime.errors import ParameterError, check_unset
from ..data.choice import DRAWN, DataChoice
from ..options import check_out


@dataclass(frozen=True)
class DistillOptions:
    """Options for distilling the checkpoint `teacher` into `out`; see `dfer-distill --help` for more about each.

    published_by: name of the method whose authors published the teacher; None for a checkpoint of ours.
    tower: a model of timm. faces: folder or table of face crops (see `find_crops`), or "drawn" for `identities`
    procedural people, who differ from those of `labelled`.
    image_size: side of the student's input, pixels; None for the teacher's.
    views: augmented views of each crop; the teacher's features of them are stored in `features` (None: beside `out`).
    held_back: share of the crops to measure on. balance: a crop is drawn in proportion to count^-balance of the class
    that the teacher predicts. learning_rate: peak, of the tower.
    labelled: clips to test teacher and student on and, with `tune_head`, to tune the head on for `tune_epochs`, with
    photographs of the table `stills` for a share of each batch. None for neither.
    workers: threads that make views. precision, tensorboard, resume: as in `TrainOptions`.
    """

    teacher: Path
    out: Path
    tower: str
    faces: str
    published_by: str | None = None
    image_size: int | None = None
    identities: int = 150
    views: int = 4
    held_back: float = 0.1
    epochs: int = 30
    learning_rate: float = 1e-3
    batch: int = 128
    balance: float = 0.5
    features: Path | None = None
    labelled: DataChoice | None = None
    stills: Path | None = None
    stills_share: float = 0.5
    tune_head: bool = True
    tune_epochs: int = 20
    workers: int = 2
    precision: str = "auto"
    tensorboard: Path | None = None
    resume: bool = False
    seed: int = 0

    def check(self) -> None:
        """Raise ParameterError for errors that show before any file is opened."""
        check_out(self.out)
        if self.out.resolve() == self.teacher.resolve():
            raise ParameterError("out", f"{self.out} is the teacher; give the student another name")
        if self.labelled is not None:
            self.labelled.check()
        drawn = self.faces == DRAWN or (self.labelled is not None and self.labelled.data == "procedural")
        if self.labelled is None:
            check_unset(self, "a head is tuned only on labelled clips (data); name these, or go without", "tune_head")
        for name, used, needed in (
            ("tune_epochs", self.labelled is not None, "labelled clips (data)"),
            ("stills_share", self.stills is not None, "stills"),
            ("identities", drawn, "drawn faces or clips"),
        ):
            if not used:
                check_unset(self, f"has no effect without {needed}; name these, or go without", name)
        if not self.tune_head:
            problem = "has no effect without tuning the head; tune it, or go without"
            check_unset(self, problem, "tune_epochs", "stills_share")
        if self.stills is not None and self.labelled is None:
            raise ParameterError("stills", "are for tuning the head, beside labelled clips; name those too (data)")

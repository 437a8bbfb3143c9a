"""Labelled clips to train and test on. Each kind of data set is one module that implements `ClipSet`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ...runtime.errors import DferError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

WINDOW = 16
"""T, the number of frames sampled from a clip."""

CLIP_SECONDS = "clip_seconds"
"""The key of the training clips' median length in a checkpoint's training record."""


class ClipSet(Protocol):
    """Labelled clips of aligned faces.

    classes: names of the classes. labels: int64 [N], indices into `classes`.
    names: each clip's name in its list; captions and landmarks are looked up by it.
    groups: per clip the person or film it shows, or None; a group is never split between training and validation, nor
    are people of a table of clips and a table of photographs that are trained on together.
    shares: float32 [N,C], soft targets from several annotators' votes, in the order of `classes`; None if there are
    labels only.
    jitter: how much unsteadiness augmentation should add (0 for real motion, 1 for repeated stills).
    fingerprint: hex digest of frames (pixels included) and labels; features are stored under it.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    names: list[str]
    groups: list[str | None]
    jitter: float
    shares: NDArray[np.float32] | None

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def frames(self, index: int, rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        """Return square RGB frames [T,S,S,3] of clip `index`, T = `WINDOW`.

        Without `rng`: the centre frame of each of T segments, the same at every call (for tests). With `rng`: a random
        frame of each segment, if the clip has more than T frames (for training).
        """
        ...


class FilmClips(ClipSet, Protocol):
    """Clips with numbered frames, so that landmarks can be looked up by frame.

    seconds: length of each clip, None if unknown.
    """

    seconds: list[float | None]

    def numbered(
        self, index: int, rng: np.random.Generator | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return `frames` of clip `index`, and the number of each within the clip, int64 [T] from 0."""
        ...

    def every_frame(self, index: int) -> Iterator[NDArray[np.uint8]]:
        """Yield all frames of clip `index`, [S,S,3] each, in order."""
        ...

    def has_frames(self, index: int, count: int) -> bool:
        """Return whether clip `index` has this many frames."""
        ...


@dataclass(frozen=True)
class Batch:
    """Clips to train or test on together.

    inputs: features float32 [B,T,D], crops uint8 [B,T,S,S,3], or of single frames crops uint8 [B,S,S,3].
    labels: int64 [B], indices into the method's classes.
    names: B names of the clips, as their clip sets have them.
    shares: soft targets float32 [B,C] in the method's order; None where all clips have labels only.
    taught: a teacher's features float32 [B,D] of single frames; None without a teacher.
    pictures: drawings of the crops' landmarks (`draw_pictures`), uint8 [B,T,2,S,S,3]; None if there are none.
    """

    inputs: Tensor
    labels: Tensor
    names: Sequence[str]
    shares: Tensor | None = None
    taught: Tensor | None = None
    pictures: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """The targets of the cross-entropy: shares if there are any, else labels."""
        return self.labels if self.shares is None else self.shares


def shares_of(clips: ClipSet, classes: tuple[str, ...]) -> NDArray[np.float32] | None:
    """Return soft targets float32 [N,C] in the order of `classes`, matched by name; None if the clips have none."""
    import numpy as np

    if clips.shares is None:
        return None
    shares = np.zeros((len(clips), len(classes)), np.float32)
    for column, name in enumerate(clips.classes):
        if name in classes:
            shares[:, classes.index(name)] = clips.shares[:, column]
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-9)
    return shares


def labels_of(clips: ClipSet, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Return labels int64 [N] as indices into `classes`, matched by name.

    Raises DferError if the clips show a class that is not among them.
    """
    import numpy as np

    shown = {clips.classes[label] for label in np.unique(clips.labels)}
    if not shown <= set(classes):
        raise DferError(
            f"the data show {', '.join(sorted(shown - set(classes)))}; the model knows {', '.join(classes)}"
        )
    place = np.array([classes.index(name) if name in classes else -1 for name in clips.classes])
    return np.asarray(place[clips.labels], dtype=np.int64)

"""Labelled clips to train and test on. Every data set is one module; all look alike through `ClipSet`."""

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
"""Where checkpoints tell the median length of the clips that were trained on."""


class ClipSet(Protocol):
    """Labelled clips of aligned faces.

    classes: names of the classes. labels: int64 [N], indices into `classes`.
    names: each clip's name in its list; captions and landmarks are looked up by it.
    groups: per clip the person or film it shows, or None; clips of one group are not divided between sets.
    shares: float32 [N,C], what several people made of each clip (soft targets), in the order of `classes`; None where
    there are labels only.
    jitter: how much unsteadiness augmentation should add (0 for real motion, 1 for repeated stills).
    fingerprint: hex digest of what the frames and labels are, pixels included; features are stored under it.
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
        """RGB frames [T,S,S,3] of clip `index`, T = `WINDOW`, square.

        Without `rng` the test choice of frames (the centre of each of T segments), the same at every call; with it the
        training choice (a random frame of each segment) where a clip has more than T frames.
        """
        ...


class FilmClips(ClipSet, Protocol):
    """Clips with numbered frames, so that landmarks of a frame can be found.

    seconds: how long each clip is, None where that is not known.
    """

    seconds: list[float | None]

    def numbered(
        self, index: int, rng: np.random.Generator | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """`frames` of clip `index`, and which of the clip's frames each is, int64 [T] from 0."""
        ...

    def every_frame(self, index: int) -> Iterator[NDArray[np.uint8]]:
        """All frames of clip `index`, [S,S,3] each, in order."""
        ...

    def has_frames(self, index: int, count: int) -> bool:
        """Whether clip `index` has this many frames."""
        ...


@dataclass(frozen=True)
class Batch:
    """Clips to train or test on together.

    inputs: features float32 [B,T,D], crops uint8 [B,T,S,S,3], or of single frames crops uint8 [B,S,S,3].
    labels: int64 [B], indices into the method's classes.
    names: B names of the clips, as their clip sets have them.
    shares: soft targets float32 [B,C] in the method's order; None where all clips have labels only.
    taught: a teacher's features float32 [B,D] of single frames; None where nobody teaches.
    pictures: what landmarks of crops look like (`draw_pictures`), uint8 [B,T,2,S,S,3]; None where there are none.
    """

    inputs: Tensor
    labels: Tensor
    names: Sequence[str]
    shares: Tensor | None = None
    taught: Tensor | None = None
    pictures: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """What cross-entropy takes: shares where there are any, else labels."""
        return self.labels if self.shares is None else self.shares


def shares_of(clips: ClipSet, classes: tuple[str, ...]) -> NDArray[np.float32] | None:
    """Soft targets float32 [N,C] of the clips in the order of `classes`, matched by name; None where they have none."""
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
    """Labels int64 [N] of the clips as indices into `classes`, matched by name.

    Raises DferError when the clips show a class that is not among them.
    """
    import numpy as np

    shown = {clips.classes[label] for label in np.unique(clips.labels)}
    if not shown <= set(classes):
        raise DferError(
            f"the data show {', '.join(sorted(shown - set(classes)))}; the model knows {', '.join(classes)}"
        )
    place = np.array([classes.index(name) if name in classes else -1 for name in clips.classes])
    return np.asarray(place[clips.labels], dtype=np.int64)

"""Layouts of landmarks, and the lines and regions that are drawn for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import DferError

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Part:
    """A part of the face: indices of its points, in order.

    closed: the points outline an area, which is filled when drawn as a region; an open line is drawn as a band.
    """

    points: tuple[int, ...]
    colour: Colour
    closed: bool = True


@dataclass(frozen=True)
class Layout:
    """mirror: int64 [P], for each point the index of its counterpart in the flipped picture.

    lines: parts drawn as landmarks. regions: parts drawn filled, back to front.
    """

    mirror: NDArray[np.int64]
    lines: tuple[Part, ...]
    regions: tuple[Part, ...]


def _run(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


def _mirror(count: int, reversed_runs: Sequence[tuple[int, ...]]) -> NDArray[np.int64]:
    mirror = np.arange(count)
    for run in reversed_runs:
        mirror[list(run)] = run[::-1]
    return mirror


# The colours differ in hue and in brightness, since a tower may see luma only.
_SKIN, _BROW, _EYE, _NOSE, _LIP, _MOUTH = (
    (120, 90, 70),
    (40, 160, 60),
    (90, 170, 255),
    (230, 180, 60),
    (200, 60, 110),
    (255, 250, 240),
)

_EYES = (_run(36, 41), _run(42, 47))
_BROWS = (_run(17, 21), _run(22, 26))
IBUG = Layout(
    _mirror(
        68,
        [
            *(_run(0, 16), _run(17, 26), _run(31, 35), _run(48, 54), _run(55, 59), _run(60, 64), _run(65, 67)),
            *((36, 37, 38, 39, 42, 43, 44, 45), (40, 41, 46, 47)),
        ],
    ),
    (
        Part(_run(0, 16), _SKIN, closed=False),
        *(Part(brow, _BROW, closed=False) for brow in _BROWS),
        *(Part(part, _NOSE, closed=False) for part in (_run(27, 30), _run(31, 35))),
        *(Part(eye, _EYE) for eye in _EYES),
        Part(_run(48, 59), _LIP),
        Part(_run(60, 67), _MOUTH),
    ),
    (
        Part((*_run(0, 16), *_run(17, 26)[::-1]), _SKIN),
        *(Part(brow, _BROW, closed=False) for brow in _BROWS),
        Part((27, *_run(31, 35)), _NOSE),
        *(Part(eye, _EYE) for eye in _EYES),
        Part(_run(48, 59), _LIP),
        Part(_run(60, 67), _MOUTH),
    ),
)
"""The 68 of iBUG 300-W (Sagonas et al. 2013), sides as in the picture; see `trace_face`."""

FIVE = Layout(
    _mirror(5, [(0, 1), (3, 4)]),
    (
        *(Part((eye,), _EYE) for eye in (0, 1)),
        Part((2,), _NOSE),
        Part((3, 4), _LIP, closed=False),
    ),
    (
        Part((0, 1, 4, 3), _SKIN),
        Part((0, 1, 2), _NOSE),
        *(Part((eye,), _EYE) for eye in (0, 1)),
        Part((3, 4), _LIP, closed=False),
    ),
)
"""The face detector's five points: eyes, nose tip, mouth corners, left to right as seen in the picture."""

LAYOUTS = {68: IBUG, 5: FIVE}
"""Number of points → layout."""

# fmt: off
_MESH = np.array([
    127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 197, 5, 4, 98, 97, 2, 326, 327,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
])
"""The vertices of MediaPipe's face mesh that correspond to the 68 points (our choice among near ones)."""
# fmt: on
READABLE = (5, 68, 468, 478)
"""Accepted numbers of points; a mesh (468, or 478 with irises) is reduced to the 68."""


def reduce_mesh(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reduce a face mesh [...,468,2] (or 478) to the 68 points of `IBUG`; return other layouts unchanged.

    Raises DferError for any other number of points.
    """
    count = points.shape[-2]
    if count not in READABLE:
        raise DferError(f"{count} points in a frame; {', '.join(map(str, READABLE))} are known")
    return points[..., _MESH, :] if count > len(_MESH) else points

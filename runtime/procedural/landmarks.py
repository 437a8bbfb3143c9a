"""Where the parts of the drawn face lie: the 68 points that landmark files have, without drawing anything."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .anatomy import EYE_Y, brow_of, eye_of, mouth_of, nose_base, outline_of
from .identity import Identity
from .pen import Pen, Points, along
from .units import ActionUnits, Pose

_JAW = 17


def trace_face(
    identity: Identity, units: ActionUnits, pose: Pose, center: tuple[float, float], height: float
) -> NDArray[np.float32]:
    """The landmarks of what `draw_face` draws when it is given the same: float32 [68,2], pixels.

    In the order of iBUG 300-W (Sagonas et al. 2013): jaw 0-16, brows 17-26, bridge and base of the nose 27-35, eyes
    36-47, outer lips 48-59, inner lips 60-67; sides are those of the picture.
    """
    pen = Pen.aimed(np.zeros((1, 1, 3), np.uint8), center, height, identity.width, pose)
    mouth = mouth_of(identity, units)
    base, wing = nose_base(identity, units), identity.nose_width
    bridge = np.column_stack([np.zeros(4), np.linspace(EYE_Y, base - 0.045, 4)])
    nostrils = np.column_stack([wing * np.linspace(-0.68, 0.68, 5), base - 0.004 + 0.004 * np.array([-2, 0, 1, 0, -2])])
    left, right = (eye_of(identity, units, side) for side in (-1, 1))
    lids = [part for eye in (left, right) for part in (eye.above[[0, 5, 9, 14]], eye.below[[9, 5]])]
    lips = [
        *(mouth.upper_out[[0, 2, 5, 7, 9, 12, 14]], mouth.lower_out[[12, 9, 7, 5, 2]]),
        *(mouth.upper_in[[1, 4, 7, 10, 13]], mouth.lower_in[[10, 7, 4]]),
    ]
    parts = [
        pen.project_rim(_jaw(outline_of(identity, units.jaw_drop))),
        pen.project(brow_of(identity, units, -1)[::-2], 0.01),
        pen.project(brow_of(identity, units, 1)[::2], 0.01),
        *(pen.project(point[None], lift) for point, lift in zip(bridge, np.linspace(0, 0.06, 4), strict=True)),
        pen.project(nostrils, 0.06),
        pen.project(np.concatenate(lids)),
        pen.project(np.concatenate(lips), 0.02),
    ]
    return np.concatenate(parts).astype(np.float32)


def _jaw(outline: Points) -> Points:
    """From the left ear over the chin to the right one, [17,2], of a closed outline."""
    opened = np.roll(outline, -int(outline[:, 1].argmin()), axis=0)  # from the crown on, the left half first
    return along(opened[opened[:, 1] > EYE_Y], np.linspace(0, 1, _JAW))

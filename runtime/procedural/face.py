"""Draws head and shoulders on a canvas, and returns the positions of facial landmarks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .anatomy import EYE_Y, brow_of, eye_of, mouth_of, nose_base, outline_of
from .features import draw_brow, draw_eye, draw_glasses, draw_mouth
from .hair import draw_back_hair, draw_hair
from .identity import Identity
from .pen import CIRCLE, Image, Pen, Points, along, dim, mirrored, smooth
from .skin import draw_skin
from .units import ActionUnits, Pose

REACH = 1.7
"""No pixel further than this many face heights from the centre (along x or y) is ever touched."""

# Right halves of closed outlines; the neck's x is a share of the head's half width.
_BODY = np.array([(0, 1.6), (0.95, 1.6), (0.93, 0.98), (0.8, 0.86), (0.3, 0.74), (0, 0.8)])
_NECK = np.array([(0, 0.84), (0.5, 0.76), (0.56, 0.66), (0.56, 0.2), (0, 0.2)])


def draw_face(
    canvas: Image,
    identity: Identity,
    units: ActionUnits,
    pose: Pose,
    center: tuple[float, float],
    height: float,
) -> NDArray[np.float32]:
    """Draw one face in place on an RGB canvas [H,W,3].

    `center` is the middle of the face and `height` its length from hairline to chin, both in pixels; any
    part may lie outside the canvas. Returns float32 [5,2] canvas pixels (x, y): the eye on the left in the
    picture, the eye on the right, the nose tip, the left and the right corner of the mouth.
    """
    left, top = (max(0, math.floor(c - REACH * height)) for c in center)
    right, bottom = (max(0, math.ceil(c + REACH * height)) for c in center)
    view = canvas[top:bottom, left:right]
    pen = Pen.aimed(view, (center[0] - left, center[1] - top), height, identity.width, pose)
    mouth = mouth_of(identity, units)
    if view.size:
        outline = pen.project_rim(outline_of(identity, units.jaw_drop))
        draw_back_hair(pen, identity)
        _draw_bust(pen, identity)
        draw_skin(pen, identity, units, mouth, outline)
        draw_mouth(pen, identity, mouth)
        for side in (-1, 1):
            draw_eye(pen, identity, units, side)
            draw_brow(pen, identity, units, side)
        draw_hair(pen, identity)
        if identity.glasses:
            draw_glasses(pen, identity, identity.glasses)
    eyes = pen.project(np.array([(-identity.eye_gap, EYE_Y), (identity.eye_gap, EYE_Y)]))
    tip = pen.project(np.array([(0.0, nose_base(identity, units) - 0.045)]), 0.06)
    corners = pen.project(mouth.upper_in[[0, -1]])
    landmarks = np.concatenate([eyes, tip, corners]) + np.array((left, top))
    return np.asarray(landmarks, np.float32)


def trace_face(
    identity: Identity, units: ActionUnits, pose: Pose, center: tuple[float, float], height: float
) -> NDArray[np.float32]:
    """Return the landmarks of the face that `draw_face` draws with these arguments: float32 [68,2], pixels.

    In the order of iBUG 300-W (Sagonas et al. 2013): jaw 0-16, brows 17-26, bridge and base of the nose 27-35, eyes
    36-47, outer lips 48-59, inner lips 60-67; sides are those of the image.
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


def _draw_bust(pen: Pen, identity: Identity) -> None:
    """Draw shoulders, neck and ears."""
    wide = identity.width
    pen.fill(smooth(mirrored(_BODY)) * pen.height + pen.origin, identity.clothes)  # does not turn with the head
    pen.fill(pen.project_rim(smooth(mirrored(_NECK * (wide, 1)))), dim(identity.skin, 0.62))
    for side in (-1, 1):
        ear = pen.project_rim(CIRCLE * (0.045, 0.095) + (side * (wide + 0.01), -0.02))
        pen.fill(ear, dim(identity.skin, 0.68 + 0.15 * side * identity.light[0]))


def _jaw(outline: Points) -> Points:
    """Return [17,2] of a closed outline, from the left ear over the chin to the right one."""
    opened = np.roll(outline, -int(outline[:, 1].argmin()), axis=0)  # from the crown on, the left half first
    return along(opened[opened[:, 1] > EYE_Y], np.linspace(0, 1, 17))

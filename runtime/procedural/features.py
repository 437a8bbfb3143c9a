"""The crisp features on top of the skin: mouth, eyes, brows and glasses."""

from __future__ import annotations

import numpy as np

from .anatomy import ACROSS, EYE_Y, Mouth, brightness, brow_of, eye_of, nose_base
from .identity import Identity
from .pen import CIRCLE, Colour, Pen, blend, dim, smooth
from .units import ActionUnits

# The rim of the right lens relative to the eye's centre, face units.
_LENS = np.array(
    [(-0.105, -0.05), (0, -0.058), (0.105, -0.05), (0.1, 0.02), (0.06, 0.062), (-0.05, 0.062), (-0.1, 0.03)]
)


def draw_mouth(pen: Pen, identity: Identity, mouth: Mouth) -> None:
    """Draw the mouth: only the lips when closed; teeth and the dark cavity when open."""
    light = float(brightness(identity, 0.0, 0.27))
    lips, lift = dim(identity.lips, light), 0.02
    line = 0.5 * (mouth.upper_in + mouth.lower_in)
    pen.fill(pen.project(np.concatenate([mouth.upper_out, line[::-1]]), lift), dim(lips, 0.86))
    pen.fill(pen.project(np.concatenate([line, mouth.lower_out[::-1]]), lift), lips)
    glint = 0.5 * (mouth.lower_in + mouth.lower_out)[4:11]
    pen.stroke(pen.project(glint, lift), blend(lips, (255, 235, 230), 0.16), 0.012)
    inner = np.concatenate([mouth.upper_in, mouth.lower_in[::-1]])
    pen.fill(pen.project(inner, lift), (48, 18, 20))
    if mouth.opening > 0.012:
        gap = np.minimum(mouth.lower_in - mouth.upper_in, (0, 0.03)) * (0, 1)
        teeth = mouth.upper_in + gap * (1 - 0.6 * ACROSS[:, None] ** 2)
        row = np.concatenate([mouth.upper_in[2:-2], teeth[-3:1:-1]])
        pen.fill(pen.project(row, lift), dim((226, 216, 204), min(light, 1.0)))
        if mouth.opening > 0.06:
            depth = 0.45 * (mouth.lower_in - mouth.upper_in)
            tongue = mouth.lower_in - depth * (1 - ACROSS[:, None] ** 2)
            tip = np.concatenate([tongue[3:-3], mouth.lower_in[-4:2:-1]])
            pen.fill(pen.project(tip, lift), (132, 58, 60))
    pen.stroke(pen.project(mouth.upper_in, lift), dim(lips, 0.42), 0.009)


def draw_eye(pen: Pen, identity: Identity, u: ActionUnits, side: int) -> None:
    """Draw eyeball, iris between the lids, lash line, lid crease; and the nostril below."""
    x0, size = side * identity.eye_gap, identity.eye_size
    light = float(brightness(identity, x0, EYE_Y))
    skin = dim(identity.skin, light)
    eye = eye_of(identity, u, side)
    above, below = eye.above, eye.below
    x, upper, lower = above[:, 0], above[:, 1], below[:, 1]
    pen.fill(pen.project(np.concatenate([above, below[::-1]])), dim((226, 220, 214), min(light, 1.05)))

    def disc(radius: float, colour: Colour) -> None:
        ring = CIRCLE * radius + (x0 + 0.03 * u.gaze_x, EYE_Y - 0.006 + 0.014 * u.gaze_y)
        ring[:, 1] = np.clip(ring[:, 1], np.interp(ring[:, 0], x, upper), np.interp(ring[:, 0], x, lower))
        pen.fill(pen.project(ring), colour)

    if eye.up + eye.low > 0.012 * size:
        disc(0.031 * size, dim(identity.iris, 0.6 * light))
        disc(0.026 * size, dim(identity.iris, light))
        disc(0.013 * size, (12, 10, 10))
        if eye.up > 0.014:
            pen.blob(x0 + 0.03 * u.gaze_x - 0.009, EYE_Y - 0.016, 0.006, 0.006, (245, 245, 245))
    pen.stroke(pen.project(below), dim(skin, 0.62), 0.006)
    pen.stroke(pen.project(above), dim(blend(identity.hair, (20, 14, 12), 0.75), 0.9), 0.013)
    fold = above[1:-1] - (0, 0.02 - 0.008 * u.lid_raise) * (1 - ACROSS[1:-1, None] ** 4)
    pen.stroke(pen.project(fold), dim(skin, 0.66), 0.007)
    wing, nostril_y = identity.nose_width, nose_base(identity, u) - 0.004
    pen.blob(side * 0.42 * wing, nostril_y, 0.26 * wing, 0.011, dim(skin, 0.32), 0.06)


def draw_brow(pen: Pen, identity: Identity, u: ActionUnits, side: int) -> None:
    """Draw a tapered band whose inner, middle and outer parts move with AU1, AU4 and AU2."""
    line = brow_of(identity, u, side)
    t = np.linspace(0, 1, len(line))
    body = 0.0155 * identity.brow_thickness * (0.75 + 0.6 * np.sin(np.pi * np.minimum(t + 0.25, 1))) * (1 - 0.5 * t**3)
    light = float(brightness(identity, side * identity.eye_gap, -0.18))
    colour = dim(identity.brow, 0.5 + 0.5 * light)
    fringe = blend(colour, dim(identity.skin, light), 0.45)  # a lighter fringe instead of a hard border
    for width, paint in ((1.0, fringe), (0.66, colour)):
        above, below = (line + edge * width * np.column_stack([0 * t, body]) for edge in (-1, 1))
        pen.fill(pen.project(np.concatenate([above, below[::-1]]), 0.01), paint)


def draw_glasses(pen: Pen, identity: Identity, frame: Colour) -> None:
    """Draw two rims, their arms and the bridge, slightly in front of the face."""
    gap = identity.eye_gap
    for side in (-1, 1):
        rim = smooth(_LENS * (side, 1)) + np.array((side * gap, EYE_Y + 0.005))
        pen.stroke(pen.project(np.concatenate([rim, rim[:1]]), 0.05), frame, 0.013)
        arm = np.array([(side * (gap + 0.1), EYE_Y - 0.03), (side * identity.width, EYE_Y - 0.035)])
        pen.stroke(pen.project(arm, 0.02), frame, 0.012)
    bridge = np.array([(-gap + 0.1, EYE_Y - 0.02), (0, EYE_Y - 0.032), (gap - 0.1, EYE_Y - 0.02)])
    pen.stroke(pen.project(bridge, 0.06), frame, 0.012)

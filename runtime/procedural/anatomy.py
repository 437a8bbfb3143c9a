"""The shape of the head in face units: silhouette, mouth, nose; and its lighting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .identity import Identity
from .pen import TALL, Points, mirrored, smooth
from .units import ActionUnits

EYE_Y = -0.085
"""Height of the eyes' centres."""

ACROSS = np.linspace(-1.0, 1.0, 15)
"""Positions along a lip or a lid, from left to right."""

# Half of the head's outline from chin to crown: x as a share of the half width, y in face units.
HALF_OUTLINE = np.array(
    [
        (0, 0.50),
        (0.26, 0.49),
        (0.48, 0.445),
        (0.74, 0.33),
        (0.90, 0.19),
        (0.97, 0.03),
        (1, -0.12),
        (0.99, -0.28),
        (0.92, -0.43),
        (0.76, -0.56),
        (0.44, -0.645),
        (0, -0.67),
    ]
)


@dataclass(frozen=True)
class Mouth:
    """Lip curves in face units, [15,2] each from the left to the right corner."""

    upper_out: Points
    upper_in: Points
    lower_in: Points
    lower_out: Points
    opening: float  # between the lips at the middle

    @property
    def low(self) -> float:
        """y of the lower lip's lower edge at the middle."""
        return float(self.lower_out[len(ACROSS) // 2, 1])


@dataclass(frozen=True)
class Eye:
    """Edges of the lids in face units, [15,2] each from left to right."""

    above: Points
    below: Points
    up: float  # from the eye's centre to the upper lid, at the middle
    low: float  # and to the lower one


def eye_of(identity: Identity, u: ActionUnits, side: int) -> Eye:
    """Return the lids of the eye on one side (-1 the left in the image, 1 the right)."""
    x0, size = side * identity.eye_gap, identity.eye_size
    half = 0.079 * size
    low = size * (0.019 - 0.007 * u.lid_tighten - 0.008 * u.cheek_raise)
    wide = size * (0.031 + 0.017 * u.lid_raise - 0.006 * u.lid_tighten - 0.004 * u.cheek_raise - 0.006 * u.gaze_y)
    up = wide + min(max(u.blink, 0.0), 1.0) * (-low * 0.7 - wide)
    tilt = -identity.eye_tilt * side * half * ACROSS + 0.006 * u.inner_brow * side * ACROSS
    upper = EYE_Y + tilt - up * (1 - np.abs(ACROSS) ** 2.2)
    lower = EYE_Y + tilt + low * (1 - np.abs(ACROSS) ** 2.6)
    x = x0 + half * ACROSS
    return Eye(np.column_stack([x, upper]), np.column_stack([x, lower]), up, low)


def brow_of(identity: Identity, u: ActionUnits, side: int) -> Points:
    """Return the middle line of a brow in face units, [9,2] from its inner to its outer end."""
    skew = 1 + 0.3 * u.asymmetry * side
    t = np.linspace(0, 1, 9)
    inner, outer = (1 - t) ** 1.4, t**1.1
    x = identity.eye_gap - 0.1 - 0.02 * u.brow_lower * inner + 0.205 * t
    y = -0.158 - 0.03 * identity.brow_arch * np.sin(np.pi * t**1.3) + 0.012 * t**2
    y -= skew * (0.062 * u.inner_brow * inner + 0.058 * u.outer_brow * outer)
    y += skew * 0.042 * u.brow_lower * (0.25 + 0.75 * inner) + 0.012 * u.nose_wrinkle * inner + 0.006 * u.cheek_raise
    return np.column_stack([side * x, y])


def mouth_of(identity: Identity, u: ActionUnits) -> Mouth:
    """Return the lips for this person and these action units."""
    smile, frown = max(u.mouth_corner, 0.0), max(-u.mouth_corner, 0.0)
    half = identity.mouth_width * (
        1 + 0.25 * smile + 0.2 * u.lip_stretch - 0.26 * u.jaw_drop - 0.06 * u.lip_press + 0.04 * frown
    )
    middle = 0.268 - 0.006 * smile - 0.018 * u.upper_lip - 0.012 * u.nose_wrinkle - 0.014 * u.chin_raise
    skew = 1 + 0.3 * u.asymmetry * ACROSS
    corner = middle + (-0.062 * smile + 0.05 * frown + 0.01 * u.lip_stretch) * skew + 0.045 * u.jaw_drop
    opening = max(0.13 * u.jaw_drop + 0.032 * smile * smile + 0.03 * u.upper_lip + 0.02 * u.lip_stretch, 0.0)
    opening *= 1 - 0.85 * min(u.lip_press, 1.0)
    full = 1 - np.abs(ACROSS) ** 2.2
    # A dropped jaw opens a round hole rather than a slit.
    gape = opening * (1 - np.abs(ACROSS) ** (2.2 + 1.6 * max(u.jaw_drop, 0.0)))
    bow = 1 - 0.28 * np.exp(-((ACROSS / 0.16) ** 2)) - 0.12 * np.abs(ACROSS)
    thick = identity.lip * (1 - 0.6 * u.lip_press) * (1 - 0.2 * smile)
    x = half * ACROSS
    # The corners pull the line into a parabola, so a smile bends the whole mouth.
    line = corner * ACROSS**2 + middle * (1 - ACROSS**2)
    upper_in = line - 0.12 * gape
    lower_in = line + 0.88 * gape
    upper_out = upper_in - 0.03 * thick * (1 - 0.25 * u.upper_lip) * full * bow
    lower_out = lower_in + 0.036 * thick * (1 + 0.2 * u.chin_raise) * full
    up, inner, below, low = (np.column_stack([x, y]) for y in (upper_out, upper_in, lower_in, lower_out))
    return Mouth(up, inner, below, low, opening)


def outline_of(identity: Identity, jaw_drop: float) -> Points:
    """Return the head's silhouette [N,2]; the jaw part moves down with the jaw."""
    half = HALF_OUTLINE * (identity.width, 1.0)
    half[1:5, 0] *= 1 + 0.1 * (identity.jaw - 0.4) * np.array([1.6, 1.6, 1.0, 0.4])
    half[:, 1] += 0.075 * jaw_drop * np.clip((half[:, 1] - 0.05) / 0.4, 0, 1)
    return smooth(smooth(mirrored(half)))


def nose_base(identity: Identity, units: ActionUnits) -> float:
    """Return y of the underside of the nose."""
    return EYE_Y + 0.24 * identity.nose_length - 0.02 * units.nose_wrinkle - 0.005 * units.upper_lip


def brightness(identity: Identity, x: Points | float, y: Points | float) -> Points:
    """Return the brightness (0.3..1.12) of an ellipsoid head at face units (x, y)."""
    nx, ny = np.asarray(x) / (identity.width * 1.1), np.asarray(y) / TALL
    nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0.03))
    side = nx * identity.light[0] + ny * identity.light[1]
    return np.clip(0.54 + 0.44 * nz + 0.42 * identity.light_strength * side, 0.3, 1.12)

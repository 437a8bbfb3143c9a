"""The head's own shape in face units: silhouette, mouth, nose, and how light falls on it."""

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


def mouth_of(identity: Identity, u: ActionUnits) -> Mouth:
    """The lips of this person making this face."""
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
    # The corners pull the line along a parabola, so a smile bends the whole mouth.
    line = corner * ACROSS**2 + middle * (1 - ACROSS**2)
    upper_in = line - 0.12 * gape
    lower_in = line + 0.88 * gape
    upper_out = upper_in - 0.03 * thick * (1 - 0.25 * u.upper_lip) * full * bow
    lower_out = lower_in + 0.036 * thick * (1 + 0.2 * u.chin_raise) * full
    up, inner, below, low = (np.column_stack([x, y]) for y in (upper_out, upper_in, lower_in, lower_out))
    return Mouth(up, inner, below, low, opening)


def outline_of(identity: Identity, jaw_drop: float) -> Points:
    """The head's silhouette [N,2]; the jaw part moves down with the jaw."""
    half = HALF_OUTLINE * (identity.width, 1.0)
    half[1:5, 0] *= 1 + 0.1 * (identity.jaw - 0.4) * np.array([1.6, 1.6, 1.0, 0.4])
    half[:, 1] += 0.075 * jaw_drop * np.clip((half[:, 1] - 0.05) / 0.4, 0, 1)
    return smooth(smooth(mirrored(half)))


def nose_base(identity: Identity, units: ActionUnits) -> float:
    """y of the underside of the nose."""
    return EYE_Y + 0.24 * identity.nose_length - 0.02 * units.nose_wrinkle - 0.005 * units.upper_lip


def brightness(identity: Identity, x: Points | float, y: Points | float) -> Points:
    """Brightness (0.3..1.12) of an ellipsoid head at face units (x, y)."""
    nx, ny = np.asarray(x) / (identity.width * 1.1), np.asarray(y) / TALL
    nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0.03))
    side = nx * identity.light[0] + ny * identity.light[1]
    return np.clip(0.54 + 0.44 * nz + 0.42 * identity.light_strength * side, 0.3, 1.12)

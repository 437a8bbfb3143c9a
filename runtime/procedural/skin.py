"""The lit skin: colour, soft relief and wrinkles inside the head's outline."""

from __future__ import annotations

import math

import cv2
import numpy as np

from .anatomy import EYE_Y, Mouth, brightness, nose_base
from .folds import paint_folds
from .identity import Identity
from .pen import Image, Pen, Points, blend, dim, fixed, mirrored, smooth
from .units import ActionUnits

_GRID = 44  # rows per face height of the coarse grid

# The right half of a beard, from the chin to the corner of the mouth, where its upper edge follows the lip.
_BEARD = np.array([(0, 0.55), (0.3, 0.55), (0.42, 0.3), (0.42, 0.02), (0.35, 0.06), (0.29, 0.2), (0.17, 0.275)])


def draw_skin(pen: Pen, identity: Identity, units: ActionUnits, mouth: Mouth, outline: Points) -> None:
    """Draw the lit skin with all soft shadows and wrinkles, inside the outline [N,2] given in pixels."""
    x0, y0 = np.maximum(np.floor(outline.min(0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(outline.max(0)).astype(int) + 1, (pen.picture.shape[1], pen.picture.shape[0]))
    if x1 <= x0 or y1 <= y0:
        return
    corner, size = (int(x0), int(y0)), (int(x1 - x0), int(y1 - y0))
    skin = cv2.resize(_lit(pen, identity, units, mouth, corner, size), size, interpolation=cv2.INTER_LINEAR)
    folds = np.full(size[::-1], 255, np.uint8)
    paint_folds(pen.on(folds, corner, 1.0), identity, units, mouth)
    folds = np.asarray(cv2.GaussianBlur(folds, (0, 0), max(0.5, 0.006 * pen.height)), np.uint8)
    redder = cv2.convertScaleAbs(folds, alpha=0.8, beta=51)
    skin = cv2.multiply(skin, cv2.merge([redder, folds, folds]), scale=1 / 255)
    pen.fill(outline, dim(identity.skin, 0.7))  # a smooth rim for the copy below
    mask = np.zeros(size[::-1], np.uint8)
    cv2.fillPoly(mask, [fixed(outline - corner)], (255.0,), cv2.LINE_8, 4)
    cv2.polylines(mask, [fixed(outline - corner)], True, (0.0,), 2, cv2.LINE_8, 4)  # keep the rim
    cv2.copyTo(skin, mask, pen.picture[y0:y1, x0:x1])


def _lit(
    pen: Pen,
    identity: Identity,
    units: ActionUnits,
    mouth: Mouth,
    corner: tuple[int, int],
    size: tuple[int, int],
) -> Image:
    """Return skin without wrinkles, on a coarse grid, for the image's part at `corner` (x, y) with `size` (w, h)."""
    shrink = max(1.0, pen.height / _GRID)
    columns, rows = math.ceil(size[0] / shrink), math.ceil(size[1] / shrink)
    albedo = np.full((rows, columns, 3), identity.skin, np.uint8)
    _paint_albedo(pen.on(albedo, corner, shrink), identity, mouth)
    # 128 is neutral, darker below, brighter above.
    relief = np.full((rows, columns), 128, np.uint8)
    _paint_relief(pen.on(relief, corner, shrink), identity, units, mouth)
    x, y = np.arange(columns) * shrink + corner[0], np.arange(rows)[:, None] * shrink + corner[1]
    light = brightness(identity, *pen.on_rim(x, y)) * cv2.GaussianBlur(relief, (0, 0), 1.5) / 128
    # Shadows on skin retain more red than blue.
    gain = light.astype(np.float32)[..., None] ** np.array([0.85, 1.0, 1.1], np.float32)
    lit = cv2.GaussianBlur(albedo, (0, 0), 1.3) * gain
    return np.asarray(np.clip(lit, 0, 255), np.uint8)


def _paint_albedo(pen: Pen, identity: Identity, mouth: Mouth) -> None:
    """Paint the flush of cheeks and nose, and the beard."""
    flush = blend(identity.skin, identity.lips, 0.28)
    for side in (-1, 1):
        pen.blob(side * 0.2, 0.1, 0.09, 0.07, flush)
    pen.blob(0, 0.1, 0.05, 0.04, flush)
    if identity.beard:
        upper = (0.0, mouth.low + 0.015)
        jaw = smooth(mirrored(np.vstack([_BEARD, upper])) * (identity.width / 0.4, 1))
        pen.fill(pen.project(jaw), blend(identity.skin, identity.hair, identity.beard))
    if identity.moustache:
        top = mouth.upper_out[::2] - (0, 0.006)
        lip = np.concatenate([top * (1.12, 1), top[::-1] * (0.9, 1) - (0, 0.038)])
        pen.fill(pen.project(lip), blend(identity.skin, identity.hair, identity.moustache))


def _paint_relief(pen: Pen, identity: Identity, u: ActionUnits, mouth: Mouth) -> None:
    """Paint soft light and shadow: sockets, nose, cheeks, lips and chin (128 = neutral)."""
    base, wing = nose_base(identity, u), identity.nose_width
    smile = max(u.mouth_corner, 0.0)
    from_left = identity.light[0] * identity.light_strength
    pen.blob(0, -0.36, 0.2, 0.09, 138)
    for side in (-1, 1):
        puff = min(0.5 * smile + 0.5 * u.cheek_raise, 1.0)
        pen.blob(side * 0.21, 0.12 - 0.03 * puff, 0.085, 0.06, 138 + 14 * puff)
        pen.blob(side * identity.eye_gap, EYE_Y - 0.012, 0.095, 0.055, 108 - 10 * u.brow_lower)
        pen.blob(side * 0.075, EYE_Y - 0.02, 0.03, 0.05, 98 - 12 * u.brow_lower)
        flank = [
            (0.04, -0.1),
            (0.03, base - 0.07),
            (wing, base - 0.03),
            (wing * 1.15, base + 0.005),
            (0.075, 0),
        ]
        pen.fill(pen.project(np.array(flank) * (side, 1), 0.02), 106 + 14 * side * from_left)
    ridge = np.array([(0.018, -0.15), (0.022, base - 0.08), (0.036, base - 0.045)])
    bridge = np.concatenate([ridge[:1] * (-1, 1), ridge, ridge[:0:-1] * (-1, 1)])
    pen.fill(pen.project(bridge, 0.06), 150)
    pen.blob(0, base + 0.012, wing * 0.9, 0.016, 84, 0.02)
    pen.blob(0, mouth.low + 0.02, 0.07, 0.016, 92 - 14 * u.chin_raise)
    pen.blob(0, mouth.low + 0.085, 0.06, 0.04, 140)

"""Wrinkles: resting ones from age and those caused by muscles."""

from __future__ import annotations

import numpy as np

from .anatomy import EYE_Y, Mouth, nose_base
from .identity import Identity
from .pen import Pen, bent
from .units import ActionUnits


def paint_folds(pen: Pen, identity: Identity, u: ActionUnits, mouth: Mouth) -> None:
    """Draw crisp wrinkles and feature lines, dark on 255."""
    age, smile = identity.age, max(u.mouth_corner, 0.0)
    base, wing = nose_base(identity, u), identity.nose_width

    def crease(points: list[tuple[float, float]], depth: float, thickness: float = 0.012, lift: float = 0.0) -> None:
        """Draw a line through these points, darker with depth (0..1)."""
        if depth > 0.03:
            pen.stroke(pen.project(bent(np.array(points)), lift), 255 - 150 * min(depth, 1.0), thickness)

    raised = max(u.inner_brow, 0.0)
    for row in range(3):
        y, span = -0.29 - 0.05 * row - 0.02 * raised, 0.09 + 0.12 * max(u.outer_brow, 0.35 * age)
        bend = 0.012 * (raised - u.outer_brow)
        crease(
            [(-span, y + bend), (-span / 2, y - 0.008), (0, y), (span / 2, y - 0.008), (span, y + bend)],
            0.25 * age + 0.38 * max(raised, u.outer_brow),
        )
    if u.nose_wrinkle > 0.05:
        for row in range(2):
            y = -0.1 + 0.03 * row
            crease([(-0.045, y + 0.012), (0, y - 0.004), (0.045, y + 0.012)], 0.6 * u.nose_wrinkle, lift=0.03)
    eye_low = EYE_Y + 0.026 * identity.eye_size
    for s in (-1, 1):
        gap = identity.eye_gap
        crease(
            [(s * 0.022, -0.2), (s * 0.02, -0.165), (s * 0.026, -0.125)],
            0.15 * age + 0.5 * u.brow_lower,
            0.016,
        )
        cx, cy = mouth.upper_in[0 if s < 0 else -1]
        pull = max(smile, u.nose_wrinkle, 0.9 * u.upper_lip)
        crease(
            [
                (s * (wing + 0.012), base - 0.035),
                (s * (wing + 0.045), base + 0.01),
                (cx + s * (0.036 + 0.02 * smile), cy - 0.035),
                (cx + s * (0.034 + 0.022 * smile), cy + 0.014 * smile),
            ],
            0.1 + 0.35 * age + 0.55 * pull,
            0.014,
        )
        crease([(cx, cy - 0.012), (cx + s * 0.008, cy), (cx + s * 0.004, cy + 0.014)], 0.3 + 0.2 * smile)
        crease(
            [(cx, cy + 0.006), (cx + s * 0.012, cy + 0.03), (cx + s * 0.012, cy + 0.05)],
            0.2 * age + 0.7 * max(-u.mouth_corner, 0.0),
        )
        crease(
            [
                (s * (gap - 0.07), eye_low + 0.008),
                (s * gap, eye_low + 0.03),
                (s * (gap + 0.07), eye_low + 0.012),
            ],
            0.12 + 0.3 * age + 0.4 * max(u.cheek_raise, u.lid_tighten),
        )
        for k in (-1, 0, 1):
            crease(
                [
                    (s * (gap + 0.09), EYE_Y + 0.008 * k),
                    (s * (gap + 0.115), EYE_Y + 0.016 * k),
                    (s * (gap + 0.13), EYE_Y + 0.026 * k),
                ],
                0.25 * age + 0.5 * u.cheek_raise,
                0.008,
            )
        crease(
            [(s * wing * 0.95, base - 0.05), (s * wing * 1.08, base - 0.025), (s * wing * 0.9, base + 0.004)],
            0.45 + 0.3 * u.nose_wrinkle,
            lift=0.03,
        )
    low = mouth.low
    crease([(-0.06, low + 0.04), (0, low + 0.022), (0.06, low + 0.04)], 0.2 * age + 0.65 * u.chin_raise)

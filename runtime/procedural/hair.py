"""Hair: the part behind the head and the cap in front, with its strands."""

from __future__ import annotations

import numpy as np

from .anatomy import HALF_OUTLINE
from .identity import Identity
from .pen import CIRCLE, Pen, along, dim, mirrored, smooth

_HAIRLINES: dict[str, list[tuple[float, float]]] = {
    # The hair's edge from the right temple to the middle: x as a share of the half width, y in face units.
    "receding": [(0.98, -0.12), (0.88, -0.3), (0.8, -0.42), (0.62, -0.57), (0.25, -0.52)],
    "short": [(0.98, -0.1), (0.9, -0.22), (0.86, -0.36), (0.6, -0.46), (0.25, -0.49)],
    "side": [(0.98, -0.06), (0.9, -0.2), (0.88, -0.3), (0.55, -0.36), (0.1, -0.43)],
    "fringe": [(0.99, -0.06), (0.92, -0.16), (0.78, -0.25), (0.4, -0.27), (0.1, -0.265)],
    "curly": [(1.0, -0.06), (0.93, -0.2), (0.84, -0.36), (0.55, -0.43), (0.2, -0.44)],
    "long": [(1.03, 0.3), (0.93, 0.05), (0.9, -0.2), (0.72, -0.38), (0.12, -0.52)],
    "long_fringe": [(1.03, 0.34), (0.95, 0.05), (0.9, -0.16), (0.7, -0.25), (0.2, -0.27)],
    "bun": [(0.98, -0.12), (0.92, -0.24), (0.82, -0.4), (0.55, -0.5), (0.2, -0.52)],
}


# The right half of long hair behind the head, in the same units.
_BACK = np.array(
    [(0, 0.75), (0.75, 0.78), (1.22, 0.68), (1.28, 0.3), (1.2, -0.2), (1.05, -0.5), (0.6, -0.73), (0, -0.77)]
)


def draw_back_hair(pen: Pen, identity: Identity) -> None:
    """Draw the hair that hangs down behind the head, for long styles only."""
    if identity.hair_style.startswith("long"):
        back = smooth(mirrored(_BACK * (identity.width, 1)))
        pen.fill(pen.project_rim(back), dim(identity.hair, 0.7))


def draw_hair(pen: Pen, identity: Identity) -> None:
    """Draw the hair in front: a cap between the hairline and an enlarged skull, with strands on it."""
    style = identity.hair_style
    if style == "bald":
        return
    rng = np.random.default_rng(identity.seed)
    edge = np.array(_HAIRLINES[style]) * (identity.width, 1)
    line = np.concatenate([edge, edge[::-1] * (-1, 1)])
    if style == "side":
        line[5:8, 1] = (-0.47, -0.49, -0.4)
    swell = {"receding": 0.02, "short": 0.04, "bun": 0.03, "curly": 0.1}.get(style, 0.065)
    skull = HALF_OUTLINE[6:] * (identity.width, 1)
    crown = np.concatenate([[line[0] + (swell, 0)], skull + np.array((1, -1)) * (skull * (1, -1)) * swell / 0.4])
    if style == "curly":
        for x, y in smooth(crown[1:]):
            for s in (-1, 1):
                curl = CIRCLE * rng.uniform(0.05, 0.085) + (s * x, y)
                pen.fill(pen.project_rim(curl), dim(identity.hair, rng.uniform(0.75, 1.0)))
    if style == "bun":
        pen.fill(pen.project_rim(CIRCLE * (0.13, 0.11) + (0, -0.76)), dim(identity.hair, 0.85))
    over = np.concatenate([crown, crown[-2::-1] * (-1, 1)])  # right temple, over the top, to the left
    front = pen.project(line)[::-1]
    rim = pen.project_rim(smooth(over)[:-2])
    # Going round: right to left over the crown, then back along the hairline.
    pen.fill(np.concatenate([rim, front]), dim(identity.hair, 0.8))
    t = np.sort(rng.uniform(0, 1, 46))
    starts, ends = along(front[::-1], t), along(rim, t)
    starts, ends = 0.88 * starts + 0.12 * ends, 0.12 * starts + 0.88 * ends
    shades = np.linspace(0.62, 1.1, 6) * (0.9 + 0.2 * max(0.0, -identity.light[1]) * identity.light_strength)
    for tuft, shade in enumerate(shades):
        strands = np.stack([starts[tuft::6], ends[tuft::6]], 1)
        pen.strokes(list(strands), dim(identity.hair, shade), 0.01)

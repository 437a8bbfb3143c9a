"""Action units and head pose, which move the face; and their description in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields


@dataclass(frozen=True)
class ActionUnits:
    """Facial muscle activations (FACS); every value is 0 for the neutral face and 1 at full strength."""

    inner_brow: float = 0.0  # AU1 inner brow raiser
    outer_brow: float = 0.0  # AU2 outer brow raiser
    brow_lower: float = 0.0  # AU4 brow lowerer: down and drawn together
    lid_raise: float = 0.0  # AU5 upper lid raiser
    cheek_raise: float = 0.0  # AU6 cheek raiser
    lid_tighten: float = 0.0  # AU7 lid tightener
    nose_wrinkle: float = 0.0  # AU9 nose wrinkler
    upper_lip: float = 0.0  # AU10 upper lip raiser
    mouth_corner: float = 0.0  # AU12 corner puller (up to +1), AU15 corner depressor (down to -1)
    chin_raise: float = 0.0  # AU17 chin raiser
    lip_stretch: float = 0.0  # AU20 lip stretcher
    lip_press: float = 0.0  # AU23/24 lip tightener and pressor
    jaw_drop: float = 0.0  # AU26/27 jaw drop
    blink: float = 0.0  # AU45; a fraction is a drooping lid
    gaze_x: float = 0.0  # AU61/62, -1 left in the image .. 1 right
    gaze_y: float = 0.0  # AU63/64, -1 up .. 1 down
    asymmetry: float = 0.0  # -1 .. 1: the left (right) half of the image moves more strongly

    def __add__(self, other: ActionUnits) -> ActionUnits:
        return ActionUnits(*(a + b for a, b in zip(self.vector(), other.vector(), strict=True)))

    def __mul__(self, weight: float) -> ActionUnits:
        return ActionUnits(*(weight * a for a in self.vector()))

    def vector(self) -> tuple[float, ...]:
        """Return the 17 values in field order."""
        return astuple(self)


@dataclass(frozen=True)
class Pose:
    """Head turn in degrees, meant for about +-25."""

    yaw: float = 0.0  # > 0 turns to the right of the image
    pitch: float = 0.0  # > 0 looks up
    roll: float = 0.0  # > 0 leans clockwise in the image


ACTIVE, STRONG = 0.25, 0.55
"""Least activation at which a unit is described, and at which it is not "slightly" active."""
COURSE = 0.3, 0.9
"""Shares of the strongest movement between which it rises and falls."""

_WORDS: dict[str, tuple[str, ...]] = {
    "inner_brow": ("the inner brows rise",),
    "outer_brow": ("the outer brows rise",),
    "brow_lower": ("the brows are lowered",),
    "lid_raise": ("the upper lids rise",),
    "cheek_raise": ("the cheeks rise",),
    "lid_tighten": ("the lids tighten",),
    "nose_wrinkle": ("the nose wrinkles",),
    "upper_lip": ("the upper lip rises",),
    "mouth_corner": ("the lip corners are pulled up", "the lip corners are pulled down"),
    "chin_raise": ("the chin is pushed up",),
    "lip_stretch": ("the lips are stretched",),
    "lip_press": ("the lips are pressed",),
    "jaw_drop": ("the jaw drops",),
    "blink": ("the eyes close",),
    "gaze_x": ("the eyes turn to the right of the picture", "the eyes turn to the left of the picture"),
    "gaze_y": ("the eyes turn down", "the eyes turn up"),
}
"""Descriptions of a unit at values above 0 and, if possible, below."""
_BESIDE = ("blink", "gaze_x", "gaze_y", "asymmetry")  # move all the time, whatever the rest of the face does


def describe_units(units: ActionUnits) -> str:
    """Return which units are active, in words.

    >>> describe_units(ActionUnits(inner_brow=0.9, mouth_corner=-0.4))
    'the inner brows rise, the lip corners are pulled down slightly'
    """
    told = []
    for name, words in _WORDS.items():
        value = getattr(units, name)
        if abs(value) >= ACTIVE and (value > 0 or len(words) > 1):
            told.append(words[value < 0] + ("" if abs(value) >= STRONG else " slightly"))
    return ", ".join(told) or "the face hardly moves"


def describe_course(course: Sequence[ActionUnits]) -> str:
    """Return which units become active in a sequence of one or more frames, and how the movement comes and goes.

    >>> rise = [ActionUnits(jaw_drop=value) for value in (0, 0.2, 0.4, 0.6, 0.8, 1, 0)]
    >>> describe_course(rise)
    'the jaw drops, slowly at first, then it is gone quickly'
    """
    most = ActionUnits(*(max(values, key=abs) for values in zip(*(units.vector() for units in course), strict=True)))
    told = describe_units(most)
    names = [field.name for field in fields(ActionUnits) if field.name not in _BESIDE]
    if all(abs(getattr(most, name)) < ACTIVE for name in names):
        return told
    activity = [sum(abs(getattr(units, name)) for name in names) for units in course]
    low, high = ([i for i, value in enumerate(activity) if value >= share * max(activity)] for share in COURSE)
    rise, fall = high[0] - low[0], low[-1] - high[-1]
    if low[-1] == len(course) - 1 and fall <= 1:
        return f"{told}, to the end"
    if 2 * rise < fall:
        return f"{told}, quickly at first, then it fades slowly"
    if 2 * fall < rise:
        return f"{told}, slowly at first, then it is gone quickly"
    return f"{told}, then it fades as it came"

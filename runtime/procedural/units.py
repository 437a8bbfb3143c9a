"""What moves a face: action units and the head's pose."""

from __future__ import annotations

from dataclasses import astuple, dataclass


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
    blink: float = 0.0  # AU45; a part value is a drooping lid
    gaze_x: float = 0.0  # AU61/62, -1 left in the picture .. 1 right
    gaze_y: float = 0.0  # AU63/64, -1 up .. 1 down
    asymmetry: float = 0.0  # -1 .. 1: the left (right) half of the picture moves more strongly

    def __add__(self, other: ActionUnits) -> ActionUnits:
        return ActionUnits(*(a + b for a, b in zip(self.vector(), other.vector(), strict=True)))

    def __mul__(self, weight: float) -> ActionUnits:
        return ActionUnits(*(weight * a for a in self.vector()))

    __rmul__ = __mul__

    def vector(self) -> tuple[float, ...]:
        """The 17 values in field order."""
        return astuple(self)


@dataclass(frozen=True)
class Pose:
    """Head turn in degrees, meant for about +-25."""

    yaw: float = 0.0  # > 0 turns to the right of the picture
    pitch: float = 0.0  # > 0 looks up
    roll: float = 0.0  # > 0 leans clockwise in the picture

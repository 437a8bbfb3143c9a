"""The identity of a person: everything about face and scene that an expression does not change."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .pen import Colour

HAIR_STYLES = ("bald", "receding", "short", "side", "fringe", "curly", "long", "long_fringe", "bun")
BACKGROUNDS = ("plain", "gradient", "blobs", "noise")

_SKIN = np.array(
    [
        (244, 216, 196),
        (240, 203, 175),
        (222, 176, 143),
        (196, 145, 108),
        (156, 106, 76),
        (112, 74, 54),
        (80, 54, 42),
    ],
    np.float64,
)
_HAIR = np.array(
    [
        (28, 22, 20),
        (52, 36, 28),
        (92, 62, 40),
        (140, 98, 58),
        (196, 160, 104),
        (150, 72, 38),
        (150, 148, 146),
        (216, 212, 206),
    ],
    np.float64,
)
_IRIS = np.array([(58, 36, 24), (90, 60, 36), (96, 104, 62), (84, 118, 150), (104, 116, 124)], np.float64)


@dataclass(frozen=True)
class Identity:
    """Everything about a person and the scene that an expression does not change; colours are RGB 0..255."""

    seed: int  # fixes hair strands and the background's pattern
    skin: Colour
    hair: Colour
    brow: Colour
    lips: Colour
    iris: Colour
    clothes: Colour
    hair_style: str  # one of HAIR_STYLES
    width: float  # half width of the head
    jaw: float  # 0 pointed .. 1 square
    eye_gap: float  # from the midline to an eye's centre
    eye_size: float  # 1 = average
    eye_tilt: float  # > 0: outer corners higher
    nose_width: float  # half width at the wings
    nose_length: float  # 1 = average
    mouth_width: float  # half width
    lip: float  # lip thickness, 1 = average
    brow_thickness: float  # 1 = average
    brow_arch: float  # 1 = average
    beard: float  # opacity 0..1, low values are stubble
    moustache: float  # opacity 0..1
    glasses: Colour | None  # colour of the frame
    age: float  # 0..1, depth of the resting wrinkles
    light: tuple[float, float]  # direction the light comes from, (x, y) within the unit disc
    light_strength: float  # 0..1
    background: str  # one of BACKGROUNDS
    backdrop: tuple[Colour, Colour]  # its two colours

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Identity:
        """Draw one person; equal generator states give equal people."""
        tone = rng.uniform(0, len(_SKIN) - 1.001)
        low = int(tone)
        skin = _SKIN[low] + (tone - low) * (_SKIN[low + 1] - _SKIN[low]) + rng.normal(0, 4, 3)
        age = float(rng.beta(1.3, 2.2))
        hairs = _HAIR[:3] if tone > 3.5 else _HAIR[:6]
        hair = (
            (_HAIR[6:] if rng.random() < 0.8 * age else hairs)[rng.integers(2)]
            if age > 0.6
            else hairs[rng.integers(len(hairs))]
        )
        hair = hair * rng.uniform(0.8, 1.15)
        beard = float(rng.choice([0.0, rng.uniform(0.12, 0.4), rng.uniform(0.6, 0.9)], p=[0.68, 0.18, 0.14]))
        moustache = max(beard * float(rng.random() < 0.85), 0.8 * float(rng.random() < 0.05))
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.9)
        styles = HAIR_STYLES[:6] if max(beard, moustache) > 0 else HAIR_STYLES
        return cls(
            seed=int(rng.integers(2**31)),
            skin=_rgb(skin),
            hair=_rgb(hair),
            brow=_rgb(0.62 * hair + 0.13 * skin),
            lips=_rgb(skin * (0.86, 0.66, 0.68) + rng.uniform(0, 14) * np.array((1.0, -0.4, -0.2))),
            iris=_rgb(_IRIS[rng.integers(2 if tone > 3 else len(_IRIS))]),
            clothes=_muted(rng.random(3)),
            hair_style=str(rng.choice(styles)),
            width=rng.uniform(0.355, 0.415),
            jaw=rng.uniform(0, 1),
            eye_gap=rng.uniform(0.158, 0.182),
            eye_size=rng.uniform(0.88, 1.18),
            eye_tilt=rng.uniform(-0.05, 0.12),
            nose_width=rng.uniform(0.07, 0.1),
            nose_length=rng.uniform(0.88, 1.1),
            mouth_width=rng.uniform(0.115, 0.145),
            lip=rng.uniform(0.7, 1.4),
            brow_thickness=rng.uniform(0.6, 1.5),
            brow_arch=rng.uniform(0.3, 1.5),
            beard=beard,
            moustache=moustache,
            glasses=_rgb(rng.uniform(10, 90, 3)) if rng.random() < 0.18 else None,
            age=age,
            light=(reach * math.cos(angle), reach * math.sin(angle) - 0.3),
            light_strength=rng.uniform(0.2, 0.9),
            background=str(rng.choice(BACKGROUNDS)),
            backdrop=(_muted(rng.random(3)), _muted(rng.random(3))),
        )


def _rgb(values: NDArray[np.float64]) -> Colour:
    red, green, blue = np.clip(values, 0, 255).tolist()
    return red, green, blue


def _muted(shares: NDArray[np.float64]) -> Colour:
    """Return a muted colour, as of cloth and walls, from three numbers in 0..1."""
    hue, saturation, value = shares.tolist()
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.4 * saturation**2, 0.1 + 0.8 * value)
    return 255 * red, 255 * green, 255 * blue

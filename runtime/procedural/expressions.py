"""Expressions as time courses of action units, and short clips of a procedural face showing them.

Two pairs of classes share one apex face and one distribution of courses, and differ only in the direction of time:

* ``surprise`` starts fast and fades slowly; ``fear`` is a course of surprise played backwards;
* ``disgust`` recoils fast and relaxes slowly; ``anger`` is a course of disgust played backwards.

So neither a single frame nor a shuffled clip can tell the two apart: a model must use the order of the frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from . import ActionUnits, Identity, Image, Pose, draw_background, draw_face, trace_face

_STARTLED = ActionUnits(inner_brow=1.0, outer_brow=1.0, lid_raise=1.0, jaw_drop=0.75)
_REPELLED = ActionUnits(
    brow_lower=1.0,
    lid_tighten=0.7,
    nose_wrinkle=0.9,
    upper_lip=0.8,
    mouth_corner=-0.3,
    lip_press=0.3,
    chin_raise=0.3,
)

APEX: dict[str, ActionUnits] = {
    "happiness": ActionUnits(cheek_raise=1.0, mouth_corner=1.0),
    "sadness": ActionUnits(inner_brow=1.0, brow_lower=0.45, mouth_corner=-1.0, chin_raise=0.7, blink=0.25, gaze_y=0.3),
    "neutral": ActionUnits(),
    "anger": _REPELLED,
    "surprise": _STARTLED,
    "disgust": _REPELLED,
    "fear": _STARTLED,
}
"""The face at full intensity, per expression."""

REVERSED: dict[str, str] = {"fear": "surprise", "anger": "disgust"}
"""Expressions defined as another one's courses played backwards."""

# Ranges of (rise, hold, fall) in shares of the clip; they sum to less than 0.95, so every course fits.
_TIMING: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "happiness": ((0.15, 0.25), (0.30, 0.45), (0.15, 0.25)),
    "sadness": ((0.30, 0.45), (0.95, 1.0), (0.1, 0.1)),  # still held when the clip ends
    "neutral": ((0.2, 0.2), (0.2, 0.2), (0.2, 0.2)),  # moves to the neutral face, so timing is invisible
    "surprise": ((0.075, 0.125), (0.05, 0.12), (0.40, 0.60)),
    "disgust": ((0.075, 0.125), (0.05, 0.12), (0.40, 0.60)),
}


def _ease(x: float) -> float:
    """Return a smooth step from 0 (x <= 0) to 1 (x >= 1)."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


@dataclass(frozen=True)
class Wave:
    """A drift ``amplitude * sin(2 pi frequency t + phase)``; it looks the same in both directions of time."""

    amplitude: float
    frequency: float  # Hz
    phase: float  # radians

    @classmethod
    def sample(cls, amplitude: float, low: float, high: float, rng: np.random.Generator) -> Wave:
        """Draw a wave with up to this amplitude and a frequency in [low, high] Hz."""
        return cls(rng.uniform(0.2, 1.0) * amplitude, rng.uniform(low, high), rng.uniform(0, 2 * math.pi))

    def __call__(self, t: float) -> float:
        return self.amplitude * math.sin(2 * math.pi * self.frequency * t + self.phase)


@dataclass(frozen=True)
class ExpressionCurve:
    """The course of one expression, with meaningless blinks, glances, head sway and twitches."""

    label: str
    seconds: float
    strength: float  # of the apex, 0.6..1
    apex: ActionUnits  # this person's version of APEX[label]
    start: float  # seconds before the rise
    rise: float
    hold: float
    fall: float
    turn: tuple[Wave, Wave, Wave]  # yaw, pitch, roll in degrees
    rest: Pose  # mean pose of the sway
    gaze: tuple[Wave, Wave]
    twitch: tuple[Wave, Wave, Wave]  # brows, mouth corners, asymmetry
    talk: Wave  # jaw
    blinks: tuple[float, ...]  # times of the closed eye, seconds

    @classmethod
    def sample(cls, label: str, seconds: float, rng: np.random.Generator) -> ExpressionCurve:
        """Draw a course; with equal generator states, the labels of a REVERSED pair get courses mirrored in time."""
        forward = REVERSED.get(label, label)
        rise, hold, fall = (seconds * rng.uniform(*limits) for limits in _TIMING[forward])
        slack = max(seconds - rise - hold - fall, 0.05 * seconds)
        apex = ActionUnits(*(float(value * rng.uniform(0.8, 1.1)) for value in APEX[label].vector()))
        return cls(
            label=label,
            seconds=seconds,
            strength=rng.uniform(0.6, 1.0),
            apex=apex,
            start=slack * rng.uniform(0.1, 0.9),
            rise=rise,
            hold=hold,
            fall=fall,
            turn=(
                Wave.sample(6, 0.1, 0.4, rng),
                Wave.sample(4, 0.1, 0.4, rng),
                Wave.sample(3, 0.1, 0.3, rng),
            ),
            rest=Pose(*(float(v) for v in rng.normal(0, (6, 4, 3)))),
            gaze=(Wave.sample(0.4, 0.2, 0.6, rng), Wave.sample(0.2, 0.2, 0.6, rng)),
            twitch=(
                Wave.sample(0.06, 0.3, 1.0, rng),
                Wave.sample(0.06, 0.3, 1.0, rng),
                Wave.sample(0.6, 0.0, 0.2, rng),
            ),
            talk=Wave.sample(0.5 if label == "neutral" and rng.random() < 0.5 else 0.03, 1.5, 3.0, rng),
            blinks=tuple(float(v) for v in rng.uniform(0, seconds, rng.poisson(0.3 * seconds))),
        )

    def _clock(self, t: float) -> float:
        """Return the time on the forward course: reversed expressions run it from its end to its start."""
        return self.seconds - t if self.label in REVERSED else t

    def times(self, fps: float) -> list[float]:
        """Return the frame times in seconds, (i + 0.5) / fps: symmetric about the clip's middle."""
        return [(i + 0.5) / fps for i in range(round(self.seconds * fps))]

    def intensity(self, t: float) -> float:
        """Return the intensity of the expression at ``t`` seconds, 0..1; always 0 for neutral."""
        if self.label == "neutral":
            return 0.0
        since = self._clock(t) - self.start
        return self.strength * (_ease(since / self.rise) - _ease((since - self.rise - self.hold) / self.fall))

    def at(self, t: float) -> tuple[ActionUnits, Pose]:
        """Return face and head at ``t`` seconds."""
        face = self.apex * self.intensity(t)
        t = self._clock(t)
        brows, corners, asymmetry = (wave(t) for wave in self.twitch)
        blink = max((1 - _ease(abs(t - moment) / 0.15) for moment in self.blinks), default=0.0)
        yaw, pitch, roll = (wave(t) for wave in self.turn)
        return replace(
            face,
            inner_brow=face.inner_brow + brows,
            outer_brow=face.outer_brow + brows,
            mouth_corner=face.mouth_corner + corners,
            asymmetry=asymmetry,
            jaw_drop=face.jaw_drop + abs(self.talk(t)),
            blink=max(face.blink, blink),
            gaze_x=self.gaze[0](t),
            gaze_y=face.gaze_y + self.gaze[1](t),
        ), Pose(self.rest.yaw + yaw, self.rest.pitch + pitch, self.rest.roll + roll)


def render_clip(
    curve: ExpressionCurve, identity: Identity, rng: np.random.Generator, fps: float = 8.0, size: int = 160
) -> tuple[Image, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Render a course at its ``times``.

    Returns the frames uint8 RGB [T,size,size,3], the landmarks float32 [T,5,2] in pixels (order of
    ``draw_face``), the intensities float32 [T] in 0..1, and the points float32 [T,68,2] of ``trace_face``, with
    T = round(curve.seconds * fps).
    """
    height = size * rng.uniform(0.62, 0.78)
    x, y = size * rng.uniform(0.46, 0.54), size * rng.uniform(0.5, 0.56)
    gain, blur, noise = rng.uniform(0.75, 1.15), rng.uniform(0.0, 0.9), rng.uniform(0.0, 6.0)
    scene = draw_background(identity, size, size)
    frames, landmarks, intensities, traces = [], [], [], []
    for t in curve.times(fps):
        units, pose = curve.at(t)
        frame = scene.copy()
        landmarks.append(draw_face(frame, identity, units, pose, (x, y), height))
        traces.append(trace_face(identity, units, pose, (x, y), height))
        if blur > 0.3:  # below this the kernel is a single pixel
            frame = np.asarray(cv2.GaussianBlur(frame, (0, 0), blur), np.uint8)
        grain = noise * rng.standard_normal((size, size, 3), dtype=np.float32)
        frames.append(np.clip(gain * frame + grain, 0, 255).astype(np.uint8))
        intensities.append(curve.intensity(t))
    return np.stack(frames), np.stack(landmarks), np.array(intensities, np.float32), np.stack(traces)

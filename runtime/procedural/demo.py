"""The demo scene: two procedural people in a room, and the script of their expressions.

The camera does not move. The first person is there all the time; the second walks in from the right, stays
for a while and leaves the same way, so that a tracker has something to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from ..outputs.video import VideoSink
from ..storage import atomic_write
from . import ActionUnits, Colour, Identity, Image, Pose, draw_face
from .expressions import ExpressionCurve

SIZE = (640, 360)
"""Width and height of the video, pixels."""
RATE = 24.0
"""Frames per second."""
SECONDS = 14.0

_COURSE = 2.0  # seconds per expression
_JOIN = 0.35  # seconds of cross-fade from one expression to the next
_STRENGTH = 0.95  # of each expression at its apex
_LIGHT = (-0.5, -0.55)  # from the window


@dataclass(frozen=True)
class Role:
    """What one person does; `path` lists (second, x in pixels), interpolated linearly."""

    person: int  # seed of the generator for Identity.sample
    clothes: Colour
    height: float  # of the face, pixels
    level: float  # y of the face's centre, pixels
    path: tuple[tuple[float, float], ...]
    start: float  # second at which the first expression begins
    labels: tuple[str, ...]  # one expression every two seconds

    def x(self, t: float) -> float:
        """Return x of the face's centre at `t` seconds, pixels."""
        seconds, places = zip(*self.path, strict=True)
        return float(np.interp(t, seconds, places))


ROLES = (
    Role(
        person=48,
        clothes=(112, 62, 66),
        height=170,
        level=168,
        path=((0.0, 196), (SECONDS, 190)),
        start=0.0,
        labels=("happiness", "anger", "surprise", "sadness", "disgust", "neutral", "fear"),
    ),
    Role(
        person=27,
        clothes=(58, 78, 104),
        height=150,
        level=182,
        path=((0.2, 800), (1.3, 484), (1.6, 462), (11.5, 456), (11.8, 480), (12.8, 800)),
        start=1.5,
        labels=("surprise", "sadness", "happiness", "fear", "anger"),
    ),
)
"""The cast, nearest to the camera first."""


def demo_script() -> list[list[tuple[float, float, str]]]:
    """Return the expressions of `ROLES`: per person (start, end, expression), in seconds and in order.

    >>> demo_script()[1][0]
    (1.5, 3.5, 'surprise')
    """
    return [
        [(role.start + _COURSE * i, role.start + _COURSE * (i + 1), label) for i, label in enumerate(role.labels)]
        for role in ROLES
    ]


def film_demo(path: Path, progress: Callable[[int, int], object] | None = None, *, seconds: float = SECONDS) -> None:
    """Write the scene, or its first `seconds`, as an MP4 video at `RATE` and `SIZE`, atomically.

    progress: called after each frame with the number of frames done and in total.

    Raises DferError when the video cannot be written.
    """
    actors = [_Actor(role) for role in reversed(ROLES)]
    room, total = _room(), round(seconds * RATE)
    with atomic_write(path) as aside, VideoSink(aside, RATE, SIZE) as video:
        for index in range(total):
            frame = room.copy()
            for actor in actors:
                actor.draw(frame, index / RATE)
            video.write(frame, index / RATE)
            if progress is not None:
                progress(index + 1, total)


class _Actor:
    """A person who plays a role."""

    def __init__(self, role: Role) -> None:
        self._role = role
        person = Identity.sample(np.random.default_rng(role.person))
        self._identity = replace(person, clothes=role.clothes, light=_LIGHT, light_strength=0.55)
        rng = np.random.default_rng([role.person, 1])
        curves = [ExpressionCurve.sample(label, _COURSE, rng) for label in role.labels]
        self._courses = [replace(curve, strength=_STRENGTH) for curve in curves]

    def draw(self, frame: Image, t: float) -> None:
        """Draw the person as they are at `t` seconds."""
        units, pose = self._at(t - self._role.start)
        center = self._role.x(t), self._role.level
        draw_face(frame, self._identity, units, pose, center, self._role.height)

    def _at(self, t: float) -> tuple[ActionUnits, Pose]:
        """Return face and head `t` seconds into the performance; before and after it the face rests."""
        index = min(max(int(t // _COURSE), 0), len(self._courses) - 1)
        since = t - index * _COURSE
        units, pose = self._courses[index].at(since)
        if index > 0 and since < _JOIN:
            # The previous course simply runs on, so that even one that ends at its apex fades out.
            old_units, old_pose = self._courses[index - 1].at(_COURSE + since)
            new = since / _JOIN
            old = 1.0 - new
            units = units * new + old_units * old
            pose = Pose(
                new * pose.yaw + old * old_pose.yaw,
                new * pose.pitch + old * old_pose.pitch,
                new * pose.roll + old * old_pose.roll,
            )
        return units, pose


def _room() -> Image:
    """Draw a wall in soft light from a window beyond the left edge, with a picture and a shelf out of focus."""
    width, height = SIZE
    room = np.empty((height, width, 3), np.uint8)
    room[:] = (176, 170, 158)
    cv2.rectangle(room, (300, 34), (392, 152), (122, 112, 100), cv2.FILLED)
    cv2.rectangle(room, (308, 42), (384, 144), (188, 192, 188), cv2.FILLED)
    cv2.rectangle(room, (548, 118), (width, 128), (118, 98, 80), cv2.FILLED)
    for x, top, colour in (
        (560, 66, (128, 110, 104)),
        (582, 74, (110, 122, 126)),
        (604, 60, (142, 132, 112)),
    ):
        cv2.rectangle(room, (x, top), (x + 16, 118), colour, cv2.FILLED)
    cv2.rectangle(room, (0, 318), (width, height), (138, 128, 116), cv2.FILLED)
    blurred = cv2.GaussianBlur(room, (0, 0), 5.0)
    across, down = np.linspace(0, 1, width), np.linspace(0, 1, height)[:, None]
    glow = 0.66 + 0.42 * np.exp(-((across / 0.75) ** 2) - ((down - 0.3) / 0.9) ** 2)
    return np.clip(blurred * glow[..., None], 0, 255).astype(np.uint8)

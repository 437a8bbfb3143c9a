"""Drawing primitives: curves and colours, and the pen that draws shapes given in face units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from .units import Pose

Image = NDArray[np.uint8]
Points = NDArray[np.float64]
Colour = tuple[float, float, float]

TALL = 0.74
"""Vertical semi-axis of the head ellipsoid, face units."""
_DEPTH = 0.38

CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 20, False)), np.sin(np.linspace(0, 2 * np.pi, 20, False))], 1)
"""The unit circle [20,2]."""


def blend(a: Colour, b: Colour, weight: float) -> Colour:
    """Return `a` at weight 0, `b` at weight 1."""
    return tuple(p + (q - p) * weight for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


def dim(colour: Colour, factor: float) -> Colour:
    """Return the colour with its brightness multiplied by `factor`."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


@cache
def _cutting(count: int) -> Points:
    """Return Chaikin's corner cutting of a closed polygon of `count` points as a matrix [2 count, count]."""
    eye = np.eye(count)
    after = np.roll(eye, 1, 1)
    return np.stack([0.75 * eye + 0.25 * after, 0.25 * eye + 0.75 * after], 1).reshape(-1, count)


@cache
def _cutting_open(count: int) -> Points:
    """Return two rounds of corner cutting of an open curve, which keep its ends, as a matrix."""
    weights = np.eye(count)
    for _ in range(2):
        weights = np.concatenate([weights[:1], _cutting(len(weights))[:-2] @ weights, weights[-1:]])
    return weights


def smooth(points: Points) -> Points:
    """Round the corners of a closed polygon [N,2] -> [2N,2]."""
    return _cutting(len(points)) @ points


def bent(points: Points) -> Points:
    """Round the corners of an open curve [N,2]."""
    return _cutting_open(len(points)) @ points


def mirrored(half: Points) -> Points:
    """Close a right half [N,2], whose first and last points lie on the middle line, into a full outline."""
    return np.concatenate([half, half[-2:0:-1] * (-1, 1)])


def along(line: Points, t: NDArray[np.float64]) -> Points:
    """Return points at shares `t` of a line's points, [N,2]."""
    at = t * (len(line) - 1)
    index = np.arange(len(line))
    return np.column_stack([np.interp(at, index, line[:, 0]), np.interp(at, index, line[:, 1])])


@dataclass(frozen=True)
class Pen:
    """Draws shapes given in face units on one image, through the head's pose.

    picture: RGB [H,W,3] or grey [H,W], drawn on in place. origin: the face's centre, pixels.
    height: pixels per face unit. width: half width of the head, face units.
    """

    picture: Image
    origin: tuple[float, float]
    height: float
    width: float
    turn: Points  # [2,3], face units -> pixels, for points on or above the skin
    rim: Points  # [2,3], the same for the silhouette

    @classmethod
    def aimed(cls, picture: Image, origin: tuple[float, float], height: float, width: float, pose: Pose) -> Pen:
        """Return the pen for a head turned by `pose`."""
        yaw, pitch, roll = (math.radians(angle) for angle in (pose.yaw, pose.pitch, pose.roll))
        cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
        spin = height * np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
        turn = spin @ np.array([[cy, 0, sy], [sp * sy, cp, -sp * cy]])
        # An ellipsoid about as deep as wide keeps the width of its outline when it turns.
        rim = spin @ np.array([[1, 0, sy], [0, cp, -sp]])
        return cls(picture, origin, height, width, turn, rim)

    def on(self, picture: Image, corner: tuple[int, int], shrink: float) -> Pen:
        """Return the same pen for another image: cut out at `corner`, then `shrink` times smaller."""
        origin = (self.origin[0] - corner[0]) / shrink, (self.origin[1] - corner[1]) / shrink
        return Pen(picture, origin, self.height / shrink, self.width, self.turn / shrink, self.rim / shrink)

    def project(self, points: Points, lift: float = 0.0) -> Points:
        """Project face units [N,2], lifted off the skin by `lift`, to pixels [N,2]."""
        x, y = points[:, 0], points[:, 1]
        z = _DEPTH * np.sqrt(np.maximum(1 - (x / (self.width * 1.04)) ** 2 - (y / TALL) ** 2, 0.0)) + lift
        return np.asarray(points @ self.turn[:, :2].T + z[:, None] * self.turn[:, 2] + self.origin)

    def project_rim(self, points: Points) -> Points:
        """Project the head's silhouette, whose chin lies further forward than its temples, as `project` does."""
        forward = 0.2 * np.clip((points[:, 1] + 0.1) / 0.6, 0, 1)
        return np.asarray(points @ self.rim[:, :2].T + forward[:, None] * self.rim[:, 2] + self.origin)

    def on_rim(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[Points, Points]:
        """Convert broadcastable pixels (x, y) to face units (x, y) on the silhouette's plane."""
        back = np.linalg.inv(self.rim[:, :2])
        x, y = x - self.origin[0], y - self.origin[1]
        return back[0, 0] * x + back[0, 1] * y, back[1, 0] * x + back[1, 1] * y

    def fill(self, pixels: Points, colour: Colour | float) -> None:
        """Fill a polygon with corners at pixels [N,2]."""
        cv2.fillPoly(self.picture, [fixed(pixels)], _scalar(colour), cv2.LINE_AA, 4)

    def stroke(self, pixels: Points, colour: Colour | float, thickness: float) -> None:
        """Draw a line through pixels [N,2]; `thickness` in face units."""
        self.strokes([pixels], colour, thickness)

    def strokes(self, lines: Sequence[Points], colour: Colour | float, thickness: float) -> None:
        """Draw several lines as `stroke` does."""
        width = max(1, round(thickness * self.height))
        fine = [fixed(line) for line in lines]
        cv2.polylines(self.picture, fine, False, _scalar(colour), width, cv2.LINE_AA, 4)

    def blob(self, x: float, y: float, rx: float, ry: float, colour: Colour | float, lift: float = 0.0) -> None:
        """Draw a filled ellipse on the skin."""
        self.fill(self.project(CIRCLE * (rx, ry) + (x, y), lift), colour)


def fixed(pixels: Points) -> NDArray[np.int32]:
    """Return pixels as OpenCV's fixed-point numbers with 4 fractional bits."""
    return np.rint(pixels * 16).astype(np.int32)


def _scalar(colour: Colour | float) -> Colour:
    return colour if isinstance(colour, tuple) else (colour, colour, colour)

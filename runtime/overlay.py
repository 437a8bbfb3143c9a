"""Drawing what was recognised into a frame: box, track and label, and a bar for every class."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .palette import colour_of
from .recognizer import Step, VisibleFace

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_DARK, _LIGHT = (24, 26, 30), (245, 245, 245)


def annotate(step: Step) -> NDArray[np.uint8]:
    """A copy of the step's frame, RGB uint8 [H,W,3], with every visible face marked."""
    image = step.frame.image.copy()
    unit = max(0.35, min(1.2, image.shape[0] / 720))  # text size relative to a 720-line picture
    for face in step.faces:
        _mark(image, face, unit)
    return image


def _mark(image: NDArray[np.uint8], face: VisibleFace, unit: float) -> None:
    x, y, width, height = (round(value) for value in face.box)
    prediction = face.prediction
    if prediction is None:
        cv2.rectangle(image, (x, y), (x + width, y + height), _LIGHT, 1, cv2.LINE_AA)
        return
    colour = colour_of(prediction.label)
    thickness = max(1, round(2 * unit))
    cv2.rectangle(image, (x, y), (x + width, y + height), colour, thickness, cv2.LINE_AA)
    text = f"{face.track_id}  {prediction.label} {prediction.confidence:.0%}"
    if prediction.state == "warming":
        text += " ..."
    scale = 0.75 * unit
    (text_width, text_height), baseline = cv2.getTextSize(text, _FONT, scale, 1)
    pad = round(6 * unit)
    top = max(0, y - text_height - baseline - 2 * pad)
    _shade(image, x, top, text_width + 2 * pad, text_height + baseline + 2 * pad, colour, 0.85)
    cv2.putText(image, text, (x + pad, top + pad + text_height), _FONT, scale, _DARK, 1, cv2.LINE_AA)
    _bars(image, face, unit)


def _bars(image: NDArray[np.uint8], face: VisibleFace, unit: float) -> None:
    """A panel with the class probabilities beside the face, on the side with more room."""
    prediction = face.prediction
    assert prediction is not None
    line, pad = max(9, round(22 * unit)), round(6 * unit)
    names, bars = round(108 * unit), round(90 * unit)
    width, height = names + bars + 3 * pad, line * len(prediction.classes) + 2 * pad
    x, y, face_width, _ = (round(value) for value in face.box)
    right = x + face_width + pad
    left = right if right + width <= image.shape[1] else x - width - pad
    top = max(0, min(y, image.shape[0] - height))
    _shade(image, left, top, width, height, _DARK, 0.6)
    for row, (name, share) in enumerate(zip(prediction.classes, prediction.probabilities, strict=True)):
        baseline = top + pad + row * line + round(0.72 * line)
        cv2.putText(image, name, (left + pad, baseline), _FONT, 0.5 * unit, _LIGHT, 1, cv2.LINE_AA)
        start = left + names + 2 * pad
        upper, lower = top + pad + row * line + line // 5, top + pad + (row + 1) * line - line // 5
        cv2.rectangle(image, (start, upper), (start + round(bars * float(share)), lower), colour_of(name), -1)


def _shade(
    image: NDArray[np.uint8],
    x: int,
    y: int,
    width: int,
    height: int,
    colour: tuple[int, int, int],
    opacity: float,
) -> None:
    """Blend a rectangle of colour over the part of it that lies in the image."""
    part = image[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)]
    part[:] = (part * (1 - opacity) + np.array(colour) * opacity).astype(np.uint8)

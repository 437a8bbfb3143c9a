"""Draws predictions into a frame: box, track and label, and a bar for every class.

Nothing should cover a face. So the tag with track and label, and the panel of bars, are each placed around their box
where they cover least of the faces and of what was placed before. A panel without a free place becomes a strip along
the lower edge of the box, in which every class has its share of the width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ..faces.detection import intersection
from ..labels import in_ascii
from ..predictions import Prediction, Step, VisibleFace
from .palette import Colour, colour_of

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_DARK, _LIGHT = (24, 26, 30), (245, 245, 245)
_SMALLEST, _LARGEST = 0.5, 4.0  # text size relative to an image of 720 lines; smaller text is illegible
_LETTERS, _FEW_LETTERS, _FEW_BELOW = 16, 3, 300  # letters of a class name; few for images below so many pixels
_COVERED = 0.01  # share of a panel that may cover faces or other panels


class _Rect(NamedTuple):
    """x, y, width, height in pixels."""

    x: int
    y: int
    w: int
    h: int


def fit(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Scale the image [H,W,3] to fit into `width` × `height`, centred on black."""
    scale = min(width / image.shape[1], height / image.shape[0])
    w, h = (max(1, round(side * scale)) for side in image.shape[1::-1])
    w, h = width if width - w <= 1 else w, height if height - h <= 1 else h  # no border for a rounded side
    scaled = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if (w, h) == (width, height):
        return np.asarray(scaled, np.uint8)
    left, top = (width - w) // 2, (height - h) // 2
    whole = np.zeros((height, width, 3), np.uint8)
    whole[top : top + h, left : left + w] = scaled
    return whole


def annotate(step: Step, window: float | None = None) -> NDArray[np.uint8]:
    """Return a copy of the step's frame, RGB uint8 [H,W,3], with every visible face marked.

    window: seconds of video that a label is about, written into a corner where nothing else is; None to leave it out.

    >>> from dfer.runtime import Recognizer, annotate, open_source
    >>> with Recognizer() as recognizer:
    ...     pictures = [annotate(step) for step in recognizer.steps(open_source("clip.mp4"))]
    >>> pictures[0].shape, len(pictures)
    ((360, 640, 3), 96)
    """
    image = step.frame.image.copy()
    unit = min(_LARGEST, max(_SMALLEST, min(image.shape[:2]) / 720))
    boxes = [_Rect(*(round(value) for value in face.box)) for face in step.faces]
    taken = list(boxes)
    thickness = max(1, round(2 * unit))
    read: list[tuple[_Rect, VisibleFace, Prediction]] = []
    for box, face in zip(boxes, step.faces, strict=True):
        colour = colour_of(face.prediction.label, face.prediction.classes) if face.prediction else _LIGHT
        width = thickness if face.prediction else 1
        cv2.rectangle(image, (box.x, box.y), (box.x + box.w, box.y + box.h), colour, width, cv2.LINE_AA)
        if face.prediction:
            read.append((box, face, face.prediction))
    for box, face, prediction in read:  # all tags before the panels, which may shrink
        taken.append(_draw_tag(image, box, face.track_id, prediction, unit, taken))
    for box, _, prediction in sorted(read, key=lambda item: item[0].w * item[0].h, reverse=True):
        panel = _find_panel(image, box, prediction, unit, taken)
        if panel is None:
            _draw_strip(image, box, prediction, unit)
        else:
            _draw_panel(image, panel, prediction, unit)
            taken.append(panel)
    if read and window is not None and not step.frame.photo:
        _note_window(image, window, unit, taken)
    return image


def _draw_tag(
    image: NDArray[np.uint8], box: _Rect, track: int, prediction: Prediction, unit: float, taken: list[_Rect]
) -> _Rect:
    """Draw track, label and confidence above the box, or where there is more room; shortened if there is none. Return
    the place."""
    scale, weight, pad = 0.75 * unit, max(1, round(1.2 * unit)), _pad(unit)
    marks = " ..." * (prediction.state == "warmup") + " (poor)" * prediction.poor
    label = in_ascii(prediction.label)
    full = f"{track}  {label} {prediction.confidence:.0%}{marks}"
    for text in (full, f"{track} {label[:_FEW_LETTERS]}", str(track)):
        (text_width, text_height), baseline = cv2.getTextSize(text, _FONT, scale, weight)
        width, height = text_width + 2 * pad, text_height + baseline + 2 * pad
        left, right = box.x, box.x + box.w - width
        above, below, inside = box.y - height, box.y + box.h, box.y + box.h - height
        places = [(left, above), (right, above), (left, below), (right, below), (left, inside), (left, box.y)]
        place = _place(image, places, width, height, taken)
        if _cover(place, taken) <= intersection(place, box):  # may cover only its own face
            break
    colour = colour_of(prediction.label, prediction.classes)
    _shade(image, place, colour, 0.85)
    ink = _DARK if 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 130 else _LIGHT
    cv2.putText(image, text, (place.x + pad, place.y + pad + text_height), _FONT, scale, ink, weight, cv2.LINE_AA)
    return place


def _find_panel(
    image: NDArray[np.uint8], box: _Rect, prediction: Prediction, unit: float, taken: list[_Rect]
) -> _Rect | None:
    """Return a place where the bars of this face hide nothing; None if there is none."""
    rows, pad = _rows(image, prediction, unit), _pad(unit)
    if not rows:
        return None
    width = _name_width(list(rows.values()), unit) + round(90 * unit) + 3 * pad
    height = _line(unit) * len(rows) + 2 * pad
    right, left, bottom = box.x + box.w + pad, box.x - width - pad, box.y + box.h - height
    across, below, above = box.x + (box.w - width) // 2, box.y + box.h + pad, box.y - height - pad
    tag = round(36 * unit)
    places = [
        *((right, box.y), (left, box.y), (right, bottom), (left, bottom)),
        *((across, below), (across, below + tag), (across, above - tag)),
    ]
    best = _place(image, places, width, height, taken)
    return best if _cover(best, taken) <= _COVERED * width * height else None


def _draw_panel(image: NDArray[np.uint8], panel: _Rect, prediction: Prediction, unit: float) -> None:
    line, pad, rows = _line(unit), _pad(unit), _rows(image, prediction, unit)
    scale, weight = _name_font(unit)
    _shade(image, panel, _DARK, 0.6)
    start = panel.x + _name_width(list(rows.values()), unit) + 2 * pad
    longest = panel.x + panel.w - pad - start
    for row, (index, name) in enumerate(rows.items()):
        top = panel.y + pad + row * line
        place = panel.x + pad, top + round(0.72 * line)
        cv2.putText(image, name, place, _FONT, scale, _LIGHT, weight, cv2.LINE_AA)
        corner = (start + round(longest * float(prediction.probabilities[index])), top + line - line // 5)
        colour = colour_of(prediction.classes[index], prediction.classes)
        cv2.rectangle(image, (start, top + line // 5), corner, colour, cv2.FILLED)


def _draw_strip(image: NDArray[np.uint8], box: _Rect, prediction: Prediction, unit: float) -> None:
    """Draw the class probabilities side by side along the lower edge of the box."""
    height = max(4, round(9 * unit))
    edges = [box.x, *(box.x + round(box.w * float(share)) for share in prediction.probabilities.cumsum())]
    for name, start, end in zip(prediction.classes, edges, edges[1:], strict=False):
        if end > start:
            top = min(box.y + box.h, image.shape[0]) - height
            cv2.rectangle(image, (start, top), (end - 1, top + height), colour_of(name, prediction.classes), cv2.FILLED)


def _note_window(image: NDArray[np.uint8], window: float, unit: float, taken: list[_Rect]) -> None:
    """Write into a free corner, if there is one, what part of the video labels are about."""
    text, (scale, weight), pad = f"labels: last {round(window, 2):g} s", _name_font(unit), _pad(unit)
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, weight)
    width, whole = width + 2 * pad, height + baseline + pad
    if width > image.shape[1] / 2 or whole > image.shape[0] / 8:
        return
    right, bottom = image.shape[1] - width, image.shape[0] - whole
    place = _place(image, [(0, bottom), (right, bottom), (0, 0), (right, 0)], width, whole, taken)
    if _cover(place, taken) == 0:
        _shade(image, place, _DARK, 0.4)
        start = place.x + pad, place.y + pad // 2 + height
        cv2.putText(image, text, start, _FONT, scale, _LIGHT, weight, cv2.LINE_AA)


def _line(unit: float) -> int:
    return max(12, round(22 * unit))


def _pad(unit: float) -> int:
    return round(6 * unit)


def _rows(image: NDArray[np.uint8], prediction: Prediction, unit: float) -> dict[int, str]:
    """Return the panel's classes by index, with the names to draw: of more than fit into the image's height, the most
    probable, in their usual order."""
    letters = _FEW_LETTERS if min(image.shape[:2]) < _FEW_BELOW else _LETTERS
    fitting = max(0, (image.shape[0] - 2 * _pad(unit)) // _line(unit))
    chosen = np.argsort(-prediction.probabilities, kind="stable")[:fitting]
    return {index: in_ascii(prediction.classes[index])[:letters] for index in sorted(chosen.tolist())}


def _name_font(unit: float) -> tuple[float, int]:
    """Return scale and thickness of the class names."""
    return max(0.33, 0.5 * unit), max(1, round(unit))


def _name_width(names: list[str], unit: float) -> int:
    return max(int(cv2.getTextSize(name, _FONT, *_name_font(unit))[0][0]) for name in names)


def _place(
    image: NDArray[np.uint8], places: list[tuple[int, int]], width: int, height: int, taken: list[_Rect]
) -> _Rect:
    """Return the first of the places, moved into the image, that covers nothing; else the one that covers least."""
    rects = [
        _Rect(max(0, min(x, image.shape[1] - width)), max(0, min(y, image.shape[0] - height)), width, height)
        for x, y in places
    ]
    return min(rects, key=lambda rect: _cover(rect, taken))


def _cover(rect: _Rect, taken: Iterable[_Rect]) -> float:
    return sum(intersection(rect, other) for other in taken)


def _shade(image: NDArray[np.uint8], rect: _Rect, colour: Colour, opacity: float) -> None:
    """Blend a rectangle of colour over the part of it that lies in the image."""
    part = image[max(0, rect.y) : max(0, rect.y + rect.h), max(0, rect.x) : max(0, rect.x + rect.w)]
    if part.size:
        flat = np.empty_like(part)
        flat[:] = colour
        part[:] = cv2.addWeighted(part, 1 - opacity, flat, opacity, 0)

"""The messages from the server to a viewer: a greeting, then rounds of updates with their images.

This is an API: docs/api.md describes its use, docs/messages.schema.json is the schema for both.

A round is one binary message, so that an image and its boxes arrive together:

    length of the JSON, uint32 big-endian │ JSON, UTF-8 │ JPEG │ JPEG │ …

    {"sources": [{"name", "state", "dropped", "error", "frames",
                  "points": [{"track", "time", "label", "warmup", "poor", "shares": [C]}, …],    those not sent before
                  "picture": null or {"bytes", "time", "width", "height", "faces":
                             [{"track", "box": [x, y, w, h], "label", "confidence", "warmup", "poor"}, …]}}],
     "stages": [{"stage", "n", "mean", "p50", "p90", "p95", "p99", "max"}, …],
     "over": null, or in the last round of a run why it ended, "" for a regular end}

The JPEGs are in the order of the sources that have a picture, with lengths as given by "bytes". Boxes are in pixels of
the picture as it is read, "width" × "height"; the JPEG may be smaller. label and confidence are null before
the first prediction of a face. Times are media seconds, durations milliseconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2

from ..outputs.palette import hex_of
from ..predictions import Prediction, Step, VisibleFace
from ..sources import without_credentials
from ..timing import StageTimes
from .board import SPAN, SourceSnapshot

VERSION = 1
"""Version of this API: incremented when a field is renamed, removed or changes its meaning, but not for new fields."""

_LONGEST_SIDE = 960
"""Pixels; larger images are shrunk, for phones and for SSH tunnels."""
_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """A frame as sent to viewers. number: of the frame among those shown of its source, from 1."""

    number: int
    about: dict[str, Any]
    jpeg: bytes


@dataclass(frozen=True)
class ServedModel:
    """The model shown to viewers. name: of the bundle. window: seconds behind a prediction. demo: if it is the demo."""

    name: str
    method: str
    provider: str
    precision: str
    window: float
    demo: bool


@dataclass(frozen=True)
class Round:
    """The state at one moment; each viewer is sent the part that is new to it.

    over: None during the run, then why it ended, which may be empty.
    """

    number: int
    snapshots: list[SourceSnapshot]
    pictures: Mapping[str, Picture]
    stages: Sequence[StageTimes]
    over: str | None = None


def greeting(classes: Sequence[str], model: ServedModel | None) -> str:
    """Return the first message, a text: version, classes with colours, the charts' span in seconds, the model."""
    colours = [{"name": name, "colour": hex_of(name, classes)} for name in classes]
    return json.dumps({"version": VERSION, "classes": colours, "span": SPAN, "model": model and asdict(model)})


def picture_of(step: Step, number: int) -> Picture:
    """Encode the step's frame and describe its faces."""
    image = step.frame.image
    height, width = image.shape[:2]
    shrink = min(1.0, _LONGEST_SIDE / max(width, height))
    if shrink < 1:
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    else:
        small = image
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    about = {
        "time": round(step.frame.time, 4),
        "width": width,
        "height": height,
        "faces": [_face(face) for face in step.faces],
    }
    return Picture(number, about, encoded.tobytes())


def news(told: Round, seen: Mapping[str, int], points: Mapping[str, Sequence[Prediction]]) -> bytes:
    """Return a round for a viewer that has already received the pictures numbered `seen`, per source."""
    sources, jpegs = [], []
    for snapshot in told.snapshots:
        picture = told.pictures.get(snapshot.name)
        if picture is not None and picture.number == seen.get(snapshot.name):
            picture = None
        if picture is not None:
            jpegs.append(picture.jpeg)
        sources.append(
            {
                "name": without_secrets(snapshot.name),
                "state": snapshot.state,
                "dropped": snapshot.dropped,
                "error": snapshot.error and without_secrets(snapshot.error),
                "frames": snapshot.frames,
                "points": [_point(prediction) for prediction in points.get(snapshot.name, ())],
                "picture": picture and {"bytes": len(picture.jpeg), **picture.about},
            }
        )
    stages = [{key: _short(value) for key, value in asdict(stage).items()} for stage in told.stages]
    over = told.over and without_secrets(told.over)
    text = json.dumps({"sources": sources, "stages": stages, "over": over}, separators=(",", ":")).encode()
    return b"".join((len(text).to_bytes(4, "big"), text, *jpegs))


def _face(face: VisibleFace) -> dict[str, Any]:
    read = face.prediction
    return {
        "track": face.track_id,
        "box": [round(float(value), 1) for value in face.box],
        "label": read and read.label,
        "confidence": read and round(read.confidence, 3),
        "warmup": read is not None and read.state == "warmup",
        "poor": read is not None and read.poor,
    }


def _point(prediction: Prediction) -> dict[str, Any]:
    return {
        "track": prediction.track_id,
        "time": round(prediction.time, 4),
        "label": prediction.label,
        "warmup": prediction.state == "warmup",
        "poor": prediction.poor,
        "shares": [round(float(share), 3) for share in prediction.probabilities],
    }


def _short(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def without_secrets(text: str) -> str:
    """Remove credentials from URLs in a text. Source names have none, but messages of libraries may."""
    return re.sub(r"\w+://\S+", lambda address: without_credentials(address.group()), text)

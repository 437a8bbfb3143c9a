"""A face detector of your own in place of YuNet: here the cascade that OpenCV carries, which gives boxes alone.

    python own_detector.py [VIDEO]

Boxes that are in a file need no program: dfer-run VIDEO --boxes boxes.csv
"""

from __future__ import annotations

import sys

import cv2
import numpy as np
from numpy.typing import NDArray

from dfer.runtime import DferError, Recognizer, open_source
from dfer.runtime.faces.detection import Face, FaceDetector
from dfer.runtime.sources import SourceReaders


class CascadeFaces:
    """A `dfer.runtime.pipeline.stream.FaceProvider`: asked of every frame, in order, where the faces are."""

    def __init__(self) -> None:
        self._cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
        self._points = FaceDetector(min_score=0.5)  # eyes, nose and mouth, by which a face is aligned

    def should_detect(self, index: int, time: float, wanted: bool, anew: bool = False) -> bool:
        return wanted  # where faces are read; elsewhere the tracker carries them along

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        faces = []
        for found in self._cascade.detectMultiScale(grey, 1.1, 6, minSize=(80, 80)):
            x, y, w, h = map(float, found)
            landmarks = self._points.refine_landmarks(image, (x, y, w, h))
            if landmarks is not None:  # a cascade sees faces in curtains, too
                faces.append(Face((x, y, w, h), landmarks, score=1.0))
        return faces

    def finish(self) -> None:
        """Nothing is held open."""


def main(place: str = "demo-output/clip.mp4") -> None:
    with Recognizer() as recognizer, SourceReaders([open_source(place)]) as readers:
        for step in recognizer.follow(readers, [CascadeFaces()]):
            for face in step.predictions:
                x, y, w, h = map(round, face.box)
                print(f"{face.time:6.2f} s  person {face.track_id} at {x},{y} {w}×{h}: {face.label}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except DferError as error:
        sys.exit(f"error: {error}")

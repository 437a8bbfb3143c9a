"""A capture loop of your own: OpenCV reads pictures, the recogniser reads the faces in them, OpenCV writes a video.

    python capture_loop.py [VIDEO, or the number of a camera] [OUT.mp4]

Without arguments it reads the clip that `dfer-run --demo` leaves. Ctrl-C ends a camera.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from time import perf_counter

import cv2

from dfer.runtime import Recognizer, annotate


def main(place: str = "demo-output/clip.mp4", out: str = "captured.mp4") -> None:
    live = place.isdecimal()
    capture = cv2.VideoCapture(int(place) if live else place)
    if not capture.isOpened():
        sys.exit(f"{place} does not open; dfer-run --demo makes a clip to try this on")
    rate = capture.get(cv2.CAP_PROP_FPS) or 30.0
    size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    video = cv2.VideoWriter(out, cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    begun, shown = perf_counter(), {}
    with Recognizer() as recognizer, suppress(KeyboardInterrupt):
        session = recognizer.session(place, live=live)
        while True:
            good, bgr = capture.read()
            if not good:
                break
            # A file's time stands in the file; a camera's is the clock's.
            seconds = perf_counter() - begun if live else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            step = session.step(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), seconds)
            for face in step.predictions:
                if shown.get(face.track_id) != face.label:
                    print(f"{seconds:6.2f} s  person {face.track_id}: {face.label} ({face.confidence:.0%})")
                shown[face.track_id] = face.label
            video.write(cv2.cvtColor(annotate(step), cv2.COLOR_RGB2BGR))
    capture.release()
    video.release()
    print(f"wrote {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What is remembered about one source: its tracks, their feature windows and what was last read from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..faces.detection import Face, FaceDetector
from ..faces.tracking import Box, Track, Tracker
from ..predictions import Prediction
from ..sources import Frame
from ..timing import Stopwatch
from .feature_window import FeatureWindow
from .scheduler import Pacer

_LONGEST_BLIND = 0.2
"""Seconds after which faces are looked for even where no frame is sampled, so that slow sampling keeps ids stable."""


class Finder(Protocol):
    """Says where the faces are: the detector, now and then, or a file of boxes."""

    def due(self, index: int, time: float, wanted: bool) -> bool:
        """Whether to `detect` in this frame; asked of every frame, in order. wanted: its faces are to be encoded."""
        ...

    def detect(self, image: NDArray[np.uint8]) -> list[Face]: ...

    def finish(self) -> None:
        """The source has ended."""
        ...


class Search:
    """The detector, for a sampled frame that comes at least `every` frames after the last search, or after 0.2 s."""

    def __init__(self, detector: FaceDetector, every: int) -> None:
        self.detect = detector.detect
        self._every = every
        self._index, self._time = -every, -_LONGEST_BLIND

    def due(self, index: int, time: float, wanted: bool) -> bool:
        due = time - self._time >= _LONGEST_BLIND or (wanted and index - self._index >= self._every)
        if due:
            self._index, self._time = index, time
        return due

    def finish(self) -> None:
        pass


@dataclass(frozen=True)
class VisibleFace:
    """A face in a frame: its track, where it is by now, and what was last read from it."""

    track_id: int
    box: Box
    prediction: Prediction | None


@dataclass
class Subject:
    """A track that is read. turn: number of its last encoding. missed: samples of it left out since."""

    window: FeatureWindow
    turn: int = -1
    missed: int = 0
    prediction: Prediction | None = None


@dataclass(frozen=True)
class Waiting:
    """A face of a sampled frame that is to be encoded."""

    view: View
    frame: Frame
    track: Track
    subject: Subject

    @property
    def live(self) -> bool:
        return self.view.live

    @property
    def turn(self) -> int:
        return self.subject.turn


class View:
    """One source as the loop sees it.

    live: whether it goes on when nobody takes its frames. step: seconds between sampled frames.
    finder: says where the faces are; in sampled frames for which it does not, they are carried along by their motion.
    max_faces: how many are read, None for all.
    """

    def __init__(
        self,
        source: str,
        live: bool,
        step: float,
        finder: Finder,
        max_faces: int | None,
        open_window: Callable[[], FeatureWindow],
        pacer: Pacer,
        watch: Stopwatch,
    ) -> None:
        self.source, self.live = source, live
        self._step, self._finder, self._max_faces = step, finder, max_faces
        self._open_window, self._pacer, self._watch = open_window, pacer, watch
        self._tracker = Tracker(patience=max(2.0, 2.25 * step))
        self._subjects: dict[int, Subject] = {}
        self._sampled: set[int] = set()  # tracks of the last sampled frame
        self._waiting: set[int] = set()  # those of them that are not encoded yet
        self._period = -1  # number of the sampling period
        self._index = -1  # of the last frame
        self._looked = -1.0  # time of the frame in which the finder said where faces are

    def look(self, frame: Frame) -> list[Waiting]:
        """Follow the faces into `frame`; returns those to be encoded: all of a sampled frame, else those left out."""
        period = int((frame.time + 1e-3) / self._step)  # time stamps may be rounded to milliseconds
        fresh = period > self._period
        if fresh:
            self._begin(period, frame)
        self._index = frame.index
        wanted = fresh or bool(self._waiting)
        tracks = self._follow(frame, wanted)
        if fresh:
            self._sampled = {track.id for track in tracks}
            self._waiting = set(self._sampled)
        return [Waiting(self, frame, track, self._subjects[track.id]) for track in tracks if track.id in self._waiting]

    def _begin(self, period: int, frame: Frame) -> None:
        """Samples that were never encoded are lost now; so are those of whole periods that the loop slept through."""
        slept = 0
        if self.live and self._index >= 0 and frame.index > self._index + 1:
            slept = period - self._period - 1
        for number in self._sampled & self._subjects.keys():
            lost = slept + (number in self._waiting)
            self._subjects[number].missed += lost
            self._pacer.shed += lost
        self._period = period

    def _follow(self, frame: Frame, wanted: bool) -> list[Track]:
        if self._finder.due(frame.index, frame.time, wanted):
            with self._watch.time("detect"):
                faces = self._finder.detect(frame.image)
            with self._watch.time("track"):
                tracks = self._tracker.update(faces, frame.time, frame.image)
                self._forget()
            self._looked = frame.time
        elif wanted:
            with self._watch.time("track"):
                tracks = self._tracker.carry(frame.image, frame.time)
        else:
            return []
        tracks = tracks[: self._max_faces]  # largest first; cut here, for a face left out keeps its id
        for track in tracks:
            if track.id not in self._subjects:
                self._subjects[track.id] = Subject(self._open_window())
        return [track for track in tracks if track.face.frontal]

    def _forget(self) -> None:
        alive = {track.id for track in self._tracker.tracks}
        for ended in self._subjects.keys() - alive:
            del self._subjects[ended]

    def push(self, waiting: Waiting, feature: NDArray[np.float32]) -> FeatureWindow:
        """Add the feature [D] of a face that waited; returns its window, to be read."""
        subject = waiting.subject
        subject.window.push(waiting.frame.time, feature, subject.missed)
        subject.turn, subject.missed = next(self._pacer.turns), 0
        self._waiting.discard(waiting.track.id)
        return subject.window

    def finish(self) -> None:
        """The source has ended. Raises DferError when it fits nothing that was said of it."""
        self._finder.finish()

    def visible(self, time: float) -> tuple[VisibleFace, ...]:
        """The tracks seen where faces were last looked for, carried along to `time`."""
        seen = [track for track in self._tracker.tracks if track.time >= self._looked]
        return tuple(VisibleFace(track.id, track.box_at(time), self._latest(track.id)) for track in seen)

    def _latest(self, number: int) -> Prediction | None:
        subject = self._subjects.get(number)
        return None if subject is None else subject.prediction

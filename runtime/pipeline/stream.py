"""The state of one source: its tracks, their feature windows and latest predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..faces.alignment import align
from ..faces.detection import Box, Face, FaceDetector
from ..faces.orientation import OrientationVote
from ..faces.quality import sharpness
from ..faces.tracking import Track, Tracker
from ..predictions import BRIDGED, Prediction, Step, VisibleFace
from ..sources import Frame
from ..timing import Stopwatch
from .feature_window import FeatureWindow
from .scheduler import Scheduler
from .smoothing import Smoother

_PAUSES, _CALM_PAUSES = (0.1, 0.2), (0.2, 0.3)
"""Minimum and maximum seconds from one detection to the next by default: with faster sampling several samples share
one; with slower sampling, detection also runs between samples, so that ids stay stable. The second pair is for faces
that have not moved since the detection before."""
_CALM = 0.2  # movement, in face sizes, below which a face has not moved
_THOROUGH = 0.4
"""Seconds between detections of faces of all sizes while the known ones are large."""
_SLOW = 10  # consecutive late samples after which the source counts as slow
_ROUNDING = 1e-3  # seconds; time stamps may be rounded to milliseconds


class FaceProvider(Protocol):
    """Provides face positions: the detector, now and then, or a file of boxes. Called from a separate thread."""

    def should_detect(self, index: int, time: float, wanted: bool, anew: bool = False) -> bool:
        """Return whether to call `detect` on this frame; called for every frame, in order.

        wanted: its faces are to be encoded. anew: faces of earlier frames cannot be carried into it.
        """
        ...

    def detect(self, image: NDArray[np.uint8]) -> list[Face]: ...

    def finish(self) -> None:
        """Called when the source has ended."""
        ...


class DetectionScheduler:
    """Runs the detector every `every` frames, whether sampled or not.

    every: None detects on sampled frames, at most ten times a second, and on any frame to keep five a second; about
    half as often while faces do not move. If all are large, most detections look only for large ones, in a smaller
    image.
    turned: called once, with the degrees clockwise by which images must be rotated to make faces upright, if any.
    """

    def __init__(
        self, detector: FaceDetector, every: int | None = None, turned: Callable[[int], object] = lambda _: None
    ) -> None:
        self._detector, self._every, self._turned = detector, every, turned
        self._vote: OrientationVote | None = OrientationVote()
        self._index: int | None = None  # of the last detection
        self._time = 0.0
        self._known: list[Face] = []  # from the last detection
        self._calm = False
        self._thorough = -math.inf  # time of the last detection of faces of all sizes

    def should_detect(self, index: int, time: float, wanted: bool, anew: bool = False) -> bool:
        if anew:
            self._index, self._known, self._calm = None, [], False
        if self._index is None:
            searches = wanted or self._every is not None
        elif self._every is not None:
            searches = index - self._index >= self._every
        else:
            least, most = _CALM_PAUSES if self._calm else _PAUSES
            elapsed = time - self._time + _ROUNDING
            searches = elapsed >= most or (wanted and elapsed >= least)
        if searches:
            self._index, self._time = index, time
        return searches

    def hurry(self) -> None:
        """Detect as often as for moving faces: the motion of a face is unknown."""
        self._calm = False

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        thorough = self._every is not None or self._time - self._thorough >= _THOROUGH - _ROUNDING
        if thorough:
            self._thorough = self._time
        faces = self._detector.detect(image, () if thorough else self._known)
        self._known, self._calm = faces, _are_calm(self._known, faces)
        if self._vote is not None:
            self._vote.add(image, faces)
            if self._vote.decided:
                if self._vote.degrees:
                    self._turned(self._vote.degrees)
                self._vote = None
        return faces

    def finish(self) -> None:
        pass


def _are_calm(before: list[Face], after: list[Face]) -> bool:
    """Return whether these are the same faces in about the same places; False if there are none."""
    return len(before) == len(after) > 0 and all(
        min(np.abs(face.landmarks - old.landmarks).mean() for old in before) < _CALM * face.size for face in after
    )


@dataclass
class TrackState:
    """A track being classified. last_served: number of its last encoding. missed: its samples skipped since then."""

    window: FeatureWindow
    last_served: int = -1
    missed: int = 0
    prediction: Prediction | None = None


class Crop(NamedTuple):
    """A face as encoder input: RGB uint8 [S,S,3], aligned; its sharpness; seconds spent on cropping."""

    pixels: NDArray[np.uint8]
    sharpness: float
    spent: float


@dataclass(frozen=True, eq=False)
class EncodeRequest:
    """A face of a sampled frame to be encoded: its track and its position in that frame.

    missed: samples of the track skipped before it.
    """

    stream: StreamState
    frame: Frame
    number: int
    face: Face
    state: TrackState
    missed: int

    @property
    def live(self) -> bool:
        return self.stream.live

    @property
    def last_served(self) -> int:
        return self.state.last_served

    @cached_property
    def crop(self) -> Crop:
        """The aligned crop, computed on first access, by any thread."""
        start = perf_counter()
        pixels = align(self.frame.image, self.face.landmarks, self.stream.crop_size)
        return Crop(pixels, sharpness(pixels), perf_counter() - start)


@dataclass(frozen=True)
class Reading:
    """The result of a request's window: the model's probabilities [C], whether it was still filling, face quality
    0..1."""

    probabilities: NDArray[np.float32]
    warmup: bool
    quality: float


@dataclass(frozen=True)
class FollowedFrame:
    """A frame whose faces are tracked but not yet classified.

    visible: number, box and state of the tracks in view. profiles: tracks seen in profile, if the frame is sampled.
    anew: nothing carries over from the frame before.
    """

    stream: StreamState
    frame: Frame
    requests: tuple[EncodeRequest, ...]
    visible: tuple[tuple[int, Box, TrackState | None], ...]
    profiles: tuple[int, ...]
    anew: bool


class StreamState:
    """The state of one source in the main loop. Every frame goes through `process`, its chosen faces through `take`;
    later, while another thread may process the next frames, through `add`, and then the frame through `read`.

    live: whether the source is live. step: seconds between sampled frames.
    face_provider: provides face positions; in sampled frames without detection, faces are carried along by their
    motion. crop_size: side of the crops, pixels. max_faces: how many are classified, the largest; None for all.
    smoother: makes predictions final. warn: called once if frames come too seldom for windows to fill.
    """

    def __init__(
        self,
        source: str,
        live: bool,
        step: float,
        *,
        face_provider: FaceProvider,
        crop_size: int,
        max_faces: int | None,
        open_window: Callable[[], FeatureWindow],
        scheduler: Scheduler,
        smoother: Smoother,
        watch: Stopwatch,
        warn: Callable[[str], object],
    ) -> None:
        self.source, self.live, self.crop_size = source, live, crop_size
        self._step, self._face_provider, self._max_faces = step, face_provider, max_faces
        self._open_window, self._scheduler, self._smoother, self._watch = open_window, scheduler, smoother, watch
        self._warn, self._slow = warn, 0  # consecutive samples that came too late
        self._patience = max(2.0, BRIDGED * step)
        self._tracker = Tracker(self._patience)
        self._states: dict[int, TrackState] = {}
        self._sampled: set[int] = set()  # tracks of the last sampled frame
        self._pending: set[int] = set()  # those of them not encoded yet
        self._period, self._time = 0, 0.0  # number of the sampling period, and time of its sample
        self._index = -1  # of the last frame; -1 before the first
        self._looked = -math.inf  # time of the last frame with detection
        self._shape: tuple[int, ...] = ()  # of the last frame's image

    def process(self, frame: Frame) -> FollowedFrame:
        """Track faces into `frame`. Of a sampled frame, all faces are to be encoded, otherwise those still pending."""
        anew = frame.cut or frame.shape != self._shape
        if anew:
            self._restart(frame)
        period = math.floor((frame.time + _ROUNDING) / self._step)
        fresh = self._index < 0 or period > self._period or frame.photo
        if fresh:
            self._begin(period, frame)
        self._index = frame.index
        wanted = fresh or bool(self._pending)
        tracks = self._follow(frame, wanted, anew)
        readable = [track for track in tracks if track.face.frontal]
        profiles: tuple[int, ...] = ()
        if fresh:
            profiles = tuple(track.id for track in tracks if not track.face.frontal)
            self._sampled = {track.id for track in readable}
            self._pending = set(self._sampled)
        requests = tuple(
            EncodeRequest(self, frame, track.id, track.face, state, state.missed)
            for track in readable
            if track.id in self._pending
            for state in [self._states[track.id]]
        )
        if not self.live:
            self._pending.clear()  # none is skipped
        return FollowedFrame(self, frame, requests, tuple(self._visible(frame.time)), profiles, anew)

    def _restart(self, frame: Frame) -> None:
        """Drop all state, since nothing carries over into `frame`. Each photograph numbers its faces from 1."""
        self._shape = frame.shape
        self._tracker = Tracker(self._patience, next_id=1 if frame.photo else self._tracker.next_id)
        self._states.clear()
        self._sampled.clear()
        self._pending.clear()

    def _begin(self, period: int, frame: Frame) -> None:
        """Begin a sampling period; count as skipped the samples never encoded, and those of periods the loop missed."""
        slept = 0
        if self.live and self._index >= 0:  # without frames in between, the source itself was silent
            slept = max(0, min(period - self._period - 1, frame.index - self._index - 1))
        for number in self._sampled & self._states.keys():
            lost = slept + (number in self._pending)
            self._states[number].missed += lost
            self._scheduler.skip(lost)
        if self._index >= 0:
            self._tell_slow(frame, frame.time - self._time)
        self._period, self._time = period, frame.time

    def _tell_slow(self, frame: Frame, elapsed: float) -> None:
        """Warn if the source's frames come so seldom, whatever rate it announced, that windows never hold two."""
        late = elapsed > BRIDGED * self._step and frame.index == self._index + 1 and not frame.photo
        self._slow = self._slow + 1 if late else 0
        if self._slow == _SLOW:
            self._warn(
                f"{self.source}: has about {1 / elapsed:.2g} pictures per second, too few for the {1 / self._step:g} "
                f"to sample, so each is read alone; ask for fewer (--fps {1 / elapsed:.2g})"
            )
            self._warn = lambda _: None

    def _follow(self, frame: Frame, wanted: bool, anew: bool) -> list[Track]:
        if wanted:
            image = frame.image  # converting it counts as decoding
            with self._watch.time("track"):
                tracks = self._tracker.carry(image, frame.time)
            if self._tracker.lost and isinstance(self._face_provider, DetectionScheduler):
                self._face_provider.hurry()
        if self._face_provider.should_detect(frame.index, frame.time, wanted, anew):
            image = frame.image
            with self._watch.time("detect"):
                faces = self._face_provider.detect(image)
            with self._watch.time("track"):
                tracks = self._tracker.update(faces, frame.time, image)
                self._forget()
            self._looked = frame.time
        elif not wanted:
            return []
        if self._max_faces is not None:  # only here, so that faces left out keep their ids
            tracks = sorted(tracks, key=lambda track: track.face.size, reverse=True)[: self._max_faces]
        for track in tracks:
            if track.id not in self._states:
                self._states[track.id] = TrackState(self._open_window())
        return tracks

    def _forget(self) -> None:
        alive = {track.id for track in self._tracker.tracks}
        for ended in self._states.keys() - alive:
            del self._states[ended]

    def take(self, request: EncodeRequest) -> None:
        """Mark a face of the last frame as chosen for encoding."""
        request.state.last_served, request.state.missed = self._scheduler.serve(), 0
        self._pending.discard(request.number)

    def add(self, request: EncodeRequest, feature: NDArray[np.float32]) -> FeatureWindow:
        """Add the feature [D] of an encoded face; return its window, to be classified."""
        request.state.window.push(request.frame.time, feature, request.missed)
        return request.state.window

    def read(self, followed: FollowedFrame, readings: Mapping[EncodeRequest, Reading]) -> Step:
        """Return the `Step` of a frame: its faces in view, and the final predictions of those with a reading."""
        if followed.anew:
            self._smoother.restart()
        made = []
        for request in followed.requests:
            if (reading := readings.get(request)) is not None:
                request.state.prediction = self._smoother.refine(
                    Prediction(
                        source=self.source,
                        frame=request.frame.index,
                        time=request.frame.time,
                        track_id=request.number,
                        box=_inside(request.face.box, request.frame.shape),
                        probabilities=reading.probabilities,
                        classes=self._smoother.model_classes,
                        state="warmup" if reading.warmup and not request.frame.photo else "ready",
                        quality=reading.quality,
                        file=request.frame.file,
                    )
                )
                made.append(request.state.prediction)
        faces = tuple(
            VisibleFace(number, box, None if state is None else state.prediction)
            for number, box, state in followed.visible
        )
        return Step(self.source, followed.frame, tuple(made), faces, followed.profiles)

    def _visible(self, time: float) -> Iterator[tuple[int, Box, TrackState | None]]:
        """Yield the tracks seen at the last detection, with boxes carried along to `time`."""
        for track in self._tracker.tracks:
            if track.seen >= self._looked:
                yield track.id, track.box_at(time), self._states.get(track.id)

    def finish(self) -> None:
        """End the source. Raises DferError when no given box matched a frame."""
        self._face_provider.finish()


def _inside(box: Box, shape: tuple[int, ...]) -> Box:
    """Return the part of a box inside an image of shape [H,W,3]."""
    height, width = shape[:2]
    left, top = min(max(box[0], 0.0), width), min(max(box[1], 0.0), height)
    right, bottom = min(max(box[0] + box[2], left), width), min(max(box[1] + box[3], top), height)
    return left, top, right - left, bottom - top

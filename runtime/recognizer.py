"""The main loop: source → face → track → feature → window → prediction; for sources and for frames you push."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter

import numpy as np
from numpy.typing import NDArray

from .bundle import DEMO, Bundle
from .engines import LARGEST_BATCH
from .engines.choice import open_engines
from .errors import DferError, ParameterError, check_least
from .faces.alignment import resize_crop
from .faces.boxes import align_box
from .faces.detection import FaceDetector
from .faces.quality import face_quality
from .machine import default_threads
from .pipeline.class_map import ClassMap
from .pipeline.feature_window import FeatureWindow, check_sampling
from .pipeline.gathering import Gathered, choose_faces, crops_of, gather
from .pipeline.prefetching import Pace, prefetch
from .pipeline.scheduler import Scheduler
from .pipeline.smoothing import Smoother
from .pipeline.stream import DetectionScheduler, EncodeRequest, FaceProvider, Reading, StreamState
from .predictions import Prediction, Step, longest_gap
from .sources import Frame, Source, SourceReader, SourceReaders, SourceSpec, check_image, open_sources
from .timing import Stopwatch

LIVE_SMOOTHING = 0.4
"""Seconds. A label follows the face within half a second and does not flicker."""


class Recognizer:
    """Recognise facial expressions in video with the engines of a bundle. Use as a context manager.

    bundle: folder of an exported model; None uses the demo bundle that ships with the package.
    provider: a key of `engines.BACKENDS`; "auto" picks the fastest one here (see `engines.choice.choose`).
    window, fps: seconds of video behind each prediction, and frames per second that are sampled and encoded; None uses
    what the model was trained with.
    max_faces: how many faces of a source are classified, largest first; None for all.
    min_face: side in pixels of the smallest face that is classified; larger values make detection faster.
    detect_every: frames from one face detection to the next; in between, faces are carried along by their motion.
    None runs detection on sampled frames, five to ten times a second, about half as often while no face moves.
    precision: which of the bundle's graphs to run; "auto" takes what the bundle recommends for the provider, else FP32.
    threads: most CPU threads that one run of an engine uses; None for all physical cores this process may use.
    smooth, classes, neutral_prior, unsure: post-processing (see `Smoother`): seconds of smoothing, None for 0.4 s on
    live sources and none on files; new class names, as a mapping or a JSON file (see `ClassMap`); the share of
    "neutral" in training; the confidence below which a label is "unsure", None for the model's own threshold.
    warn: called with one line about each problem that is not an error.

    classes: names of the final probabilities, in order. face_cost: seconds the encoder takes for one face.
    Raises DferError for a bad bundle, an unavailable provider or invalid settings.
    """

    def __init__(
        self,
        bundle: str | Path | None = None,
        *,
        provider: str = "auto",
        window: float | None = None,
        fps: float | None = None,
        max_faces: int | None = None,
        min_face: int = 40,
        detect_every: int | None = None,
        precision: str = "auto",
        threads: int | None = None,
        smooth: float | None = None,
        classes: Mapping[str, str | None] | str | Path | None = None,
        neutral_prior: float | None = None,
        unsure: float | None = None,
        warn: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.bundle = Bundle.open(DEMO if bundle is None else bundle)
        manifest = self.bundle.manifest
        window = manifest.seconds if window is None else window
        fps = manifest.fps if fps is None else fps
        check_sampling(window, fps)
        check_least({"max_faces": max_faces, "min_face": min_face, "detect_every": detect_every, "threads": threads})
        if precision not in ("auto", *manifest.precisions):
            held = ", ".join(manifest.precisions)
            raise ParameterError("precision", f"bundle {self.bundle.path} has no {precision} graphs; it has {held}")
        names = ClassMap.read(Path(classes), manifest.classes) if isinstance(classes, str | Path) else classes
        self.smooth, self.neutral_prior = smooth, neutral_prior
        self.unsure = manifest.unsure_below if unsure is None else unsure
        self._new_smoother = partial(
            Smoother,
            manifest.classes,
            neutral_prior=neutral_prior,
            names=ClassMap.of(names, manifest.classes) if isinstance(names, Mapping) else names,
            unsure=self.unsure,
        )
        self.window, self.fps, self.max_faces, self.warn = window, fps, max_faces, warn
        self.classes = self.new_smoother(live=False).classes
        self.min_face, self.detect_every = min_face, detect_every
        self.threads = default_threads(0) if threads is None else threads
        self.stopwatch = Stopwatch()
        self._turn = threading.Lock()  # one engine run at a time, across all sessions
        with ExitStack() as stack:
            self.precision, self.encoder, self.head = open_engines(
                self.bundle, provider, precision, threads, warn, stack
            )
            for remark in filter(None, (self.head.remark, self.encoder.remark)):
                warn(remark)
            self.face_cost = self._try_engines()
            self._engines = stack.pop_all()
        self.scheduler = Scheduler(1 / fps, self.face_cost)

    def smoothing(self, live: bool) -> float:
        """Return the smoothing time in seconds for a live or recorded source."""
        if self.smooth is not None:
            return self.smooth
        return LIVE_SMOOTHING if live else 0.0

    def new_smoother(self, live: bool, fps: float | None = None) -> Smoother:
        """Return a smoother for the predictions of one source that is sampled at `fps` frames per second."""
        return self._new_smoother(seconds=self.smoothing(live), gap=longest_gap(1 / (fps or self.fps)))

    @property
    def provider(self) -> str:
        """The provider that actually runs the encoder."""
        return self.encoder.provider

    def stream(self, *specs: SourceSpec) -> Iterator[Prediction]:
        """Yield predictions for camera numbers, files, folders or URLs as they are made; several are read in parallel.

        Raises DferError for a source that fails; the other sources finish first.
        """
        for step in self.steps(*open_sources(specs, self.fps, self.warn)):
            yield from step.predictions

    def steps(self, *sources: Source) -> Iterator[Step]:
        """Yield every frame of open sources with what was recognised in it; memory does not grow with their length.

        Raises DferError as `stream` does, naming each failed source; with several, `warn` is called at each failure.
        """
        with SourceReaders(sources) as readers:
            yield from self.follow(readers)
            readers.raise_failures()

    def follow(
        self, readers: SourceReaders, boxes: Sequence[FaceProvider] | None = None, at_once: int = LARGEST_BATCH
    ) -> Iterator[Step]:
        """Yield a step for every frame taken from the readers.

        boxes: per source, a provider of face boxes that replaces the detector (`faces.boxes.read_boxes`).
        at_once: faces of files encoded in one batch, from several frames, up to three times faster than one by one.
        Frames wait for it, but never live ones. Meanwhile the next frames are prepared, live ones just in time.
        """

        def open_stream(reader: SourceReader) -> StreamState:
            faces = boxes[reader.number] if boxes else self._detection(reader.name, reader.source)
            return self._open_stream(reader.name, reader.live, reader.rate, faces, self.scheduler, self.stopwatch)

        every = gather(readers, open_stream, at_once, self.scheduler, self.stopwatch)
        pace = Pace(fresh=at_once == 1 or any(reader.live for reader in readers.readers))
        for gathered in prefetch(every, readers, crops_of, pace.rest):
            begun = monotonic()
            for step in self.read(gathered, self.scheduler, self.stopwatch):
                yield step
                if step.predictions:
                    self.stopwatch.add("total", monotonic() - step.frame.arrived)
            pace.learn(gathered, monotonic() - begun)

    def session(self, name: str = "session", *, live: bool = False, rate: float | None = None) -> Session:
        """Return a stream whose frames you push yourself. See `Session`."""
        return Session(self, name, live, rate)

    def predict(
        self, image_or_clip: NDArray[np.uint8] | Sequence[NDArray[np.uint8]], rate: float | None = None
    ) -> list[Prediction]:
        """Return one prediction per face: of an image, RGB uint8 [H,W,3], or the latest from a clip's last second.

        rate: images of the clip per second; None for the sampling rate (`fps`).
        Raises DferError for anything that is not such an image.
        """
        single = not isinstance(image_or_clip, Iterable) or getattr(image_or_clip, "ndim", 4) < 4
        clip: Sequence[NDArray[np.uint8]] = [image_or_clip] if single else image_or_clip  # type: ignore[list-item, assignment]
        session = self.session("clip", rate=rate)
        latest: dict[int, Prediction] = {}
        for index, image in enumerate(clip):
            for prediction in session.push(image, index / (rate or self.fps)):
                latest[prediction.track_id] = prediction
        left = (len(clip) - 1) / (rate or self.fps) - longest_gap(1 / min(rate or self.fps, self.fps))
        return [replace(one, state="ready") if single else one for one in latest.values() if one.time >= left]

    def predict_crops(
        self, crops: Sequence[NDArray[np.uint8]], times: Sequence[float] | None = None, *, aligned: bool = True
    ) -> list[Prediction]:
        """Return a prediction for each crop of one face that you found yourself, made from the window ending there.

        crops: RGB uint8 [H,W,3], square and aligned as by `faces.alignment`; with `aligned` False, boxes around the
        face, in which eyes, nose and mouth are located first.
        times: seconds, rising; None for crops that follow each other at `fps`.
        Raises DferError for anything that is not such a crop.
        """
        moments = np.arange(len(crops)) / self.fps if times is None else np.asarray(times, np.float64)
        if len(moments) != len(crops) or not (np.diff(moments) > 0).all() or not np.isfinite(moments).all():
            raise ParameterError("times", f"must be {len(crops)} rising numbers of seconds, one for each crop")
        size, classes = self.bundle.manifest.preprocessing.size, self.bundle.manifest.classes
        detector = None if aligned else FaceDetector(min_score=0.5)
        window, smoother = self._open_window(1 / self.fps), self.new_smoother(live=False)
        made: list[Prediction] = []
        for index, (crop, time) in enumerate(zip(crops, moments.tolist(), strict=True)):
            image = check_image(crop, "crops")
            face = resize_crop(image, size) if detector is None else align_box(detector, image, size)
            window.push(time, self.encode(face[None])[0])
            box = (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
            row = self.classify(window.stack()[None])[0]
            raw = Prediction("crops", index, time, 1, box, row, classes, "warmup" if window.warmup else "ready")
            made.append(smoother.refine(raw))
        return made

    def read(self, gathered: Gathered, scheduler: Scheduler, watch: Stopwatch) -> Iterator[Step]:
        """Encode the chosen faces once each and classify the windows that end with them.

        Yields all frames before an invalid result, then raises DferError.
        """
        readings: dict[EncodeRequest, Reading] = {}
        failure: DferError | None = None
        try:
            for start in range(0, len(gathered.chosen), LARGEST_BATCH):
                self._read_faces(gathered.chosen[start : start + LARGEST_BATCH], readings, scheduler, watch)
        except DferError as error:
            failure = error
        unread = set(gathered.chosen) - readings.keys()
        for followed in gathered.frames:
            if failure is not None and not unread.isdisjoint(followed.requests):
                raise failure
            yield followed.stream.read(followed, readings)

    def _read_faces(
        self,
        batch: Sequence[EncodeRequest],
        readings: dict[EncodeRequest, Reading],
        scheduler: Scheduler,
        watch: Stopwatch,
    ) -> None:
        """Add a batch's readings. At an invalid result, add only those before it, then raise DferError."""
        crops = [one.crop for one in batch]
        watch.add("align", sum(crop.spent for crop in crops))
        pixels = np.stack([crop.pixels for crop in crops])
        begun = perf_counter()
        features = self.encode(pixels)
        spent = perf_counter() - begun
        watch.add("encode", spent)
        scheduler.learn(spent, len(batch))
        encoded = int(np.append(np.isfinite(features).all(axis=1), False).argmin())  # rows before the first bad one
        windows, warmups = [], []
        with watch.time("head"):
            for one, feature in zip(batch, features[:encoded], strict=False):
                window = one.stream.add(one, feature)
                windows.append(window.stack())  # before the next feature of this track is pushed
                warmups.append(window.warmup)
            rows = self.classify(np.stack(windows)) if windows else np.empty((0, 1), np.float32)
        distributed = np.abs(rows.sum(axis=1) - 1) < 0.01
        read = int(np.append(distributed & (rows >= -1e-3).all(axis=1), False).argmin())
        for one, row, warmup, crop in zip(batch, rows[:read], warmups, crops, strict=False):
            readings[one] = Reading(row, warmup, face_quality(one.face, crop.sharpness))
        if read < encoded:
            raise self._no_result(batch[read], rows[read], "head")
        if encoded < len(batch):
            raise self._no_result(batch[encoded], features[encoded], "encoder")

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features [N,D] of aligned RGB crops uint8 [N,H,W,3]."""
        with self._turn:
            (features,) = self.encoder.run({"frames": crops}).values()
        return features

    def classify(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the model's own probabilities [N,C] for windows of features [N,T,D]."""
        with self._turn:
            (probabilities,) = self.head.run({"features": windows}).values()
        return probabilities

    def close(self) -> None:
        self._engines.close()

    def __enter__(self) -> Recognizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> str:
        raise TypeError(
            "a Recognizer holds loaded engines, which cannot be pickled or sent to another process; "
            f"open one there: Recognizer({str(self.bundle.path)!r})"
        )

    def _detection(self, name: str, source: Source | None = None) -> FaceProvider:
        def turned(degrees: int) -> None:
            whole = (degrees + (0 if source is None else source.rotation)) % 360
            told = f"rotate by {whole} degrees (--rotate {whole})" if whole else "leave out the rotation (--rotate)"
            self.warn(f"{name}: faces are turned; {told} to read them right")

        # Weak detections keep tracks alive but do not begin new ones.
        detector = FaceDetector(min_score=0.4, min_face=self.min_face)
        return DetectionScheduler(detector, self.detect_every, turned)

    def _open_window(self, step: float) -> FeatureWindow:
        return FeatureWindow(self.bundle.manifest.window, self.window, step)

    def _open_stream(
        self, name: str, live: bool, rate: float | None, provider: FaceProvider, scheduler: Scheduler, watch: Stopwatch
    ) -> StreamState:
        fps = self.fps
        if rate is not None and rate < fps:
            fps = rate
            self.warn(f"{name}: has {fps:g} frames per second, fewer than the {self.fps:g} to sample; all are taken")
            if self.window * fps < 2:
                raise ParameterError("window", f"{self.window:g} s hold fewer than two frames of {name}; ask for more")
        return StreamState(
            name,
            live,
            1 / fps,
            face_provider=provider,
            crop_size=self.bundle.manifest.preprocessing.size,
            max_faces=self.max_faces,
            open_window=partial(self._open_window, 1 / fps),
            scheduler=scheduler,
            smoother=self.new_smoother(live, fps),
            warn=self.warn,
            watch=watch,
        )

    def _no_result(self, one: EncodeRequest, values: NDArray[np.float32], graph: str) -> DferError:
        """Return the error for an invalid row of results."""
        return DferError(
            f"{one.stream.source}, track {one.number}, {one.frame.time:.2f} s: the {graph} of bundle "
            f"{self.bundle.path} gives {values.min():g} to {values.max():g} on {self.provider} in {self.precision}, "
            "which is no result; try precision fp32 or provider cpu, or export it again"
        )

    def _try_engines(self) -> float:
        """Warm up both graphs; return the encoder's seconds for one face. Raises DferError for unannounced shapes."""
        manifest = self.bundle.manifest
        size, width, classes = manifest.preprocessing.size, manifest.width, len(manifest.classes)
        features = self.encode(np.zeros((2, size, size, 3), np.uint8))  # two rows: also prepares batches, so that
        probabilities = self.classify(np.zeros((2, manifest.window, width), np.float32))  # no live face waits for it
        if features.shape != (2, width) or probabilities.shape != (2, classes):
            raise DferError(
                f"bundle {self.bundle.path}: the graphs give {features.shape[1:]} and {probabilities.shape[1:]} per "
                f"row, the manifest says ({width},) and ({classes},); export it again"
            )
        begun = perf_counter()
        self.encode(np.zeros((1, size, size, 3), np.uint8))
        return perf_counter() - begun


class Session:
    """Predictions for frames you push yourself. Created by `Recognizer.session`.

    name: what predictions call the source. live: whether faces may be skipped when there are more than can be encoded
    in time. rate: frames pushed per second, if that is fewer than are sampled.

    Several threads may use sessions of one recogniser, but each session only one thread at a time.

    stopwatch: durations of each stage.
    """

    def __init__(self, recognizer: Recognizer, name: str, live: bool, rate: float | None) -> None:
        self.stopwatch = Stopwatch()
        self._recognizer = recognizer
        self._scheduler = Scheduler(1 / recognizer.fps, recognizer.face_cost)
        self._stream = recognizer._open_stream(
            name, live, rate, recognizer._detection(name), self._scheduler, self.stopwatch
        )
        self._index, self._time = -1, 0.0

    def push(self, image: NDArray[np.uint8], seconds: float) -> tuple[Prediction, ...]:
        """Process the frame at `seconds` (rising); return a prediction for each face if the frame is sampled.

        image: RGB uint8 [H,W,3]. Raises DferError for another shape or type, and for a time that does not rise.
        """
        return self.step(image, seconds).predictions

    def step(self, image: NDArray[np.uint8], seconds: float) -> Step:
        """Do the same, but return all faces in view, for drawing (`outputs.overlay.annotate`)."""
        picture = check_image(image, "image")
        if not np.isfinite(seconds) or (self._index >= 0 and seconds <= self._time):
            raise ParameterError("seconds", f"{seconds} does not come after the frame before, at {self._time:g}")
        self._index, self._time = self._index + 1, float(seconds)
        frame = Frame(picture, self._index, self._time, 0.0, monotonic())
        gathered = choose_faces([self._stream.process(frame)], self._scheduler)
        (step,) = self._recognizer.read(gathered, self._scheduler, self.stopwatch)
        return step

"""The loop: source → face → track → feature → window → prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter

import numpy as np
from numpy.typing import NDArray

from .bundle import DEMO, Bundle
from .engines import Engine, open_graph
from .engines.choice import choose, precision_for
from .errors import DferError
from .faces.alignment import align
from .faces.detection import FaceDetector
from .machine import default_threads
from .pipeline.feature_window import FeatureWindow
from .pipeline.scheduler import Scheduler
from .pipeline.stream import DetectionScheduler, EncodeRequest, FaceProvider, StreamState
from .predictions import Prediction, Step
from .sources import Source, SourceReader, SourceReaders, SourceSpec, open_sources
from .timing import Stopwatch

_LARGEST_BATCH = 16
"""Faces in one call of the encoder: more are no faster per face, and take memory."""


class Recognizer:
    """Expressions from video with the engines of a bundle. Use as a context manager.

    bundle: folder of an exported model; None takes the demo bundle that ships with the package.
    provider: one of `engines.PROVIDERS`; "auto" takes what is fastest here (see `engines.choice.choose`).
    window: seconds of video behind each prediction. fps: frames per second that are sampled and encoded.
    max_faces: how many faces of a source are read, largest first; None for all.
    min_face: side in pixels of the smallest face that is read; the larger, the faster faces are found.
    detect_every: frames from one search for faces to the next; between them faces are carried along by their motion.
    precision: which of the bundle's graphs; "auto" takes what the bundle recommends for the provider, else FP32.
    threads: of the CPU for one run of an engine; None for all physical cores this process may use.
    warn: told, in one line, about trouble that is not an error.

    Raises DferError for a bad bundle, an absent provider or impossible settings.
    """

    def __init__(
        self,
        bundle: str | Path | None = None,
        *,
        provider: str = "auto",
        window: float = 2.0,
        fps: float = 8.0,
        max_faces: int | None = None,
        min_face: int = 40,
        detect_every: int = 3,
        precision: str = "auto",
        threads: int | None = None,
        warn: Callable[[str], object] = lambda _: None,
    ) -> None:
        if not (0 < window <= 60 and 0 < fps <= 240 and window * fps >= 2):
            raise DferError(
                f"--window {window:g} --fps {fps:g}: a window must hold at least two sampled frames (and at most 60 s)"
            )
        self.bundle = Bundle.open(DEMO if bundle is None else bundle)
        if precision not in ("auto", *self.bundle.manifest.precisions):
            held = ", ".join(self.bundle.manifest.precisions)
            raise DferError(f"bundle {self.bundle.path} has no {precision} graphs; it has {held}")
        self.window, self.fps, self.max_faces, self.warn = window, fps, max_faces, warn
        self.min_face, self.detect_every = min_face, detect_every
        self.threads = default_threads(0) if threads is None else threads
        self.stopwatch = Stopwatch()
        self.scheduler = Scheduler(1 / fps)
        self.precision, self.encoder, self.head = self._open_engines(provider, precision)
        self._try_engines()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the probabilities, in their order."""
        return self.bundle.manifest.classes

    @property
    def provider(self) -> str:
        """What really runs the encoder."""
        return self.encoder.provider

    def stream(self, *specs: SourceSpec) -> Iterator[Prediction]:
        """Predictions for cameras' numbers, files, folders or URLs, as they are made; several are read side by side."""
        for step in self.steps(*open_sources(specs, self.fps, self.warn)):
            yield from step.predictions

    def steps(self, *sources: Source) -> Iterator[Step]:
        """Every frame of open sources with what was seen in it; memory does not grow with their length."""
        with SourceReaders(sources) as readers:
            yield from self.follow(readers)

    def follow(
        self,
        readers: SourceReaders,
        boxes: Sequence[FaceProvider] | None = None,
        refine: Callable[[Prediction], Prediction] = lambda prediction: prediction,
    ) -> Iterator[Step]:
        """Every frame that is taken of sources being read, with what was seen in it.

        boxes: per source, what says where its faces are in place of the detector (`boxes.read_boxes`).
        refine: makes the final form of every prediction (`Smoother.refine`).
        """
        face_providers = boxes or [DetectionScheduler(self._detector(), self.detect_every) for _ in readers.readers]
        streams = [
            self._open_stream(reader, face_provider)
            for reader, face_provider in zip(readers.readers, face_providers, strict=True)
        ]
        for batch in readers.batches():
            requests: list[EncodeRequest] = []
            for reader, frame in batch:
                self.stopwatch.add("decode", frame.decode)
                requests.extend(streams[reader.number].process(frame))
            made = self._predict(self.scheduler.choose(requests), refine)
            for reader, frame in batch:
                stream = streams[reader.number]
                predictions = tuple(made.pop(stream, ()))
                yield Step(reader.name, frame, predictions, stream.visible(frame.time))
                if predictions:
                    self.stopwatch.add("total", monotonic() - frame.arrived)
        for stream in streams:
            stream.finish()

    def _detector(self) -> FaceDetector:
        return FaceDetector(min_score=0.4, min_face=self.min_face)  # weak ones keep tracks alive, but begin none

    def _open_stream(self, reader: SourceReader, face_provider: FaceProvider) -> StreamState:
        fps = self.fps
        if reader.rate is not None and reader.rate < fps:
            fps = reader.rate
            self.warn(f"{reader.name}: has {fps:g} frames per second; --fps {self.fps:g} is lowered to that")
            if self.window * fps < 2:
                raise DferError(
                    f"{reader.name}: {self.window:g} s hold fewer than two of its frames; a longer --window is needed"
                )
        return StreamState(
            reader.name,
            reader.live,
            1 / fps,
            face_provider=face_provider,
            max_faces=self.max_faces,
            open_window=partial(FeatureWindow, self.bundle.manifest.window, self.window, 1 / fps),
            scheduler=self.scheduler,
            watch=self.stopwatch,
        )

    def _predict(
        self, chosen: list[EncodeRequest], refine: Callable[[Prediction], Prediction]
    ) -> dict[StreamState, list[Prediction]]:
        """Encode faces of any sources, each once; read all windows that now end with them."""
        made: dict[StreamState, list[Prediction]] = {}
        size = self.bundle.manifest.preprocessing.size
        for start in range(0, len(chosen), _LARGEST_BATCH):
            batch = chosen[start : start + _LARGEST_BATCH]
            with self.stopwatch.time("align"):
                crops = np.stack([align(one.frame.image, one.track.face.landmarks, size) for one in batch])
            begun = perf_counter()
            features = self.encode(crops)
            spent = perf_counter() - begun
            self.stopwatch.add("encode", spent)
            self.scheduler.learn(spent, len(batch))
            with self.stopwatch.time("head"):
                windows = [one.stream.push(one, feature) for one, feature in zip(batch, features, strict=True)]
                rows = self.classify(np.stack([window.stack() for window in windows]))
            for one, window, row in zip(batch, windows, rows, strict=True):
                prediction = Prediction(
                    source=one.stream.source,
                    frame=one.frame.index,
                    time=one.frame.time,
                    track_id=one.track.id,
                    box=one.track.face.box,
                    probabilities=row,
                    classes=self.classes,
                    state="warmup" if window.warmup else "ready",
                )
                one.state.prediction = refine(prediction)
                made.setdefault(one.stream, []).append(one.state.prediction)
        return made

    def _open_engines(self, provider: str, precision: str) -> tuple[str, Engine, Engine]:
        """The precision that runs, and both engines."""
        if provider == "auto":
            provider, recommended = choose(self.bundle, self.threads, self.warn)
        else:
            recommended = precision_for(self.bundle, provider, self.warn)
        if precision == "auto":
            precision = recommended
        encoder, head = self.bundle.manifest.graphs(precision, provider)
        opened = open_graph(self.bundle, head, provider, self.threads, self.warn)
        return (
            precision,
            open_graph(self.bundle, encoder, provider, self.threads, self.warn, precision == "bf16"),
            opened,
        )

    def _try_engines(self) -> None:
        """Run both graphs, which warms them up and tells what a face costs; raises DferError when they are not what the
        manifest says."""
        manifest = self.bundle.manifest
        size, window, width, classes = manifest.preprocessing.size, manifest.window, manifest.width, len(self.classes)
        features = self.encode(np.zeros((2, size, size, 3), np.uint8))
        probabilities = self.classify(np.zeros((2, window, width), np.float32))
        if features.shape != (2, width) or probabilities.shape != (2, classes):
            raise DferError(
                f"bundle {self.bundle.path}: the graphs give {features.shape[1:]} and {probabilities.shape[1:]} per "
                f"row, the manifest says ({width},) and ({classes},); export it again"
            )
        begun = perf_counter()
        self.encode(np.zeros((1, size, size, 3), np.uint8))
        self.scheduler.learn(perf_counter() - begun, 1)

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features [N,D] of aligned RGB crops uint8 [N,H,W,3]."""
        (features,) = self.encoder.run({"frames": crops}).values()
        return features

    def classify(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities [N,C] of windows of features [N,T,D]."""
        (probabilities,) = self.head.run({"features": windows}).values()
        return probabilities

    def close(self) -> None:
        self.encoder.close()
        self.head.close()

    def __enter__(self) -> Recognizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

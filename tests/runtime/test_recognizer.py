"""The loop: rows against frames, numbers against the whole window done by hand, each frame encoded once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dfer.runtime import DferError, Prediction, Recognizer, open_source
from dfer.runtime.bundle import DEMO
from dfer.runtime.engines import Engine, open_graph
from dfer.runtime.faces.boxes import read_boxes
from dfer.runtime.faces.detection import Face, FaceDetector
from dfer.runtime.faces.tracking import Tracker
from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.outputs.summary import Summary
from dfer.runtime.pipeline import stream
from dfer.runtime.pipeline.stream import FollowedFrame, StreamState
from dfer.runtime.sources import Frame, SourceReaders
from helpers import edit_manifest, write_video

if TYPE_CHECKING:
    from dfer.runtime.engines import Array


class CountingEngine(Engine):
    """An engine that notes the batches that pass through the one it wraps."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.provider = engine, engine.provider
        self.seen: list[Array] = []

    @property
    def rows(self) -> int:
        return sum(map(len, self.seen))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        self.seen.append(next(iter(inputs.values())))
        return self.engine.run(inputs)

    def close(self) -> None:
        self.engine.close()


@pytest.fixture(scope="module")
def predictions(face_video: Path) -> list[Prediction]:
    with Recognizer(DEMO, unsure=0) as recognizer:
        return list(recognizer.stream(face_video))


def test_every_sampled_frame_has_one_row_at_its_time(predictions: list[Prediction]) -> None:
    assert [row.frame for row in predictions] == list(range(0, 72, 3))
    np.testing.assert_allclose([row.time for row in predictions], np.arange(0, 72, 3) / 24, atol=1e-3)
    assert {row.track_id for row in predictions} == {1}
    assert [row.state for row in predictions] == ["warmup"] * 9 + ["ready"] * 15


def test_probabilities_are_a_distribution_and_the_label_its_maximum(predictions: list[Prediction]) -> None:
    for row in predictions:
        assert row.probabilities.sum() == pytest.approx(1, abs=1e-4)
        assert row.label == row.classes[int(np.argmax(row.probabilities))]
        assert row.confidence == pytest.approx(row.probabilities.max())


def test_the_ring_gives_what_encoding_the_whole_window_gives(face_video: Path) -> None:
    with Recognizer(DEMO, window=2) as recognizer:  # of 16 frames, each of which is another
        encoder = recognizer.encoder = CountingEngine(recognizer.encoder)
        rows = list(recognizer.stream(face_video))
        crops = np.concatenate(encoder.seen)
        for last in (15, len(rows) - 1):
            whole = recognizer.classify(recognizer.encode(crops[last - 15 : last + 1])[None])[0]
            np.testing.assert_allclose(rows[last].probabilities, whole, atol=1e-4)


def test_each_sampled_frame_is_encoded_once_per_face(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    pair = [np.hstack([frame, frame[:, ::-1]]) for frame in face_frames[:48]]
    video = write_video(tmp_path / "pair.mp4", pair, 24)
    with Recognizer(DEMO) as recognizer:
        encoder = recognizer.encoder = CountingEngine(recognizer.encoder)
        rows = list(recognizer.stream(video))
    sampled = len({row.frame for row in rows})
    assert sampled == 16
    assert {row.track_id for row in rows} == {1, 2}
    assert encoder.rows == len(rows) == sampled * 2


def test_several_sources_share_batches_and_each_gives_what_it_gives_alone(
    face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    clips = [
        write_video(tmp_path / "a.mp4", face_frames, 24),
        write_video(tmp_path / "b.mp4", [frame[:, ::-1] for frame in face_frames[:48]], 24),
    ]
    # In INT8 a sum that rounds otherwise in a larger batch may fall on the other side of a step.
    with Recognizer(DEMO, precision="fp32") as recognizer:
        alone = {str(clip): list(recognizer.stream(clip)) for clip in clips}
        encoder = recognizer.encoder = CountingEngine(recognizer.encoder)
        with SourceReaders([open_source(clip) for clip in clips]) as readers:
            together = [row for step in recognizer.follow(readers, at_once=1) for row in step.predictions]
    assert {len(batch) for batch in encoder.seen} <= {1, 2}
    for name, rows in alone.items():
        same = [row for row in together if row.source == name]
        assert [(row.frame, row.track_id, row.state) for row in same] == [
            (row.frame, row.track_id, row.state) for row in rows
        ]
        np.testing.assert_allclose(
            np.stack([row.probabilities for row in same]), np.stack([row.probabilities for row in rows]), atol=1e-4
        )


def test_faces_carry_the_final_prediction_between_samples(face_video: Path) -> None:
    with (
        Recognizer(DEMO, classes=dict.fromkeys(EXPRESSIONS, "seen")) as recognizer,
        open_source(face_video) as source,
        SourceReaders([source]) as readers,
    ):
        steps = list(recognizer.follow(readers))
    assert {row.label for step in steps for row in step.predictions} == {"seen"}
    between = [step.faces[0].prediction for step in steps if not step.predictions]
    assert len(between) == 48
    assert {prediction.label for prediction in between if prediction is not None} == {"seen"}


class SlowEngine(CountingEngine):
    """One that needs 0.1 s for every row."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        sleep(0.1 * len(next(iter(inputs.values()))))
        return super().run(inputs)


def test_too_many_live_faces_are_read_less_often_by_turns_and_that_is_told(
    face_frames: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "Tracker", lambda _, **later: Tracker(60.0, **later))  # no stall loses a face
    crowd = [np.hstack([frame, frame[:, ::-1], frame]) for frame in face_frames]
    clip = write_video(tmp_path / "crowd.mp4", crowd, 24)
    with Recognizer(DEMO) as recognizer:
        recognizer.encoder = SlowEngine(recognizer.encoder)
        with open_source(clip) as source, SourceReaders([source], realtime=True) as readers:
            rows = [row for step in recognizer.follow(readers) for row in step.predictions]
        assert recognizer.scheduler.skipped_share > 0.3
        assert recognizer.scheduler.encoded == len(rows)
        per_face = Counter(row.track_id for row in rows)
        assert len(per_face) == 3
        assert max(per_face.values()) - min(per_face.values()) <= 3
        assert all(len(batch) == 1 for batch in recognizer.encoder.seen[3:])  # once it is known what a face costs
        recognizer.scheduler.skipped = recognizer.scheduler.encoded = 0
        assert len(list(recognizer.stream(write_video(tmp_path / "short.mp4", crowd[:24], 24)))) == 24  # files wait
        assert recognizer.scheduler.skipped == 0


def test_only_the_largest_faces_are_read_when_asked(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    small = [frame[::2, ::2] for frame in face_frames[:24]]
    pair = [
        np.hstack([frame, np.vstack([half, half[::-1] * 0])]) for frame, half in zip(face_frames, small, strict=False)
    ]
    with Recognizer(DEMO, max_faces=1) as recognizer:
        rows = list(recognizer.stream(write_video(tmp_path / "pair.mp4", pair, 24)))
    assert {row.track_id for row in rows} == {1}
    assert all(row.box[0] < 320 for row in rows)


def test_the_face_that_is_read_keeps_its_id_when_another_is_larger_for_a_moment(
    face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    larger = [np.repeat(np.repeat(frame, 2, 0), 2, 1)[60:300, 130:450] for frame in face_frames]
    beside = [face if 24 <= index < 36 else np.zeros_like(face) for index, face in enumerate(larger)]
    frames = [np.hstack(pair) for pair in zip(face_frames, beside, strict=True)]
    with Recognizer(DEMO, max_faces=1) as recognizer:
        rows = list(recognizer.stream(write_video(tmp_path / "two.mp4", frames, 24)))
    first = [row.track_id for row in rows if row.box[0] < 320]
    assert set(first) == {first[0]}
    assert {row.frame for row in rows if row.box[0] < 320} >= {0, 21, 45, 69}


def test_a_slow_sampling_rate_keeps_the_track(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    video = write_video(tmp_path / "slow.mp4", face_frames[::12], 0.5)
    with Recognizer(DEMO, window=30, fps=0.5) as recognizer:
        rows = list(recognizer.stream(video))
    assert [row.track_id for row in rows] == [1] * 6
    with Recognizer(DEMO) as recognizer, pytest.raises(DferError, match=r"window: 1.2 s hold fewer"):
        list(recognizer.stream(video))


def test_a_manifest_that_does_not_fit_the_graphs_is_refused(bundle: Path) -> None:
    for changes in ({"width": 32}, {"window": 8}, {"classes": ["a", "b"]}):
        edit_manifest(bundle, **changes)
        with pytest.raises(DferError, match=r"export it again|cannot run the graph"):
            Recognizer(bundle)


def test_a_face_that_goes_away_starts_anew_when_it_comes_back(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    empty = [np.full_like(face_frames[0], 90)] * 12
    frames = [*face_frames[:60], *empty, *face_frames[:12]]
    with Recognizer(DEMO) as recognizer:
        rows = list(recognizer.stream(write_video(tmp_path / "gap.mp4", frames, 24)))
    assert {row.track_id for row in rows} == {1}  # half a second away
    assert not [row for row in rows if 60 <= row.frame < 72]
    assert [row.state for row in rows if row.frame < 60][-1] == "ready"
    assert {row.state for row in rows if row.frame >= 72} == {"warmup"}


def test_sampling_faster_than_the_source_uses_its_rate_and_says_so(face_video: Path) -> None:
    warnings: list[str] = []
    with Recognizer(DEMO, fps=60, warn=warnings.append) as recognizer:
        rows = list(recognizer.stream(face_video))
    assert [row.frame for row in rows] == list(range(72))
    assert "24 frames per second" in warnings[0]


SMALL = {"max_faces": 0, "min_face": -5, "detect_every": 0, "threads": 0}
SETTINGS = [{"window": 0}, {"fps": -1}, {"window": 0.1, "fps": 8}, {"precision": "int3"}]


@pytest.mark.parametrize("settings", [*SETTINGS, *({name: value} for name, value in SMALL.items())])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(DferError, match=f"^{next(iter(settings))}: "):
        Recognizer(DEMO, **settings)  # type: ignore[arg-type]


class BrokenEngine(CountingEngine):
    """One whose second row is no number."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        results = super().run(inputs)
        for values in results.values():
            values[1:2] = np.nan
        return results


@pytest.mark.parametrize("graph", ["encoder", "head"])
def test_results_that_are_no_numbers_are_an_error_that_names_source_and_track(
    graph: str, face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    pair = [np.hstack([frame, frame[:, ::-1]]) for frame in face_frames[:12]]
    video = write_video(tmp_path / "pair.mp4", pair, 24)
    with Recognizer() as recognizer:
        setattr(recognizer, graph, BrokenEngine(getattr(recognizer, graph)))
        with pytest.raises(DferError, match=rf"pair\.mp4, track 2, 0\.00 s: the {graph} .* gives nan"):
            list(recognizer.stream(video))


def test_probabilities_that_are_none_are_an_error(face_video: Path) -> None:
    class Percent(CountingEngine):
        def run(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
            return {name: 100 * values for name, values in super().run(inputs).items()}

    with Recognizer() as recognizer:
        recognizer.head = Percent(recognizer.head)
        with pytest.raises(DferError, match=r"track 1.*the head"):
            list(recognizer.stream(face_video))


@pytest.mark.parametrize("every", [1, 2, 3, 8, 30, 100])
def test_faces_are_searched_in_every_so_many_frames(
    every: int, face_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert searches(face_video, monkeypatch, detect_every=every) == [*range(0, 72, every)]


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (8, [*range(0, 72, 3)]),  # in every sampled frame
        (24, [*range(0, 72, 3)]),  # ten times a second at most: every third frame of 24
        (1, [*range(0, 24, 5), *range(24, 48, 5), *range(48, 72, 5)]),  # and between samples, so that ids stay
    ],
)
def test_faces_that_move_are_searched_five_to_ten_times_a_second(
    fps: float, expected: list[int], face_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_CALM", 0)
    assert searches(face_video, monkeypatch, fps=fps, window=4) == expected


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (8, [0, *range(3, 72, 6)]),  # in every other sampled frame
        (24, [0, *range(3, 72, 5)]),
        (1, [0, *range(5, 72, 8)]),
    ],
)
def test_faces_that_stay_where_they_are_are_searched_three_to_five_times_a_second(
    fps: float, expected: list[int], face_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert searches(face_video, monkeypatch, fps=fps, window=4) == expected


def test_a_face_that_a_search_does_not_find_is_not_in_view(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    nobody = np.full_like(face_frames[0], 90)
    video = write_video(tmp_path / "left.mp4", [*face_frames[:16], *[nobody] * 16], 24)
    with Recognizer(detect_every=8) as recognizer:
        seen = [len(step.faces) for step in recognizer.steps(open_source(video))]
    assert seen == [1] * 16 + [0] * 16


def searches(video: Path, monkeypatch: pytest.MonkeyPatch, **settings: float) -> list[int]:
    """The frames of a video in which the detector was asked."""
    frames: list[int] = []
    seen = FaceDetector.detect

    def detect(self: FaceDetector, image: NDArray[np.uint8], known: Sequence[Face] = ()) -> list[Face]:
        if image.shape == (240, 320, 3):  # not a close-up
            frames.append(taken[-1])
        return seen(self, image, known)

    taken: list[int] = []
    monkeypatch.setattr(FaceDetector, "detect", detect)
    with Recognizer(**settings) as recognizer, open_source(video) as source:  # type: ignore[arg-type]
        process = StreamState.process

        def watched(self: StreamState, frame: Frame) -> FollowedFrame:
            taken.append(frame.index)
            return process(self, frame)

        monkeypatch.setattr(StreamState, "process", watched)
        list(recognizer.steps(source))
    return frames


def test_of_given_boxes_too_the_largest_are_read(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", face_frames[:12], 24)
    rows = [f"{frame},{x},20,{side},{side}" for frame in range(0, 12, 3) for x, side in ((5, 40), (110, 120))]
    (tmp_path / "boxes.csv").write_text("\n".join(["frame,x,y,w,h", *rows]))
    with Recognizer(max_faces=1) as recognizer, SourceReaders([open_source(video)]) as readers:
        steps = list(recognizer.follow(readers, read_boxes(tmp_path / "boxes.csv", [str(video)])))
    assert {row.box[2] for step in steps for row in step.predictions} == {120}


def test_a_face_in_profile_gives_no_row_and_is_counted(face_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Face, "frontal", property(lambda self: False))
    with Recognizer() as recognizer, open_source(face_video) as source:
        steps = list(recognizer.steps(source))
    summary = Summary()
    for step in steps:
        summary.write(step)
    assert not any(step.predictions for step in steps)
    assert [step.frame.index for step in steps if step.profiles] == list(range(0, 72, 3))
    assert summary.to_json()["profile_samples"] == 24


def test_engines_are_closed_when_a_recogniser_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Engine] = []
    closed: list[Engine] = []

    class Noting(CountingEngine):
        def close(self) -> None:
            closed.append(self)
            super().close()

    def opening(*arguments: Any) -> Engine:
        opened.append(Noting(open_graph(*arguments)))
        return opened[-1]

    monkeypatch.setattr("dfer.runtime.engines.choice.open_graph", opening)
    monkeypatch.setattr(Noting, "run", lambda *_: (_ for _ in ()).throw(DferError("out of memory")))
    with pytest.raises(DferError, match="out of memory"):
        Recognizer(provider="cpu")
    assert len(opened) == 2
    assert {id(engine) for engine in opened} == {id(engine) for engine in closed}


def test_window_and_rate_are_the_models_own_unless_told_otherwise(bundle: Path, face_video: Path) -> None:
    edit_manifest(bundle, sampling={"seconds": 1.0, "fps": 6.0}, confidence={"temperature": 1.5, "unsure_below": 1.0})
    with Recognizer(bundle) as recognizer:
        assert (recognizer.window, recognizer.fps) == (1.0, 6.0)
        rows = list(recognizer.stream(face_video))
    assert [row.frame for row in rows] == list(range(0, 72, 4))
    assert {row.label for row in rows} == {"unsure"}
    with Recognizer(bundle, window=2, fps=8, unsure=0) as recognizer:
        assert (recognizer.window, recognizer.fps) == (2, 8)
        assert "unsure" not in {row.label for row in recognizer.stream(face_video)}
    edit_manifest(bundle, sampling={})
    with Recognizer(bundle) as recognizer:  # one that says nothing
        assert (recognizer.window, recognizer.fps) == (2.0, 8.0)


def test_live_sources_are_smoothed_and_files_are_not_unless_told_otherwise() -> None:
    with Recognizer() as recognizer:
        assert (recognizer.smoothing(live=True), recognizer.smoothing(live=False)) == (0.4, 0)
    with Recognizer(smooth=0) as recognizer:
        assert recognizer.smoothing(live=True) == 0


def test_rows_have_the_quality_of_their_face(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    blurred = [cv2.GaussianBlur(frame, (0, 0), 4) for frame in face_frames[:12]]
    with Recognizer() as recognizer:
        sharp = recognizer.predict(face_frames[:12], rate=24)
        (poor,) = recognizer.predict(blurred, rate=24)
    assert poor.quality is not None and sharp[0].quality is not None
    assert poor.poor and not sharp[0].poor

"""The loop: rows against frames, numbers against the whole window done by hand, each frame encoded once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from dfer.runtime import DferError, Prediction, Recognizer, open_source
from dfer.runtime.engines import Engine
from dfer.runtime.sources import SourceReaders
from helpers import Pipeline, edit_manifest, write_video

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
def predictions(pipeline: Pipeline, face_video: Path) -> list[Prediction]:
    with Recognizer(pipeline.bundle) as recognizer:
        return list(recognizer.stream(face_video))


def test_every_sampled_frame_has_one_row_at_its_time(predictions: list[Prediction]) -> None:
    assert [row.frame for row in predictions] == list(range(0, 72, 3))
    np.testing.assert_allclose([row.time for row in predictions], np.arange(0, 72, 3) / 24, atol=1e-3)
    assert {row.track_id for row in predictions} == {1}
    assert [row.state for row in predictions] == ["warmup"] * 15 + ["ready"] * 9


def test_probabilities_are_a_distribution_and_the_label_its_maximum(predictions: list[Prediction]) -> None:
    for row in predictions:
        assert row.probabilities.sum() == pytest.approx(1, abs=1e-4)
        assert row.label == row.classes[int(np.argmax(row.probabilities))]
        assert row.confidence == pytest.approx(row.probabilities.max())


def test_the_ring_gives_what_encoding_the_whole_window_gives(pipeline: Pipeline, face_video: Path) -> None:
    with Recognizer(pipeline.bundle) as recognizer:
        encoder = recognizer.encoder = CountingEngine(recognizer.encoder)
        rows = list(recognizer.stream(face_video))
        crops = np.concatenate(encoder.seen)
        for last in (15, len(rows) - 1):
            whole = recognizer.classify(recognizer.encode(crops[last - 15 : last + 1])[None])[0]
            np.testing.assert_allclose(rows[last].probabilities, whole, atol=1e-4)


def test_each_sampled_frame_is_encoded_once_per_face(
    pipeline: Pipeline, face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    pair = [np.hstack([frame, frame[:, ::-1]]) for frame in face_frames[:48]]
    video = write_video(tmp_path / "pair.mp4", pair, 24)
    with Recognizer(pipeline.bundle) as recognizer:
        encoder = recognizer.encoder = CountingEngine(recognizer.encoder)
        rows = list(recognizer.stream(video))
    sampled = len({row.frame for row in rows})
    assert sampled == 16
    assert {row.track_id for row in rows} == {1, 2}
    assert encoder.rows == len(rows) == sampled * 2


def test_several_sources_share_batches_and_each_gives_what_it_gives_alone(
    pipeline: Pipeline, face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    clips = [
        write_video(tmp_path / "a.mp4", face_frames, 24),
        write_video(tmp_path / "b.mp4", [frame[:, ::-1] for frame in face_frames[:48]], 24),
    ]
    with Recognizer(pipeline.bundle) as recognizer:
        alone = {str(clip): list(recognizer.stream(clip)) for clip in clips}
        encoder = recognizer.encoder = CountingEngine(recognizer.encoder)
        together = list(recognizer.stream(*clips))
    assert {len(batch) for batch in encoder.seen} <= {1, 2}
    for name, rows in alone.items():
        same = [row for row in together if row.source == name]
        assert [(row.frame, row.track_id, row.state) for row in same] == [
            (row.frame, row.track_id, row.state) for row in rows
        ]
        np.testing.assert_allclose(
            np.stack([row.probabilities for row in same]), np.stack([row.probabilities for row in rows]), atol=1e-4
        )


def test_faces_carry_the_final_prediction_between_samples(pipeline: Pipeline, face_video: Path) -> None:
    with (
        Recognizer(pipeline.bundle) as recognizer,
        open_source(face_video) as source,
        SourceReaders([source]) as readers,
    ):
        steps = list(recognizer.follow(readers, refine=lambda prediction: replace(prediction, label="fear")))
    assert {row.label for step in steps for row in step.predictions} == {"fear"}
    between = [step.faces[0].prediction for step in steps if not step.predictions]
    assert len(between) == 48
    assert {prediction.label for prediction in between if prediction is not None} == {"fear"}


class SlowEngine(CountingEngine):
    """One that needs 0.1 s for every row."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        sleep(0.1 * len(next(iter(inputs.values()))))
        return super().run(inputs)


def test_too_many_live_faces_are_read_less_often_by_turns_and_that_is_told(
    pipeline: Pipeline, face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    crowd = [np.hstack([frame, frame[:, ::-1], frame]) for frame in face_frames]
    clip = write_video(tmp_path / "crowd.mp4", crowd, 24)
    with Recognizer(pipeline.bundle) as recognizer:
        recognizer.encoder = SlowEngine(recognizer.encoder)
        with open_source(clip) as source, SourceReaders([source], realtime=True) as readers:
            rows = [row for step in recognizer.follow(readers) for row in step.predictions]
        assert recognizer.scheduler.skipped_share > 0.3
        assert recognizer.scheduler.encoded == len(rows)
        per_face = Counter(row.track_id for row in rows)
        assert len(per_face) == 3
        assert max(per_face.values()) - min(per_face.values()) <= 3
        assert max(len(batch) for batch in recognizer.encoder.seen[3:]) == 1  # once it is known what a face costs
        recognizer.scheduler.skipped = recognizer.scheduler.encoded = 0
        assert len(list(recognizer.stream(write_video(tmp_path / "short.mp4", crowd[:24], 24)))) == 24  # files wait
        assert recognizer.scheduler.skipped == 0


def test_only_the_largest_faces_are_read_when_asked(
    pipeline: Pipeline, face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    small = [frame[::2, ::2] for frame in face_frames[:24]]
    pair = [
        np.hstack([frame, np.vstack([half, half[::-1] * 0])]) for frame, half in zip(face_frames, small, strict=False)
    ]
    with Recognizer(pipeline.bundle, max_faces=1) as recognizer:
        rows = list(recognizer.stream(write_video(tmp_path / "pair.mp4", pair, 24)))
    assert {row.track_id for row in rows} == {1}
    assert all(row.box[0] < 320 for row in rows)


def test_the_face_that_is_read_keeps_its_id_when_another_is_larger_for_a_moment(
    pipeline: Pipeline, face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    larger = [np.repeat(np.repeat(frame, 2, 0), 2, 1)[60:300, 130:450] for frame in face_frames]
    beside = [face if 24 <= index < 36 else np.zeros_like(face) for index, face in enumerate(larger)]
    frames = [np.hstack(pair) for pair in zip(face_frames, beside, strict=True)]
    with Recognizer(pipeline.bundle, max_faces=1) as recognizer:
        rows = list(recognizer.stream(write_video(tmp_path / "two.mp4", frames, 24)))
    first = [row.track_id for row in rows if row.box[0] < 320]
    assert set(first) == {first[0]}
    assert {row.frame for row in rows if row.box[0] < 320} >= {0, 21, 45, 69}


def test_a_slow_sampling_rate_keeps_the_track(
    pipeline: Pipeline, face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    video = write_video(tmp_path / "slow.mp4", face_frames[::12], 0.5)
    with Recognizer(pipeline.bundle, window=30, fps=0.5) as recognizer:
        rows = list(recognizer.stream(video))
    assert [row.track_id for row in rows] == [1] * 6
    with Recognizer(pipeline.bundle) as recognizer, pytest.raises(DferError, match="longer --window"):
        list(recognizer.stream(video))


def test_a_manifest_that_does_not_fit_the_graphs_is_refused(bundle: Path) -> None:
    for changes in ({"width": 32}, {"window": 8}, {"classes": ["a", "b"]}):
        edit_manifest(bundle, **changes)
        with pytest.raises(DferError, match=r"export it again|cannot run the graph"):
            Recognizer(bundle)


def test_a_face_that_goes_away_starts_anew_when_it_comes_back(
    pipeline: Pipeline, face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    empty = [np.full_like(face_frames[0], 90)] * 12
    frames = [*face_frames[:60], *empty, *face_frames[:12]]
    with Recognizer(pipeline.bundle) as recognizer:
        rows = list(recognizer.stream(write_video(tmp_path / "gap.mp4", frames, 24)))
    assert {row.track_id for row in rows} == {1}  # half a second away
    assert not [row for row in rows if 60 <= row.frame < 72]
    assert [row.state for row in rows if row.frame < 60][-1] == "ready"
    assert {row.state for row in rows if row.frame >= 72} == {"warmup"}


def test_sampling_faster_than_the_source_uses_its_rate_and_says_so(pipeline: Pipeline, face_video: Path) -> None:
    warnings: list[str] = []
    with Recognizer(pipeline.bundle, fps=60, warn=warnings.append) as recognizer:
        rows = list(recognizer.stream(face_video))
    assert [row.frame for row in rows] == list(range(72))
    assert "24 frames per second" in warnings[0]


@pytest.mark.parametrize("settings", [{"window": 0}, {"fps": -1}, {"window": 0.1, "fps": 8}, {"precision": "int3"}])
def test_impossible_settings_are_refused(pipeline: Pipeline, settings: dict[str, float]) -> None:
    with pytest.raises(DferError):
        Recognizer(pipeline.bundle, **settings)  # type: ignore[arg-type]

"""Landmarks by a clip's name: files that are refused and why, what is found is kept, and frames keep their own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from clip_sets import FilmedNoise

from dfer.runtime.errors import DferError, ParameterError
from dfer.train.data.benchmarks import load_clips
from dfer.train.data.procedural import ProceduralClips
from dfer.train.data.videos import VideoClips
from dfer.train.landmarks.detection import LandmarkDetector
from dfer.train.landmarks.layouts import IBUG
from dfer.train.landmarks.reading import LandmarkedClips, Landmarks, find_landmarks, read_landmarks

ALL = np.arange(4)


@pytest.fixture
def films(tmp_path: Path) -> VideoClips:
    """Four clips of 20 frames; the brightness of each frame says which it is."""
    for clip in ("fear/1", "fear/2", "anger/3", "anger/4"):
        (tmp_path / "faces" / clip).mkdir(parents=True)
        for number in range(20):
            cv2.imwrite(str(tmp_path / "faces" / clip / f"{number}.png"), np.full((48, 48, 3), 10 * number, np.uint8))
    return load_clips("folder", tmp_path / "faces", "train")


def points(frames: int = 20, count: int = 68) -> np.ndarray:
    return np.random.default_rng(frames).uniform(0, 1, (frames, count, 2)).astype(np.float32)


def test_what_a_file_may_not_be_is_told_with_file_and_clip(tmp_path: Path, films: VideoClips) -> None:
    file = tmp_path / "marks.npz"
    for arrays, words in (
        ({"fear/1": points(19)}, r"marks.npz: clip 'fear/1' has landmarks of 19 frames, and not as many frames"),
        ({"fear/1": points(20, 67)}, r"clip 'fear/1': 67 points in a frame; 5, 68, 468, 478 are known"),
        ({"fear/1": points() * 224}, r"clip 'fear/1' has coordinates up to 22\d.*; give shares of the frame's width"),
        ({"fear/1": points()[0]}, r"clip 'fear/1' has float32 \[68, 2\], not numbers \[frames, points, 2\]"),
        ({"fear/1": points(), "fear/2": points(20, 5)}, r"different kinds \('fear/2' has 5, 'fear/1' has 68\)"),
        ({"1": points()}, r"has none of the clips to train on, which are named as 'anger/3', not '1'"),
        ({}, r"has none of the clips to train on"),
    ):
        np.savez(file, **arrays)
        with pytest.raises(DferError, match=words):
            read_landmarks(file, films, ALL)
    np.savez(file, **{"fear/1": np.array([{}])})
    with pytest.raises(DferError, match=r"marks.npz: not an .npz of landmarks that can be read"):
        read_landmarks(file, films, ALL)
    whole = tmp_path / "whole.npz"
    np.savez(whole, **{"fear/1": points()})
    for content in (b"", b"PK nonsense", whole.read_bytes()[:-500]):
        file.write_bytes(content)
        with pytest.raises(DferError, match=r"marks.npz: not an .npz"):
            read_landmarks(file, films, ALL)
    np.save(tmp_path / "one.npy", points())
    with pytest.raises(DferError, match=r"one.npy: one array"):
        read_landmarks(tmp_path / "one.npy", films, ALL)
    with pytest.raises(DferError, match=r"no.npz: no such file"):
        read_landmarks(tmp_path / "no.npz", films, ALL)


def test_missing_clips_and_frames_are_counted(tmp_path: Path, films: VideoClips) -> None:
    some = points()
    some[3:5, 7] = np.nan
    np.savez(tmp_path / "marks.npz", **{"fear/1": some, "anger/4": points() + np.nan, "elsewhere": points(3)})
    found = read_landmarks(tmp_path / "marks.npz", films, ALL)
    told = found.report(films.names)
    assert told == "landmarks: 1 of 4 clips to train on have some, 3 have none; 22 of 40 frames have none"
    assert np.isnan(found.points["fear/1"][3]).all()
    np.savez(tmp_path / "marks.npz", **{"fear/1": points() + np.nan})
    with pytest.raises(DferError, match="none of the 4 clips to train on has any"):
        read_landmarks(tmp_path / "marks.npz", films, ALL).report(films.names)


def test_frames_have_their_own_landmarks_however_they_are_drawn(films: VideoClips) -> None:
    marks = np.repeat(np.arange(20, dtype=np.float32)[:, None, None] / 20, 68, axis=1).repeat(2, axis=2)
    clips = LandmarkedClips(films, np.array([2, 1]), Landmarks({films.names[1]: marks}))
    for seed in (None, 0, 1, 2):
        frames, found = clips.traced(1, None if seed is None else np.random.default_rng(seed))
        assert found is not None
        assert np.array_equal(np.rint(found[:, 0, 0] * 20), frames[:, 0, 0, 0] // 10)
        plain = films.frames(1, None if seed is None else np.random.default_rng(seed))
        assert np.array_equal(frames, plain)
    assert clips.traced(0)[1] is None


def test_a_video_that_ends_early_keeps_frames_and_landmarks_together(tmp_path: Path) -> None:
    if not (video := Path(__file__).parents[4] / "shared/data/videos/no_face.mp4").is_file():
        pytest.skip("no shared data here")
    (tmp_path / "train/fear").mkdir(parents=True)
    (tmp_path / "train/fear/film.mp4").symlink_to(video)
    films = load_clips("folder", tmp_path, "train")  # announces 98 frames, and has 95
    assert films.has_frames(0, 95)
    assert not films.has_frames(0, 96)
    assert sum(1 for _ in films.every_frame(0)) == 95
    assert films.numbered(0)[1][-1] < 95


def test_the_detector_finds_five_points_and_nothing_in_noise() -> None:
    clips = ProceduralClips([3])
    detector = LandmarkDetector()
    found = np.stack([detector.find(frame) for frame in clips.frames(0)])
    assert found.shape == (16, 5, 2)
    assert np.isfinite(found).all()
    assert (found[:, 0, 0] < found[:, 1, 0]).all()
    assert np.isnan(detector.find(np.full((64, 64, 3), 90, np.uint8))).all()


def test_what_was_found_is_kept_and_an_interrupted_search_goes_on(tmp_path: Path) -> None:
    clips = FilmedNoise(4)
    clips.fails_at = 2
    with pytest.raises(KeyboardInterrupt):
        find_landmarks(clips, ALL, tmp_path, None, workers=1)
    (store,) = tmp_path.iterdir()
    done = sorted(file.name for file in store.iterdir())
    assert done[:2] == ["000000.npy", "000001.npy"]
    assert set(done) <= {"000000.npy", "000001.npy", "000003.npy"}  # whole ones only
    clips.fails_at, clips.reads = -1, 0
    found = find_landmarks(clips, ALL, tmp_path, None, workers=1)
    assert clips.reads == 4 - len(done)
    assert all(points.shape == (16, 5, 2) for points in found.points.values())
    with pytest.raises(DferError, match="none of the 4 clips"):
        found.report(clips.names)
    file = store / "000001.npy"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(DferError, match=r"000001.npy: damaged .*; remove it"):
        find_landmarks(clips, ALL, tmp_path, None)
    assert len(list(tmp_path.iterdir())) == 1
    clips.fingerprint = "other pixels"
    find_landmarks(clips, ALL[:1], tmp_path, None)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_no_landmark_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"landmark_model: .*none.tflite: no such file"):
        LandmarkDetector(tmp_path / "none.tflite")
    for content in (b"", b"not a model" * 30):
        (tmp_path / "bad.tflite").write_bytes(content)
        with pytest.raises(ParameterError, match=r"bad.tflite is no model of 468 landmarks that OpenCV reads"):
            LandmarkDetector(tmp_path / "bad.tflite")


def test_mediapipes_model_finds_the_drawn_faces_features() -> None:
    spec = importlib.util.find_spec("mediapipe")
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    model = next((path for place in places for path in place.glob("modules/face_landmark/face_landmark.tflite")), None)
    if model is None:
        pytest.skip("mediapipe 0.10.21 is not installed, whose wheel has the model")
    clips, detector = ProceduralClips([3]), LandmarkDetector(model)
    for index in (0, 2, 4):
        frame, drawn = clips.frames(index)[8], clips.landmarks[clips.names[index]][8]
        found = detector.find(frame)
        assert np.abs(found - drawn)[17:].mean() < 0.05
        flipped = detector.find(np.ascontiguousarray(frame[:, ::-1]))
        assert np.abs(found - ((flipped * (-1, 1) + (1, 0))[IBUG.mirror])).mean() < 0.02

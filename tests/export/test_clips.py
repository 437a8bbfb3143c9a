"""Calibration faces from a training data set: its training clips are measured, its test clips judge."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from networks import random_crops, small_vit

from dfer.export import ExportOptions
from dfer.export.clips import FRAMES, read_faces
from dfer.export.command import main as export
from dfer.export.exporting import ExportResult, export_method
from dfer.runtime.bundle import DEMO, Bundle
from dfer.runtime.errors import DferError
from dfer.train.data.choice import DataChoice

TRAIN, TEST = 12, 5


@pytest.fixture(scope="module")
def dfew(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DFEW as its authors release it, fold 2, of blurred noise."""
    root = tmp_path_factory.mktemp("dfew") / "DFEW"
    crops = iter(random_crops(10 * (TRAIN + TEST)))
    for split, numbers in (("train", range(TRAIN)), ("test", range(TRAIN, TRAIN + TEST))):
        folder = root / "EmoLabel_DataSplit" / f"{split}(single-labeled)"
        folder.mkdir(parents=True)
        lines = [f"{number},{1 + number % 7}" for number in numbers]
        (folder / "set_2.csv").write_text("\n".join(["video_name,label", *lines]))
        for number in numbers:
            clip = root / "Clip/clip_224x224" / f"{number:05}"
            clip.mkdir(parents=True)
            for frame in range(10):
                cv2.imwrite(str(clip / f"{frame}.png"), next(crops))
    return root


def chosen(root: Path, fold: int = 2) -> DataChoice:
    return DataChoice("dfew", root, fold, None, max_missing=0.01, identities=0, workers=1)


def test_training_clips_are_measured_and_test_clips_judge(dfew: Path) -> None:
    measured, kept = read_faces(chosen(dfew), 24, 40, lambda _: None)
    assert measured.frames.shape == (TRAIN * FRAMES, 24, 24, 3) and measured.frames.dtype == np.uint8
    assert kept.lengths == (FRAMES,) * TEST
    assert kept.labels[:2] == ("disgust", "fear")  # numbers 6 and 7 of DFEW's own order
    assert kept.windows(16).shape == (TEST, 16)


def test_of_many_clips_some_are_taken_from_the_first_to_the_last(dfew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.export.clips.MAXIMUM", 2 * FRAMES)
    measured, kept = read_faces(chosen(dfew), 24, 40, lambda _: None)
    assert measured.lengths == kept.lengths == (FRAMES,) * 2
    assert measured.labels == ("happiness", "surprise")  # numbers 0 and 11
    assert kept.labels == ("disgust", "neutral")  # numbers 12 and 16


def test_large_crops_are_measured_as_they_are(dfew: Path, tmp_path: Path) -> None:
    shutil.copytree(dfew, tmp_path / "DFEW")
    large = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    for number in range(10):
        cv2.imwrite(str(tmp_path / "DFEW/Clip/clip_224x224/00000" / f"{number}.png"), large[:, :, ::-1])
    measured, _ = read_faces(chosen(tmp_path / "DFEW"), 224, 40, lambda _: None)
    np.testing.assert_array_equal(measured.frames[0], large)


def test_an_export_warns_of_clips_that_a_data_set_lacks(
    dfew: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(dfew, tmp_path / "DFEW")
    for number in (1, TRAIN):  # a training clip and a test clip
        shutil.rmtree(tmp_path / "DFEW/Clip/clip_224x224" / f"{number:05}")
    data = DataChoice("dfew", tmp_path / "DFEW", 2, max_missing=0.3, workers=1)
    traced = ExportResult(Bundle.open(DEMO), {}, {}, warnings=("of the graph",))
    monkeypatch.setattr("dfer.export.exporting.trace_method", lambda *_: None)
    monkeypatch.setattr("dfer.export.exporting.export_traced", lambda *_: traced)
    result = export_method(small_vit(), tmp_path / "x.dfer", {}, ExportOptions(faces=data, minimum=40))
    measured, kept, of_graph = result.warnings
    assert "00001" in measured and "00012" in kept and of_graph == "of the graph"


def test_videos_are_sampled_as_the_bundle_will_sample_them(face_video: Path, tmp_path: Path) -> None:
    options = ExportOptions(faces=face_video.parent, minimum=13, fps=4)
    with pytest.raises(DferError, match="12 frames with a face"):  # in three seconds
        export_method(small_vit(), tmp_path / "x.dfer", {}, options)


def test_few_clips_and_a_wrong_place_are_refused(dfew: Path, tmp_path: Path) -> None:
    with pytest.raises(DferError, match=r"^minimum: 68 frames with a face in dfew, fold 2 in .*, 500 are needed"):
        read_faces(chosen(dfew), 24, 500, lambda _: None)
    with pytest.raises(DferError, match="no annotations"):
        read_faces(chosen(dfew, fold=1), 24, 40, lambda _: None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--calib", "mafw"], "--calib mafw needs --root"),
        (["--calib", "faces/", "--root", "MAFW"], "--root, --fold and --lists are for --calib dfew, ferv39k, mafw"),
        (["--fold", "2"], "--root, --fold and --lists are for --calib"),
        (["--calib", "dfew", "--root", "DFEW", "--lists", __file__], "py is one list; name the folder of the lists"),
        (["--int8"], "--calib: INT8 needs videos or face crops"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, options: list[str], words: str) -> None:
    (tmp_path / "x.pt").write_bytes(b"")
    result = CliRunner().invoke(export, ["--ckpt", str(tmp_path / "x.pt"), *options])
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())

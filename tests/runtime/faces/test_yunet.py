"""YuNet's network: finds what OpenCV's own runner of it finds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dfer.runtime.faces import yunet
from dfer.runtime.faces.yunet import YuNet


@pytest.mark.parametrize(("width", "height"), [(640, 360), (321, 243), (160, 160), (200, 120)])
def test_it_finds_what_opencv_finds(face_frames: list[np.ndarray], tmp_path: Path, width: int, height: int) -> None:
    weights = tmp_path / "yunet.onnx"
    weights.write_bytes(yunet._weights())
    ours = YuNet()
    theirs = cv2.FaceDetectorYN.create(str(weights), "", (width, height), score_threshold=0.4)
    found = 0
    for frame in face_frames[:4]:
        image = cv2.resize(np.hstack([frame, frame[:, ::-1]]), (width, height), interpolation=cv2.INTER_AREA)
        rows, wanted = ours.find(image, 0.4), theirs.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        np.testing.assert_allclose(rows, np.zeros((0, 15)) if wanted is None else wanted, atol=1e-3)
        found += len(rows)
    assert found >= 4


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (33, 1)])
def test_pictures_a_pixel_high_or_wide_have_no_faces(shape: tuple[int, int]) -> None:
    assert YuNet().find(np.zeros((*shape, 3), np.uint8), 0.3).shape == (0, 15)

"""WebGPU on a GPU that the CPU computes: SwiftShader, which Chromium brings along."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dfer.runtime.labels import EXPRESSIONS
from helpers import rows_of, write_video

DRIVER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("onnxruntime_ep_webgpu") is None, reason="the plug-in is absent"),
    pytest.mark.skipif(not DRIVER.exists() or not ctypes.util.find_library("vulkan"), reason="no SwiftShader here"),
]


def test_rows_of_the_demo_model_are_those_of_the_cpu(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    clip = write_video(tmp_path / "short.mp4", face_frames[:24], 24)

    def run(provider: str) -> tuple[list[dict[str, str]], str]:
        table = tmp_path / f"{provider}.csv"
        command = [Path(sys.executable).with_name("dfer-run"), clip, "--csv", table, "--provider", provider]
        software = {"VK_DRIVER_FILES": str(DRIVER), "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1"}
        told = subprocess.run(
            [*map(str, command), "--precision", "fp32"],
            env=os.environ | software,
            capture_output=True,
            text=True,
            check=True,
        )
        return rows_of(table), told.stderr

    found, told = run("webgpu")
    wanted, _ = run("cpu")
    assert len(wanted) >= 8
    assert [(row["frame"], row["label"]) for row in found] == [(row["frame"], row["label"]) for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(
            [float(one[name]) for name in EXPRESSIONS], [float(other[name]) for name in EXPRESSIONS], atol=1e-3
        )
    assert "webgpu leaves Concat, Shape of encoder.fp32.onnx to the CPU" in told

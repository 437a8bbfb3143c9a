"""WebGPU on a GPU that the CPU computes: SwiftShader, which Chromium brings along."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dfer.runtime.bundle import DEMO
from dfer.runtime.labels import EXPRESSIONS
from helpers import rows_of, write_video

if TYPE_CHECKING:
    from dfer.export.graphs import TracedMethod
    from dfer.train.methods.align_dfer import AlignDfer

DRIVER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("onnxruntime_ep_webgpu") is None, reason="the plug-in is absent"),
    pytest.mark.skipif(not DRIVER.exists() or not ctypes.util.find_library("vulkan"), reason="no SwiftShader here"),
]


def rows_on(provider: str, clip: Path, bundle: Path) -> tuple[list[dict[str, str]], str]:
    """Rows of dfer-run in FP32, and what it printed beside them."""
    table = clip.with_name(f"{provider}.csv")
    command = [Path(sys.executable).with_name("dfer-run"), clip, "--csv", table, "--provider", provider]
    software = {"VK_DRIVER_FILES": str(DRIVER), "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1"}
    told = subprocess.run(
        [*map(str, command), "--bundle", str(bundle), "--precision", "fp32"],
        env=os.environ | software,
        capture_output=True,
        text=True,
        check=True,
    )
    return rows_of(table), told.stderr


def assert_rows_are_those_of_the_cpu(clip: Path, bundle: Path) -> str:
    found, told = rows_on("webgpu", clip, bundle)
    wanted, _ = rows_on("cpu", clip, bundle)
    assert len(wanted) >= 8
    assert [(row["frame"], row["label"]) for row in found] == [(row["frame"], row["label"]) for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(
            [float(one[name]) for name in EXPRESSIONS], [float(other[name]) for name in EXPRESSIONS], atol=1e-3
        )
    return told


@pytest.fixture
def clip(face_frames: list[np.ndarray], tmp_path: Path) -> Path:
    return write_video(tmp_path / "short.mp4", face_frames[:24], 24)


def test_rows_of_the_demo_model_are_those_of_the_cpu(clip: Path) -> None:
    told = assert_rows_are_those_of_the_cpu(clip, DEMO)
    assert "webgpu leaves Concat, Shape of encoder.fp32.onnx to the CPU" in told


def test_rows_of_a_vit_are_those_of_the_cpu(clip: Path, vit: AlignDfer, traced: TracedMethod, tmp_path: Path) -> None:
    from dfer.export.exporting import export_traced
    from dfer.export.options import ExportOptions

    bundle = export_traced(vit, traced, None, tmp_path / "vit.dfer", {}, ExportOptions()).bundle
    assert_rows_are_those_of_the_cpu(clip, bundle.path)

"""dfer-doctor: what works is said to work, what does not is named, and nothing odd makes it fall over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dfer.runtime.bundle import DEMO
from dfer.runtime.cli import diagnosis
from dfer.runtime.cli.doctor import main
from dfer.runtime.engines import BACKENDS, ort
from dfer.runtime.machine import Machine


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)], env={"DFER_BUNDLE": ""})


def a_machine(**changes: object) -> Machine:
    known = {
        "system": "Linux 6.1 x86_64",
        "board": None,
        "cpu": "AMD Ryzen",
        "cores": 4,
        "threads": 8,
        "clock": None,
        "governor": None,
        "instructions": ("AVX2", "VNNI"),
        "memory": 16 << 30,
        "gpus": (),
        "l4t": None,
        "power_mode": None,
    }
    return Machine(**{**known, **changes})  # type: ignore[arg-type]


def test_the_page_tells_what_works_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = run("--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    states = {(line["section"], line["name"]): line for line in found["findings"]}
    assert states["providers", "cpu"]["state"] == "works"
    assert "ms per face" in states["providers", "cpu"]["text"]
    assert states["OpenCV", "FFmpeg"]["state"] == "works"
    assert states["bundle", str(DEMO)]["state"] == "works"
    assert "onnxruntime" in states["software", "packages"]["text"]
    assert states["cache", str(tmp_path / "dfer-edge")]["state"] == "works"
    assert found["healthy"] is True


def test_a_damaged_bundle_is_named_and_the_status_is_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "BACKENDS", {"cpu": BACKENDS["cpu"]})
    damaged = Path(shutil.copytree(DEMO, tmp_path / "damaged.dfer"))
    head = damaged / "head.fp32.onnx"
    head.write_bytes(head.read_bytes()[:-1] + b"!")
    result = run("--bundle", damaged)
    assert result.exit_code == 1
    assert "sha256 differs" in " ".join(result.output.split())
    assert "providers" in result.output  # the rest of the page is there


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("kill -ILL $$", "died of SIGILL"),
        ("exec sleep 5", "did not start"),
        ("echo libcudart.so.13 is missing >&2; exit 1", "libcudart.so.13 is missing"),
        ("exit 7", "status 7"),
    ],
)
def test_a_provider_that_ends_its_process_or_hangs_is_told(
    program: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    monkeypatch.setattr(diagnosis, "_PATIENCE", 0.5 if "sleep" in program else 60.0)
    monkeypatch.setattr("sys.executable", str(python))
    assert words in diagnosis._start(DEMO, "cuda")["error"]


def test_a_device_that_is_not_there_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr("onnxruntime.get_ep_devices", list)
    monkeypatch.setattr(ort, "_register_plugin", lambda _: None)
    started = {"openvino:npu": diagnosis._try(str(DEMO), "openvino:npu"), "cpu": {"text": ""}}
    (line,) = [one for one in diagnosis._providers(started) if one.name == "openvino:npu"]
    assert (line.state, line.text) == ("absent", "openvino:npu finds no NPU of a maker that it runs on; ask for cpu")
    started["openvino:gpu"] = {"absent": "it finds no GPU"}
    assert "the GPU is not used" in diagnosis._advice(a_machine(gpus=("NVIDIA L4",)), started, [])[0]


def test_odd_files_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "BACKENDS", {})
    video = tmp_path / "sys/class/video4linux"
    for name, content in (("video0", b"USB Camera\n"), ("video1", b"\xff\xfe"), ("video2", None)):
        (video / name).mkdir(parents=True)
        if content is not None:
            (video / name / "name").write_bytes(content)
    (video / "video1" / "index").write_text("1")
    (tmp_path / "proc").write_text("a file where a folder should be")
    found = diagnosis.examine(root=tmp_path)
    assert not found.healthy  # there is no CPU provider
    cameras = {line.name: line.text for line in found.findings if line.section == "cameras"}
    assert cameras == {"/dev/video0": "USB Camera", "/dev/video2": "unnamed"}


def test_a_gpu_of_another_maker_is_named_and_its_provider_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "BACKENDS", {})
    device = tmp_path / "sys/class/drm/renderD128/device"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x1002\n")
    (device / "uevent").write_text("DRIVER=amdgpu\n")
    found = diagnosis.examine(root=tmp_path)
    assert [line.text for line in found.findings if line.name == "GPU"] == ["AMD (amdgpu)"]
    assert "pip install 'dfer-edge[webgpu]'" in found.advice[0]
    for installed in ({"text": ""}, {"error": "no driver"}):
        assert not diagnosis._advice(a_machine(other_gpus=("v3d",)), {"webgpu": installed}, [])


@pytest.mark.parametrize(
    ("machine", "working", "words"),
    [
        (a_machine(cpu="Intel Core i7"), ["cpu"], "dfer-edge[openvino]"),
        (a_machine(gpus=("NVIDIA L4",)), ["cpu"], "the GPU is not used"),
        (a_machine(gpus=("NVIDIA L4",)), ["cpu", "webgpu"], "dfer-edge[tensorrt]"),
        (a_machine(board="NVIDIA Jetson Orin Nano"), ["cpu"], "python3-libnvinfer"),
        (a_machine(board="NVIDIA Jetson Orin", l4t="R36", power_mode="15W"), ["native-tensorrt"], "nvpmodel -m 0"),
        (a_machine(governor="powersave"), ["cpu"], "performance"),
        (a_machine(instructions=("AVX2",)), ["cpu"], "INT8"),
    ],
)
def test_advice_fits_the_machine(machine: Machine, working: list[str], words: str) -> None:
    advice = diagnosis._advice(machine, {name: {"text": ""} for name in working}, [])
    assert words in advice[0]


@pytest.mark.parametrize("finding", [("GStreamer", "not built in", "absent"), ("version", "does not load", "broken")])
def test_a_jetson_is_told_how_its_own_opencv_is_used(finding: tuple[str, str, diagnosis.State]) -> None:
    started = {"native-tensorrt": {"text": ""}}
    advice = diagnosis._advice(a_machine(board="NVIDIA Jetson Orin"), started, [diagnosis.Finding("OpenCV", *finding)])
    assert "pip uninstall opencv-python-headless, then pip install 'numpy<2'" in advice[0]


@pytest.mark.parametrize("changes", [{"instructions": ()}, {"instructions": ("AVX2",), "system": "Windows 11 AMD64"}])
def test_instructions_that_may_be_there_are_not_said_to_be_missing(changes: dict[str, object]) -> None:
    assert diagnosis._advice(a_machine(**changes), {"cpu": {"text": ""}}, []) == []


def test_a_machine_with_all_it_can_use_gets_no_advice() -> None:
    machine = a_machine(cpu="Intel Xeon", gpus=("NVIDIA L4",))
    started = {name: {"text": ""} for name in ("cpu", "openvino", "cuda")}
    assert diagnosis._advice(machine, started, []) == []

"""Finds out what works on this machine, what does not, and what to install for more speed.

Nothing here raises for missing features. Providers are started in separate processes, since an incompatible GPU
library may crash the process that loads it.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..engines import BACKENDS, find_backend
from ..engines.ort import OrtBackend
from ..errors import DferError, ParameterError
from ..machine import (
    ROOT,
    Machine,
    cache_folder,
    describe_machine,
    find_files,
    read_text,
    run_tool,
    versions,
)

State = Literal["works", "fact", "absent", "broken"]

_PATIENCE = 300  # seconds for a provider to start; TensorRT builds engines first
_RUNS = 20
_ON_OTHER_GPUS = {"webgpu", "openvino:gpu"}  # TensorRT and CUDA are faster on NVIDIA's


@dataclass(frozen=True)
class Finding:
    """One line of the page. state: "fact" is neither good nor bad, "absent" is an optional feature."""

    section: str
    name: str
    text: str
    state: State = "fact"


@dataclass(frozen=True)
class Examination:
    """healthy: the bundle runs and the CPU provider works. advice: sentences, the most useful first."""

    findings: Sequence[Finding]
    advice: Sequence[str]
    healthy: bool


def examine(bundle: Path | None = None, root: Path = ROOT) -> Examination:
    """Examine everything. bundle: None for the one shipped with the package. Takes seconds, more with TensorRT."""
    from ..bundle import DEMO

    machine = describe_machine(root)
    findings = [
        Finding("software", "packages", ", ".join(f"{name} {version}" for name, version in versions().items())),
        *_hardware(machine),
    ]
    started = {name: _start(DEMO, name) for name, backend in BACKENDS.items() if backend.is_present()}
    findings.extend(_providers(started))
    opencv = _opencv()
    findings.extend(opencv)
    findings.extend(_cameras(root))
    findings.append(checked := _bundle(bundle or DEMO, started if bundle is None else None))
    findings.append(_cache())
    healthy = checked.state == "works" and "error" not in started.get("cpu", {"error": ""})
    return Examination(findings, _advice(machine, started, opencv), healthy)


def start_provider(bundle: str, provider: str, module: str) -> None:
    """Print the result of `_try` as JSON; {} for a backend that is not registered when `module` is imported."""
    importlib.import_module(module)
    print(json.dumps(_try(bundle, provider) if provider in BACKENDS else {}))


def _try(bundle: str, provider: str) -> dict[str, Any]:
    """Return a backend's own description, else its precision and median milliseconds per face, or the error; "absent"
    if its plug-in has no device here."""
    backend = find_backend(provider)
    try:
        told = backend.start()
        return {"text": told} if told else _time_bundle(bundle, provider)
    except DferError as error:
        lacking = isinstance(backend, OrtBackend) and not backend.has_device()
        return {"absent" if lacking else "error": error.problem if isinstance(error, ParameterError) else str(error)}


def _time_bundle(bundle: str, provider: str) -> dict[str, Any]:
    from statistics import median
    from time import perf_counter

    import numpy as np

    from ..recognizer import Recognizer

    times = []
    with Recognizer(bundle, provider=provider) as recognizer:
        size = recognizer.bundle.manifest.preprocessing.size
        crop = np.zeros((1, size, size, 3), np.uint8)
        for _ in range(_RUNS):
            start = perf_counter()
            recognizer.encode(crop)
            times.append(1000 * (perf_counter() - start))
        manifest = recognizer.bundle.manifest
        told = f"{recognizer.precision}, {median(times):.1f} ms per face"
    return {
        "text": told,
        "bundle": f"{manifest.method}, {len(manifest.classes)} classes, {', '.join(manifest.precisions)}",
    }


def _start(bundle: Path, provider: str) -> dict[str, Any]:
    """Return what `start_provider` prints in a separate process; {"error": why} if that fails in any way.

    A backend registered by the running script exists only in this process, and is started in it.
    """
    module = type(BACKENDS[provider]).__module__
    program = "import sys; from dfer.runtime.cli.diagnosis import start_provider; start_provider(*sys.argv[1:])"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, str(bundle), provider, module],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"did not start within {_PATIENCE} s"}
    if done.returncode < 0:
        return {"error": f"the process died of {signal.Signals(-done.returncode).name}; reinstall its libraries"}
    try:
        found = dict(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        said = done.stderr.strip().splitlines()
        return {"error": said[-1] if said else f"ended with status {done.returncode}"}
    return found or _try(str(bundle), provider)


def _hardware(machine: Machine) -> list[Finding]:
    clock = "" if machine.clock is None else f", {machine.clock:.0f} MHz now"
    extra = f"; {', '.join(machine.instructions)}" if machine.instructions else ""
    cpu = f"{machine.cpu}: {machine.cores} physical cores, {machine.threads} threads{clock}{extra}"
    lines = {
        "system": machine.system,
        "board": machine.board,
        "CPU": cpu,
        "memory": None if machine.memory is None else f"{machine.memory / 1e9:.1f} GB",
        "GPU": _gpu(machine) or "none",
        "L4T": machine.l4t,
        "JetPack": run_tool("dpkg-query", "-W", "-f=${Version}", "nvidia-jetpack") if machine.l4t else None,
        "power mode": machine.power_mode,
        "governor": machine.governor,
    }
    return [Finding("machine", name, text) for name, text in lines.items() if text is not None]


def _gpu(machine: Machine) -> str:
    query = "name,driver_version,memory.total,compute_cap"
    told = run_tool("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader") if machine.gpus else None
    return "; ".join([*((told or "").splitlines() or machine.gpus), *machine.other_gpus])


def _providers(started: dict[str, dict[str, Any]]) -> list[Finding]:
    findings = []
    for name in BACKENDS:
        if name not in started:
            findings.append(Finding("providers", name, "not installed", "absent"))
        elif "absent" in started[name]:
            findings.append(Finding("providers", name, started[name]["absent"], "absent"))
        elif "error" in started[name]:
            findings.append(Finding("providers", name, started[name]["error"], "broken"))
        else:
            findings.append(Finding("providers", name, started[name]["text"], "works"))
    return findings


def _opencv() -> list[Finding]:
    """Return the version, and what this build supports; build information is free text, so patterns are loose."""
    try:
        import cv2
    except ImportError as error:
        return [Finding("OpenCV", "version", f"does not load: {error}", "broken")]
    information = cv2.getBuildInformation()
    findings = [Finding("OpenCV", "version", cv2.__version__, "works")]
    for name, pattern in (("FFmpeg", "FFMPEG"), ("V4L2", "v4l/v4l2"), ("GStreamer", "GStreamer"), ("window", "GUI")):
        match = re.search(rf"^ *{pattern}: *(.*)$", information, re.MULTILINE)
        told = match[1].strip() if match else ""
        there = bool(told) and not told.upper().startswith("NO")
        findings.append(Finding("OpenCV", name, told if there else "not built in", "works" if there else "absent"))
    return findings


def _cameras(root: Path) -> list[Finding]:
    findings = []
    for folder in find_files(root / "sys/class/video4linux", "video*"):
        if read_text(folder / "index") not in (None, "0"):
            continue  # a camera's second node delivers no images
        device, name = Path("/dev") / folder.name, read_text(folder / "name") or "unnamed"
        if root == ROOT and not os.access(device, os.R_OK | os.W_OK):
            why = f"{name}: no permission; run: sudo usermod -aG video $USER, and log in again"
            findings.append(Finding("cameras", str(device), why, "broken"))
        else:
            findings.append(Finding("cameras", str(device), name, "works"))
    return findings or [Finding("cameras", "none", "no camera is plugged in, or this system has no V4L2", "absent")]


def _bundle(path: Path, started: dict[str, dict[str, Any]] | None) -> Finding:
    """Check whether a bundle is valid and runs on the CPU. started: results of `_start` for it, if already known."""
    from ..bundle import Bundle

    found = _start(path, "cpu") if started is None else started.get("cpu", {"error": "there is no CPU provider"})
    if "error" not in found:
        try:
            Bundle.open(path).verify()
        except DferError as error:
            found = {"error": str(error)}
    if "error" in found:
        return Finding("bundle", str(path), found["error"], "broken")
    return Finding("bundle", str(path), f"{found['bundle']}; files verified; {found['text']} on the CPU", "works")


def _cache() -> Finding:
    try:
        folder = cache_folder()
        there = next(place for place in (folder, *folder.parents) if place.exists())
        used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding("cache", "folder", str(error), "broken")
    state: State = "works" if os.access(there, os.W_OK) else "broken"
    words = "" if state == "works" else "; no permission to write there"
    return Finding("cache", str(folder), f"{used / 1e6:.1f} MB used, {free / 1e9:.1f} GB free{words}", state)


def _advice(machine: Machine, started: dict[str, dict[str, Any]], opencv: Sequence[Finding]) -> list[str]:
    """Return what would make this machine faster."""
    working = {name for name, found in started.items() if "text" in found}
    on_nvidia = {name for name, backend in BACKENDS.items() if backend.device == "gpu"} - _ON_OTHER_GPUS
    jetson = machine.l4t is not None or "Jetson" in (machine.board or "")
    lacking = {finding.name for finding in opencv if finding.state in ("absent", "broken")}
    advice = []
    if jetson and "native-tensorrt" not in working:
        advice.append(
            "JetPack's TensorRT: sudo apt install python3-libnvinfer, and pip install cuda-bindings (or pycuda)"
        )
    elif machine.gpus and not working & on_nvidia:
        advice.append(
            "the GPU is not used: pip install 'dfer-edge[tensorrt]' (or [tensorrt-rtx] for RTX cards), or "
            "pip uninstall onnxruntime && pip install onnxruntime-gpu"
        )
    elif machine.other_gpus and not machine.gpus and not working & _ON_OTHER_GPUS and "webgpu" not in started:
        advice.append("the GPU is not used: pip install 'dfer-edge[webgpu]', which needs the GPU's Vulkan driver")
    if "Intel" in machine.cpu and "openvino" not in started:
        advice.append("OpenVINO, faster on most Intel CPUs: pip install 'dfer-edge[openvino]'")
    if jetson and lacking & {"GStreamer", "version"}:  # JetPack's needs NumPy 1
        advice.append(
            "CSI cameras need an OpenCV with GStreamer, JetPack's: pip uninstall opencv-python-headless, then "
            "pip install 'numpy<2'"
        )
    if jetson and machine.power_mode not in (None, "MAXN", "MAXN_SUPER"):
        advice.append(f"power mode is {machine.power_mode}: sudo nvpmodel -m 0, then sudo jetson_clocks")
    if machine.governor == "powersave":
        advice.append(
            "the CPU's governor is powersave: "
            "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        )
    known = machine.instructions and machine.system.startswith("Linux")  # the complete set
    if known and not {"VNNI", "AMX", "dot product", "I8MM"} & set(machine.instructions) and not machine.gpus:
        advice.append("this CPU has no instructions for INT8 products: an --int8 export may be no faster than fp32")
    if machine.memory is not None and machine.memory < 2e9:
        advice.append("less than 2 GB of memory: use models of ViT-B/32's size or smaller, in INT8")
    return advice

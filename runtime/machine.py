"""Describe this machine: cores, clocks, instruction sets, memory, GPUs, power mode, versions.

Most is read from files that Linux may or may not have; what cannot be determined is None or empty, never an error.
`root` is the folder that holds /proc and /sys, so that descriptions of other machines can be read, too.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path("/")

PACKAGES = (
    "dfer-edge",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-ep-openvino",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "onnxruntime-ep-webgpu",
    "opencv-python-headless",
    "opencv-python",
    "tensorrt",
    "tensorrt-rtx-cu13-libs",
    "cuda-bindings",
)
"""Distributions whose version affects speed or results."""

_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avxvnni": "VNNI",
    "avx512vnni": "VNNI",
    "avx512bf16": "BF16",
    "amxint8": "AMX",
    "asimd": "NEON",
    "asimddp": "dot product",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
}
"""Instruction sets that affect encoder speed: CPU flag (Linux's without underscores, NumPy's in lower case) → name."""

_MAKERS = {"0x1002": "AMD", "0x10de": "NVIDIA", "0x8086": "Intel"}
"""Makers of GPUs, by PCI number."""


@dataclass(frozen=True)
class Machine:
    """system: kernel and architecture. board: model of a Jetson or similar. cores: physical cores this process may use.

    threads: logical processors it may use. clock: current mean, MHz. memory: bytes. gpus: NVIDIA's.
    l4t: NVIDIA's Linux for Tegra. other_gpus: maker and driver of the others.
    """

    system: str
    board: str | None
    cpu: str
    cores: int
    threads: int
    clock: float | None
    governor: str | None
    instructions: tuple[str, ...]
    memory: int | None
    gpus: tuple[str, ...]
    l4t: str | None
    power_mode: str | None
    other_gpus: tuple[str, ...] = ()


def describe_machine(root: Path = ROOT) -> Machine:
    """Return a description of the machine as it is now."""
    memory = next((line.split()[1] for line in _lines(root / "proc/meminfo") if line.startswith("MemTotal:")), "")
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        board=board(root),
        cpu=cpu_model(root),
        cores=physical_cores(root),
        threads=len(_usable()),
        clock=_clock(root),
        governor=read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        instructions=instructions(root),
        memory=1024 * int(memory) if memory.isdecimal() else None,
        gpus=gpus(root),
        l4t=next(iter(_lines(root / "etc/nv_tegra_release")), "").lstrip("# ") or None,
        power_mode=_power_mode(),
        other_gpus=other_gpus(root),
    )


def default_threads(live: int, root: Path = ROOT) -> int:
    """Return the number of threads for an engine that runs beside `live` sources.

    All physical cores minus one per two readers, but at least half of them.
    """
    cores = physical_cores(root)
    return max(cores - live // 2, (cores + 1) // 2)


def default_workers(cores: int) -> int:
    """Return the number of worker processes for so many cores: one each, but at most 60 on Windows, an OS limit."""
    return min(cores, 60) if sys.platform == "win32" else cores


def follow_parent() -> None:
    """Ignore Ctrl-C and exit as soon as the parent process ends, however that happens. Call at the start of a worker
    process."""
    from multiprocessing import parent_process  # imported here to keep other commands' start fast

    def end() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end, daemon=True).start()


def physical_cores(root: Path = ROOT) -> int:
    """Return the physical cores this process may use: those in its affinity mask, within the cgroup's CPU quota."""
    siblings = {number: _siblings(root, number) for number in _usable()}
    cores = len({together or number for number, together in siblings.items()})
    if not any(siblings.values()):  # Windows, macOS
        import psutil

        cores = min(cores, psutil.cpu_count(logical=False) or cores)
    quota = _quota(root)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def cpu_model(root: Path = ROOT) -> str:
    """Return the processor's model name, or the architecture if it is not reported."""
    fields = _cpuinfo(root)
    return fields.get("model name") or fields.get("hardware") or platform.processor() or platform.machine()


def instructions(root: Path = ROOT) -> tuple[str, ...]:
    """Return the processor's instruction sets that affect encoder speed. If the system does not report them (Windows),
    they are those that NumPy detects: VNNI only with AVX-512, and no AMX."""
    fields = _cpuinfo(root)
    told = fields.get("flags") or fields.get("features")
    flags = _numpy_flags() if told is None else set(told.replace("_", "").split())
    return tuple(dict.fromkeys(name for flag, name in _INSTRUCTIONS.items() if flag in flags))


def board(root: Path = ROOT) -> str | None:
    """Return the model of a board that has a device tree: "NVIDIA Jetson Orin Nano Developer Kit"."""
    return read_text(root / "proc/device-tree/model")


def gpus(root: Path = ROOT) -> tuple[str, ...]:
    """Return the names of NVIDIA's GPUs; for a Jetson, the board's name."""
    files = find_files(root / "proc/driver/nvidia/gpus", "*/information")
    found = [line.partition(":")[2].strip() for file in files for line in _lines(file) if line.startswith("Model:")]
    if not found and root == ROOT:
        found = (run_tool("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "").splitlines()
    if not found and "Jetson" in (board(root) or ""):
        found = [f"{board(root)} (integrated)"]
    return tuple(found)


def other_gpus(root: Path = ROOT) -> tuple[str, ...]:
    """Return maker and driver of the GPUs that `gpus` does not name: "AMD (amdgpu)"; only a driver on boards: "v3d"."""
    named = {"0x10de", None} if gpus(root) else set()  # a Jetson's own has no maker, either
    found = []
    for node in find_files(root / "sys/class/drm", "renderD*"):
        vendor = read_text(node / "device/vendor")
        told = dict(line.split("=", 1) for line in _lines(node / "device/uevent") if "=" in line)
        driver = told.get("DRIVER", "unknown driver")
        if vendor not in named:
            found.append(driver if vendor is None else f"{_MAKERS.get(vendor, 'unknown maker')} ({driver})")
    return tuple(found)


def versions() -> dict[str, str]:
    """Return Python's version and those of the installed `PACKAGES`."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cache_folder() -> Path:
    """Return the folder for data kept between runs: $XDG_CACHE_HOME/dfer-edge, else ~/.cache/dfer-edge; a
    relative XDG_CACHE_HOME is ignored.

    It need not exist. Raises OSError when this user has no home.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        base = named if named.is_absolute() else Path("~/.cache").expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(errno.ENOENT, "no home folder for a cache; set XDG_CACHE_HOME", "~") from error
    return base / "dfer-edge"


def run_tool(name: str, *arguments: str) -> str | None:
    """Return a program's stripped output; None when it is missing, fails, prints nothing, or takes over ten seconds."""
    if shutil.which(name) is None:
        return None
    try:
        done = subprocess.run([name, *arguments], capture_output=True, text=True, errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _usable() -> list[int]:
    """Return the logical processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _siblings(root: Path, number: int) -> str | None:
    """Return the logical processors sharing a core with this one: "0,4". Core numbers are not unique on every board."""
    topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
    return read_text(topology / "core_cpus_list") or read_text(topology / "thread_siblings_list")  # before Linux 5.3


def _numpy_flags() -> set[str]:
    for core in ("numpy._core", "numpy.core"):  # NumPy 2, NumPy 1
        with suppress(ImportError, AttributeError):
            found = importlib.import_module(f"{core}._multiarray_umath").__cpu_features__
            return {name.lower() for name, there in found.items() if there}
    return set()


def _quota(root: Path) -> float | None:
    """Return the CPU quota, in processors, of this process's cgroups, version 2 or 1; None for no limit."""
    found = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, place = [*line.split(":", 2), "", ""][:3]
        mount = root / "sys/fs/cgroup"
        if controllers:
            if "cpu" not in controllers.split(","):
                continue
            mount = mount / "cpu"
        folder = mount / place.lstrip("/")
        for group in (folder, *folder.parents):
            limit = read_text(group / "cpu.max") or (
                f"{read_text(group / 'cpu.cfs_quota_us')} {read_text(group / 'cpu.cfs_period_us')}"
            )
            quota, _, period = limit.partition(" ")
            if quota.isdecimal() and period.isdecimal() and int(period) > 0:
                found.append(int(quota) / int(period))
            if group == mount:
                break
    return min(found, default=None)


def _clock(root: Path) -> float | None:
    files = [root / f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq" for number in _usable()]
    told = [text for text in map(read_text, files) if text is not None and text.isdecimal()]
    if told:
        return round(sum(map(int, told)) / len(told) / 1000, 1)
    try:
        return float(_cpuinfo(root).get("cpu mhz", ""))
    except ValueError:
        return None


def _cpuinfo(root: Path) -> dict[str, str]:
    """Return the first processor's fields, names in lower case."""
    fields: dict[str, str] = {}
    for line in _lines(root / "proc/cpuinfo"):
        name, separator, value = line.partition(":")
        if separator:
            fields.setdefault(name.strip().lower(), value.strip())
    return fields


def _power_mode() -> str | None:
    """Return a Jetson's power mode: "15W"."""
    told = run_tool("nvpmodel", "-q") or ""
    return next((line.partition(":")[2].strip() for line in told.splitlines() if "Power Mode:" in line), None)


def _lines(path: Path) -> Iterator[str]:
    yield from (read_text(path) or "").splitlines()


def read_text(path: Path) -> str | None:
    """Return a small text file without surrounding whitespace and zero bytes; None if it is empty or cannot be read."""
    try:
        return path.read_bytes().decode(errors="replace").strip(" \n\t\0") or None
    except (OSError, ValueError):
        return None


def find_files(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def give_back_large_blocks() -> None:
    """Make glibc return freed blocks of a megabyte and more to the system at once; elsewhere, do nothing.

    By default it keeps image memory for each thread that ever read one, which grows with the number of files.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD

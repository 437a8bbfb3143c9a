"""What the machine says of itself, whatever its files hold."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfer.runtime.machine import (
    cache_folder,
    default_threads,
    default_workers,
    describe_machine,
    gpus,
    instructions,
    physical_cores,
    run_tool,
    versions,
)

CPU = "sys/devices/system/cpu"


def lay_out(root: Path, **files: str) -> Path:
    """Files of a machine that is not here; names with "__" for "/"."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def processors(root: Path, monkeypatch: pytest.MonkeyPatch, cores: list[int], file: str = "core_cpus_list") -> None:
    """Logical processors on these cores, all of which may be used. All cores call themselves 0, as those of different
    clusters do."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(len(cores))), raising=False)
    for number, core in enumerate(cores):
        folder = root / CPU / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / file).write_text(",".join(str(other) for other, its in enumerate(cores) if its == core) + "\n")
        for name in ("core_id", "physical_package_id"):
            (folder / name).write_text("0\n")


@pytest.mark.parametrize("file", ["core_cpus_list", "thread_siblings_list"])
def test_hyper_threads_of_one_core_count_once(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processors(tmp_path, monkeypatch, [0, 1, 2, 3, 0, 1, 2, 3], file)
    assert physical_cores(tmp_path) == 4


def test_hyper_threads_count_once_where_the_system_has_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Windows and macOS."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8 if logical else 4)
    assert physical_cores(tmp_path) == 4


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc__self__cgroup": "0::/user/box\n", "sys__fs__cgroup__user__cpu.max": "150000 100000\n"}, 2),
        ({"proc__self__cgroup": "0::/user/box\n", "sys__fs__cgroup__user__box__cpu.max": "max 100000\n"}, 4),
        (
            {
                "proc__self__cgroup": "0::/pod/box\n",
                "sys__fs__cgroup__pod__cpu.max": "300000 100000\n",
                "sys__fs__cgroup__pod__box__cpu.max": "100000 100000\n",
            },
            1,
        ),
        (
            {
                "proc__self__cgroup": "9:name=systemd:/\n4:cpu,cpuacct:/box\n",
                "sys__fs__cgroup__cpu__box__cpu.cfs_quota_us": "300000",
                "sys__fs__cgroup__cpu__box__cpu.cfs_period_us": "100000",
            },
            3,
        ),
        (
            {
                "proc__self__cgroup": "4:cpu:/\n",
                "sys__fs__cgroup__cpu__cpu.cfs_quota_us": "-1",
                "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000",
            },
            4,
        ),
    ],
)
def test_the_quota_of_a_container_limits_the_cores(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processors(tmp_path, monkeypatch, [0, 1, 2, 3])
    lay_out(tmp_path, **files)
    assert physical_cores(tmp_path) == cores


def test_readers_of_live_sources_get_cores_but_never_more_than_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processors(tmp_path, monkeypatch, [0, 1, 2, 3])
    assert [default_threads(live, tmp_path) for live in (0, 1, 2, 4, 16)] == [4, 4, 3, 2, 2]
    processors(tmp_path / "one", monkeypatch, [0])
    assert default_threads(8, tmp_path / "one") == 1


def test_windows_has_no_more_workers_than_it_can_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    assert [default_workers(cores) for cores in (8, 96)] == [8, 60]
    monkeypatch.setattr("sys.platform", "linux")
    assert default_workers(96) == 96


def test_a_jetson_is_known_by_its_device_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvpmodel").write_text("#!/bin/sh\necho NV Power Mode: 15W\necho 0\n")
    (tmp_path / "nvpmodel").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    lay_out(
        tmp_path,
        **{
            "proc__device-tree__model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "proc__cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\n",
            "proc__meminfo": "MemTotal:        7802240 kB\n",
            "etc__nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081\n",
            "sys__devices__system__cpu__cpu0__cpufreq__scaling_governor": "schedutil\n",
            "sys__devices__system__cpu__cpu0__cpufreq__scaling_cur_freq": "1510400\n",
        },
    )
    found = describe_machine(tmp_path)
    assert found.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found.gpus == ("NVIDIA Jetson Orin Nano Developer Kit (integrated)",)
    assert found.instructions == ("NEON", "dot product")
    assert (found.memory, found.governor, found.clock) == (7802240 * 1024, "schedutil", 1510.4)
    assert found.l4t is not None
    assert found.l4t.startswith("R36")
    assert found.power_mode == "15W"


def test_a_processor_is_known_by_its_model_and_its_clock(tmp_path: Path) -> None:
    told = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Intel(R) Core(TM) i5-8250U\ncpu MHz\t\t: 1800.250\n"
    found = describe_machine(lay_out(tmp_path, proc__cpuinfo=told))
    assert (found.cpu, found.clock) == ("Intel(R) Core(TM) i5-8250U", 1800.25)


def test_numpy_tells_the_instructions_where_the_system_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    core = importlib.import_module(f"numpy.{'_' * (np.__version__ >= '2')}core._multiarray_umath")
    monkeypatch.setattr(core, "__cpu_features__", {"AVX2": True, "AVX512VNNI": True, "AVX512F": False, "ASIMD": False})
    assert instructions(tmp_path) == ("AVX2", "VNNI")


def test_gpus_are_named_by_the_driver(tmp_path: Path) -> None:
    lay_out(tmp_path, **{"proc__driver__nvidia__gpus__0000:01:00.0__information": "Model: \t\t NVIDIA L4\nIRQ: 5\n"})
    assert gpus(tmp_path) == ("NVIDIA L4",)


def test_gpus_of_any_maker_are_named_by_maker_and_driver_and_nvidia_s_only_once(tmp_path: Path) -> None:
    nodes = {"renderD128": ("0x1002\n", "amdgpu"), "renderD129": (None, "v3d"), "renderD130": ("0x10de\n", "nvidia")}
    for node, (vendor, driver) in nodes.items():
        if vendor is not None:
            lay_out(tmp_path, **{f"sys__class__drm__{node}__device__vendor": vendor})
        lay_out(tmp_path, **{f"sys__class__drm__{node}__device__uevent": f"DRIVER={driver}\nPCI_CLASS=30000\n"})
    assert describe_machine(tmp_path).other_gpus == ("AMD (amdgpu)", "v3d", "NVIDIA (nvidia)")
    lay_out(tmp_path, **{"proc__driver__nvidia__gpus__0000:01:00.0__information": "Model: \t\t NVIDIA L4\n"})
    assert describe_machine(tmp_path).other_gpus == ("AMD (amdgpu)",)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(content=st.binary(max_size=80))
def test_nonsense_in_the_files_is_no_error(content: bytes, tmp_path: Path) -> None:
    names = ("proc/cpuinfo", "proc/meminfo", "proc/self/cgroup", "proc/device-tree/model", "etc/nv_tegra_release")
    for name in (*names, f"{CPU}/cpu0/topology/core_cpus_list", f"{CPU}/cpu0/cpufreq/scaling_cur_freq"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    found = describe_machine(tmp_path)
    assert found.cores >= 1


def test_this_machine_is_described() -> None:
    found = describe_machine()
    assert 1 <= found.cores <= found.threads
    assert found.cpu
    assert "onnxruntime" in versions()


def test_a_tool_that_is_absent_or_fails_says_nothing() -> None:
    assert run_tool("no-such-tool-here") is None
    assert run_tool("false") is None
    assert run_tool("echo", "15W") == "15W"


def test_the_cache_lies_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dfer-edge"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")  # to be ignored, says the specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "dfer-edge"

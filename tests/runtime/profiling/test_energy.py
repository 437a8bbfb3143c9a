"""Joules of machines that tell, from files as their kernels lay them out."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from itertools import count
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from types import ModuleType

import pytest

from dfer.runtime.profiling.energy import EnergyMeter, Sensor, find_sensors


def lay_out(root: Path, folder: str, **files: object) -> None:
    for name, content in files.items():
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def test_rapl_gives_packages_and_memory_and_nothing_twice(tmp_path: Path) -> None:
    base = "sys/class/powercap"
    lay_out(
        tmp_path, f"{base}/intel-rapl:0", name="package-0", energy_uj=5_000_000, max_energy_range_uj=262_143_000_000
    )
    lay_out(tmp_path, f"{base}/intel-rapl:0:0", name="core", energy_uj=3_000_000, max_energy_range_uj=1)
    lay_out(tmp_path, f"{base}/intel-rapl:0:1", name="dram", energy_uj=1_000_000, max_energy_range_uj=1)
    lay_out(tmp_path, f"{base}/intel-rapl:1", name="psys", energy_uj=9_000_000, max_energy_range_uj=1)
    sensors, reasons = find_sensors(tmp_path)
    assert {sensor.name: sensor.read() for sensor in sensors} == {"RAPL package-0": 5.0, "RAPL dram of 0": 1.0}
    assert sensors[0].wraps == pytest.approx(262_143)
    assert not reasons


def test_the_rail_that_feeds_a_jetson_stands_for_the_others(tmp_path: Path) -> None:
    rails = {"in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": 1200}
    lay_out(tmp_path, "sys/class/hwmon/hwmon1", name="ina3221", **rails)
    lay_out(tmp_path, "sys/class/hwmon/hwmon1", in2_label="VDD_CPU_GPU_CV", in2_input=5000, curr2_input=400)
    lay_out(tmp_path, "sys/class/hwmon/hwmon0", name="coretemp", in1_label="VDD_IN")
    (sensor,) = find_sensors(tmp_path)[0]
    assert (sensor.name, sensor.counts, sensor.read()) == ("INA3221 VDD_IN", False, pytest.approx(6.0))


def test_without_such_a_rail_all_of_them_count(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221x/1-0040/iio:device0"
    lay_out(tmp_path, folder, rail_name_0="GPU", in_power0_input=1500, rail_name_1="CPU", in_power1_input=500)
    assert {sensor.name: sensor.read() for sensor in find_sensors(tmp_path)[0]} == {
        "INA3221 GPU": pytest.approx(1.5),
        "INA3221 CPU": pytest.approx(0.5),
    }


def test_a_sensor_that_does_not_answer_is_told(tmp_path: Path) -> None:
    lay_out(tmp_path, "sys/class/powercap/intel-rapl:0", name="package-0", energy_uj="?")
    sensors, reasons = find_sensors(tmp_path)
    assert not sensors
    assert "package-0" in reasons[0]


def test_a_machine_that_tells_nothing_has_no_sensors(tmp_path: Path) -> None:
    assert find_sensors(tmp_path) == ([], [])


def test_counters_are_followed_around_and_watts_over_time() -> None:
    readings = list[float]()

    def read() -> float:
        readings.append((90.0 + 4 * len(readings)) % 100)  # 4 J at each reading
        return readings[-1]

    around = Sensor("counter", True, read, wraps=100.0)
    steady = Sensor("power", False, lambda: 20.0)
    begun = monotonic()
    with EnergyMeter([around, steady]) as meter:
        while len(readings) < 4:
            sleep(0.01)
    spent = monotonic() - begun
    assert meter.joules["counter"] == pytest.approx(4 * (len(readings) - 1))
    assert 20 * 0.29 < meter.joules["power"] <= 20 * spent


def test_a_sensor_that_stops_answering_is_dropped() -> None:
    turns, gone = count(), Event()

    def read() -> float:
        if next(turns) > 1:
            gone.set()
            raise OSError("gone")
        return 1.0

    with EnergyMeter([Sensor("gone", False, read), Sensor("there", False, lambda: 1.0)]) as meter:
        assert gone.wait(60)
    assert list(meter.joules) == ["there"]


class Nvml(ModuleType):
    """pynvml of a machine with a GPU that counts joules and one that only knows its power."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.__spec__ = ModuleSpec("pynvml", None)

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if handle:
            raise self.NVMLError("Not Supported")
        return 7_000

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 30_000


def test_nvml_gives_joules_where_the_gpu_counts_them_and_watts_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    found = {sensor.name: (sensor.counts, sensor.read()) for sensor in find_sensors()[0]}
    assert (found["NVML GPU 0"], found["NVML GPU 1"]) == ((True, 7.0), (False, 30.0))

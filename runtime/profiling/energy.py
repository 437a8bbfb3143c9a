"""Energy, if the machine measures it: Intel's and AMD's RAPL, the INA3221 monitors of Jetsons, NVIDIA's NVML.

RAPL counts joules of the processor and its memory, a Jetson's monitors report watts of the whole module, NVML joules
(or watts) of each GPU. All figures are for the whole machine, idle parts included, not for this process alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any

from ..machine import ROOT, find_files, gpus, read_text

_PERIOD = 0.1  # seconds between two readings; RAPL's counters take at least tens of seconds to wrap around
_WHOLE_MODULE = ("VDD_IN", "POM_5V_IN")
"""Rails of Jetsons that feed all others, which are then parts of it."""


@dataclass(frozen=True)
class Sensor:
    """read: joules so far if `counts`, else watts now; raises OSError or ValueError if the sensor does not respond.

    wraps: joules at which a counter wraps around; 0 for never.
    """

    name: str
    counts: bool
    read: Callable[[], float]
    wraps: float = 0.0


def find_sensors(root: Path = ROOT) -> tuple[list[Sensor], list[str]]:
    """Return working sensors that do not overlap, and the reasons why others do not work."""
    reasons: list[str] = []
    found = [*_rapl(root), *_jetson(root), *(_nvml(reasons) if root == ROOT else [])]
    sensors = []
    for sensor in found:
        try:
            sensor.read()
        except PermissionError as error:
            reasons.append(f"{sensor.name}: only root may read it; run: sudo chmod a+r {error.filename}")
        except (OSError, ValueError) as error:
            reasons.append(f"{sensor.name}: does not answer ({error})")
        else:
            sensors.append(sensor)
    return sensors, reasons


class EnergyMeter:
    """Integrates sensor readings while it is entered; a thread reads them ten times a second.

    joules: by sensor, complete after exit; sensors that stop responding are dropped.
    """

    def __init__(self, sensors: list[Sensor]) -> None:
        self.joules = {sensor.name: 0.0 for sensor in sensors}
        self._sensors = sensors
        self._left = Event()
        self._thread = Thread(target=self._follow, name="energy meter", daemon=True)

    def __enter__(self) -> EnergyMeter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _follow(self) -> None:
        last: dict[str, tuple[float, float]] = {}
        done = False
        while not done:
            done = self._left.is_set()  # read once more after that, to include the end
            for sensor in self._sensors:
                if sensor.name in self.joules:
                    try:
                        now, value = monotonic(), sensor.read()
                    except (OSError, ValueError):
                        del self.joules[sensor.name]
                        continue
                    if sensor.name in last:
                        self.joules[sensor.name] += _spent(sensor, last[sensor.name], (now, value))
                    last[sensor.name] = now, value
            if not done:
                self._left.wait(_PERIOD)


def _spent(sensor: Sensor, before: tuple[float, float], after: tuple[float, float]) -> float:
    """Return the joules between two readings (seconds, value); watts by the trapezoidal rule."""
    if sensor.counts:
        grown = after[1] - before[1]
        return grown if grown >= 0 else grown + sensor.wraps
    return (after[0] - before[0]) * (before[1] + after[1]) / 2


def _rapl(root: Path) -> list[Sensor]:
    """Return sensors for packages and their memory; cores and graphics are parts of packages, psys is their sum."""
    sensors = []
    for folder in find_files(root / "sys/class/powercap", "intel-rapl:*"):
        name = read_text(folder / "name") or ""
        if name.startswith("package") or name == "dram":
            wraps = read_text(folder / "max_energy_range_uj") or ""
            label = f"RAPL {name}" if name != "dram" else f"RAPL dram of {folder.name.split(':')[1]}"
            read = _number(folder / "energy_uj", 1e-6)
            sensors.append(Sensor(label, True, read, 1e-6 * int(wraps) if wraps.isdecimal() else 0.0))
    return sensors


def _jetson(root: Path) -> list[Sensor]:
    """Return the rails of INA3221 monitors, through hwmon (JetPack 5 and later) or iio (before)."""
    rails: dict[str, Callable[[], float]] = {}
    for folder in find_files(root / "sys/class/hwmon", "hwmon*"):
        if read_text(folder / "name") == "ina3221":
            for file in find_files(folder, "in[123]_label"):
                channel = file.name[2]
                volts = _number(folder / f"in{channel}_input", 1e-3)
                amperes = _number(folder / f"curr{channel}_input", 1e-3)
                rails.setdefault(read_text(file) or file.name, _product(volts, amperes))
    for file in find_files(root / "sys/bus/i2c/drivers/ina3221x", "*/iio:device*/rail_name_*"):
        channel = file.name.removeprefix("rail_name_")
        rails.setdefault(read_text(file) or file.name, _number(file.with_name(f"in_power{channel}_input"), 1e-3))
    rails = {name: read for name, read in rails.items() if not name.startswith("sum of")}
    whole = {name: rails[name] for name in _WHOLE_MODULE if name in rails}
    return [Sensor(f"INA3221 {name}", False, read) for name, read in (whole or rails).items()]


def _number(file: Path, unit: float) -> Callable[[], float]:
    return lambda: unit * int(file.read_text(encoding="ascii"))


def _product(volts: Callable[[], float], amperes: Callable[[], float]) -> Callable[[], float]:
    return lambda: volts() * amperes()


def _nvml(reasons: list[str]) -> list[Sensor]:
    if importlib.util.find_spec("pynvml") is None:
        if gpus():
            reasons.append("NVML: for the GPU's energy run: pip install nvidia-ml-py")
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        reasons.append(f"NVML: {error}")
        return []
    return [_gpu(pynvml, number, handle) for number, handle in enumerate(handles)]


def _gpu(pynvml: Any, number: int, handle: Any) -> Sensor:
    """Return a sensor of joules if the GPU counts them (Volta and later), else of watts."""

    def ask(question: Callable[[Any], int]) -> float:
        try:
            return question(handle) / 1000  # millijoules, milliwatts
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error

    try:
        ask(pynvml.nvmlDeviceGetTotalEnergyConsumption)
    except OSError:
        return Sensor(f"NVML GPU {number}", False, lambda: ask(pynvml.nvmlDeviceGetPowerUsage))
    return Sensor(f"NVML GPU {number}", True, lambda: ask(pynvml.nvmlDeviceGetTotalEnergyConsumption))

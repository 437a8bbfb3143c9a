"""Where TensorRT and TensorRT-RTX are found and imported: here and nowhere else. Both share one Python API."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from ..errors import DferError

BACKENDS = ("tensorrt", "tensorrt-rtx")
"""In the order in which "auto" tries them: TensorRT tunes to the very GPU, TensorRT-RTX builds in seconds."""

JETPACK = Path("/usr/lib")
"""JetPack and NVIDIA's Debian packages put the module into python3*/dist-packages below this."""

_MODULES = {"tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
_VERSIONS = {"tensorrt": ((10, 3), (12, 0)), "tensorrt-rtx": ((1, 2), (2, 0))}
_TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_INSTALL = {
    "tensorrt": (
        "run: pip install 'dfer-edge[tensorrt]' (it downloads from NVIDIA, so it needs the network); "
        "on a Jetson install JetPack's: apt install python3-libnvinfer"
    ),
    "tensorrt-rtx": "run: pip install 'dfer-edge[tensorrt-rtx]' (x86-64 with an RTX GPU; there is none for Jetson)",
}


@dataclass(frozen=True)
class TrtLibrary:
    """A loaded TensorRT.

    backend: one of BACKENDS. version: complete, as NVIDIA writes it. module: the Python module.
    logger: the one logger of this process for it (TensorRT keeps the first it is given).
    said: the latest errors it logged, oldest first.
    """

    backend: str
    version: str
    module: Any
    logger: Any
    said: deque[str]

    @property
    def title(self) -> str:
        """Name and version for people."""
        return f"{_TITLES[self.backend]} {self.version}"

    def first_complaint(self) -> str:
        """The first error logged since the last call, on one line; later ones mostly follow from it."""
        first = self.said[0] if self.said else "no reason given"
        self.said.clear()
        return " ".join(first.split())[:300]


def load_trt(backend: str) -> TrtLibrary:
    """Import a backend, one of BACKENDS, or "auto" for the first that is there.

    Raises DferError that says what to install when there is none, when it does not load, or is of a version that
    this code was not written for.
    """
    if backend != "auto":
        return _load(backend)
    for name in BACKENDS:
        if is_installed(name):
            return _load(name)
    raise DferError(
        f"neither TensorRT nor TensorRT-RTX is installed; {_INSTALL['tensorrt']}; or {_INSTALL[BACKENDS[1]]}"
    )


def is_installed(backend: str) -> bool:
    """Whether there is a module to import; it may still fail to load."""
    names = _MODULES[backend]
    return any(importlib.util.find_spec(name) is not None for name in names) or _system_spec(names[0]) is not None


@functools.cache
def _load(backend: str) -> TrtLibrary:
    if backend not in _MODULES:
        raise DferError(f"engine backend {backend!r} is unknown; one of {', '.join(BACKENDS)}")
    module = _import(backend)
    version = str(module.__version__)
    lowest, beyond = _VERSIONS[backend]
    if not lowest <= _numbers(version) < beyond:
        raise DferError(
            f"{_TITLES[backend]} {version} is installed, and dfer-edge needs at least {lowest[0]}.{lowest[1]} and less "
            f"than {beyond[0]}; {_INSTALL[backend]}"
        )
    said: deque[str] = deque(maxlen=50)
    return TrtLibrary(backend, version, module, _logger(module, said), said)


def _import(backend: str) -> Any:
    for name in _MODULES[backend]:
        try:
            if importlib.util.find_spec(name) is not None:
                return importlib.import_module(name)
            if spec := _system_spec(name):
                module = importlib.util.module_from_spec(spec)
                sys.modules[name] = module
                try:
                    spec.loader.exec_module(module)
                except BaseException:
                    del sys.modules[name]
                    raise
                return module
        except (ImportError, OSError) as error:  # OSError: a library that ctypes cannot open
            reason = str(error).splitlines()[0]
            raise DferError(f"{_TITLES[backend]} does not load ({reason}); {_INSTALL[backend]}") from error
    raise DferError(f"{_TITLES[backend]} is not installed; {_INSTALL[backend]}")


def _system_spec(name: str) -> Any:
    """The module in the system's packages of this Python, which virtual environments do not see.

    Only this one module is taken from there: putting the folder on sys.path would bring its NumPy along.
    """
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders: Sequence[str] = [str(JETPACK / place / "dist-packages") for place in (python, "python3")]
    return PathFinder.find_spec(name, folders)


def _numbers(version: str) -> tuple[int, int]:
    major, minor = [*version.split("."), "0"][:2]
    return int(major), int("".join(filter(str.isdigit, minor)) or 0)


def _logger(module: Any, said: deque[str]) -> Any:
    class ErrorsKept(module.ILogger):  # type: ignore[misc]  # a class of the module at hand
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= module.ILogger.ERROR:
                said.append(message)

    return ErrorsKept()

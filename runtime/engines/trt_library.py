"""Finds and imports TensorRT and TensorRT-RTX, the only module to do so. Both share one Python API."""

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

from ..errors import DferError, first_line

JETPACK = Path("/usr/lib")
"""JetPack and NVIDIA's Debian packages install the module in python3*/dist-packages below this folder."""


@dataclass(frozen=True)
class Product:
    """title: display name. modules: names of the Python module. lowest, beyond: supported versions, the second
    excluded.

    install: installation advice for the user.
    """

    title: str
    modules: tuple[str, ...]
    lowest: tuple[int, int]
    beyond: tuple[int, int]
    install: str


PRODUCTS = {
    "tensorrt": Product(
        "TensorRT",
        ("tensorrt",),
        (10, 3),
        (12, 0),
        "run: pip install 'dfer-edge[tensorrt]' (it downloads from NVIDIA, so it needs the network); "
        "on a Jetson install JetPack's: apt install python3-libnvinfer",
    ),
    "tensorrt-rtx": Product(
        "TensorRT-RTX",
        ("tensorrt_rtx", "tensorrt_rtx_bindings"),
        (1, 2),
        (2, 0),
        "run: pip install 'dfer-edge[tensorrt-rtx]' (x86-64 with an RTX GPU; there is none for Jetson)",
    ),
}
"""TensorRT tunes to the GPU at hand; TensorRT-RTX builds in seconds and without a GPU."""


@dataclass(frozen=True)
class TrtLibrary:
    """A loaded TensorRT.

    product: a key of PRODUCTS. version: complete, as NVIDIA writes it. module: the Python module.
    logger: the process's only logger for it (TensorRT keeps the first it is given).
    errors: the latest logged errors, oldest first.
    """

    product: str
    version: str
    module: Any
    logger: Any
    errors: deque[str]

    @property
    def title(self) -> str:
        """Display name with version."""
        return f"{PRODUCTS[self.product].title} {self.version}"

    def first_error(self) -> str:
        """Return the first error logged since the last call, on one line; later ones are mostly consequences."""
        first = self.errors[0] if self.errors else "no reason given"
        self.errors.clear()
        return " ".join(first.split())[:300]


def is_installed(product: str) -> bool:
    """Return whether there is a module to import; it may still fail to load."""
    names = PRODUCTS[product].modules
    return any(importlib.util.find_spec(name) is not None for name in names) or _system_spec(names[0]) is not None


@functools.cache
def load_trt(product: str) -> TrtLibrary:
    """Import one of PRODUCTS.

    Raises DferError with installation advice when it is missing, does not load, or has an unsupported version.
    """
    wanted = PRODUCTS[product]
    module = _import(wanted)
    version = str(module.__version__)
    if not wanted.lowest <= _numbers(version) < wanted.beyond:
        major, minor = wanted.lowest
        raise DferError(
            f"{wanted.title} {version} is installed, and dfer-edge needs at least {major}.{minor} and less than "
            f"{wanted.beyond[0]}; {wanted.install}"
        )
    errors: deque[str] = deque(maxlen=50)
    return TrtLibrary(product, version, module, _logger(module, errors), errors)


def _import(product: Product) -> Any:
    for name in product.modules:
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
            raise DferError(f"{product.title} does not load ({first_line(error)}); {product.install}") from error
    raise DferError(f"{product.title} is not installed; {product.install}")


def _system_spec(name: str) -> Any:
    """Find the module in the system's packages for this Python, which virtual environments do not see.

    Only this one module is loaded from there: adding the folder to sys.path would also expose its NumPy.
    """
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders: Sequence[str] = [str(JETPACK / place / "dist-packages") for place in (python, "python3")]
    return PathFinder.find_spec(name, folders)


def _numbers(version: str) -> tuple[int, int]:
    major, minor = [*version.split("."), "0"][:2]
    return int(major), int("".join(filter(str.isdigit, minor)) or 0)


def _logger(module: Any, errors: deque[str]) -> Any:
    class ErrorsKept(module.ILogger):  # type: ignore[misc]  # the base class depends on the loaded module
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= module.ILogger.ERROR:
                errors.append(message)

    return ErrorsKept()

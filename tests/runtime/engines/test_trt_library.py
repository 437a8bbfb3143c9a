"""TensorRT is found wherever it is, and its absence is said in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfer.runtime.engines import trt_library
from dfer.runtime.engines.trt_library import load_trt
from dfer.runtime.errors import DferError

MODULE = """
__version__ = {version!r}
class ILogger:
    ERROR = 1
"""


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A machine without any TensorRT, and the folder that JetPack would put one below."""
    load_trt.cache_clear()
    monkeypatch.setattr(trt_library, "JETPACK", tmp_path)
    names = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = trt_library.importlib.util.find_spec
    hidden = lambda name, *rest: None if name in names else found(name, *rest)  # noqa: E731
    monkeypatch.setattr(trt_library.importlib.util, "find_spec", hidden)
    yield tmp_path
    load_trt.cache_clear()
    for name in names:
        sys.modules.pop(name, None)  # stand-ins, which later tests would take for the real thing


def jetpack(root: Path, text: str, python: str = "python3") -> None:
    package = root / python / "dist-packages" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(text)


@pytest.mark.parametrize(
    ("product", "words"),
    [
        (
            "tensorrt",
            r"TensorRT is not installed; run: pip install 'dfer-edge\[tensorrt\]'.*python3-libnvinfer",
        ),
        ("tensorrt-rtx", r"TensorRT-RTX is not installed; run: pip install 'dfer-edge\[tensorrt-rtx\]'"),
    ],
)
def test_what_is_absent_is_named_with_what_to_install(product: str, words: str) -> None:
    with pytest.raises(DferError, match=words) as caught:
        load_trt(product)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("python", ["python3", f"python3.{sys.version_info.minor}"])
def test_jetpacks_is_found_and_nothing_else_of_the_system(bare: Path, python: str) -> None:
    jetpack(bare, MODULE.format(version="10.3.0"), python)
    library = load_trt("tensorrt")
    assert (library.product, library.title) == ("tensorrt", "TensorRT 10.3.0")
    assert not any(str(bare) in place for place in sys.path)


def test_jetpacks_of_another_python_is_not_taken(bare: Path) -> None:
    jetpack(bare, MODULE.format(version="10.3.0"), "python3.4")
    with pytest.raises(DferError, match="not installed"):
        load_trt("tensorrt")


@pytest.mark.parametrize("version", ["8.5.2.2", "10.2.9", "12.0.0"])
def test_other_versions_are_refused(bare: Path, version: str) -> None:
    jetpack(bare, MODULE.format(version=version))
    with pytest.raises(DferError, match=rf"TensorRT {version} is installed.*at least 10.3 and less than 12"):
        load_trt("tensorrt")


def test_one_that_does_not_load_says_why(bare: Path) -> None:
    jetpack(bare, "raise ImportError('libnvinfer.so.10: cannot open shared object file\\nand more')")
    with pytest.raises(DferError, match=r"does not load \(libnvinfer.so.10: cannot open shared object file\)"):
        load_trt("tensorrt")
    assert "tensorrt" not in sys.modules


def test_the_first_of_what_it_logs_is_kept(bare: Path) -> None:
    jetpack(bare, MODULE.format(version="11.4.0"))
    library = load_trt("tensorrt")
    for severity, message in ((2, "a warning"), (1, "the\n cause"), (0, "what follows")):
        library.logger.log(severity, message)
    assert library.first_error() == "the cause"
    assert library.first_error() == "no reason given"

"""Which part may import which, and that the runtime lives without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "runtime": {"runtime"},
    "calibration": {"calibration", "runtime"},
    "train": {"train", "runtime"},
    "export": {"export", "calibration", "train", "runtime"},
}
LAYERS = (
    ("cli",),
    ("web", "profiling", "procedural"),
    ("outputs",),
    ("recognizer",),
    ("pipeline", "engines"),
    ("faces",),
    ("predictions",),
    ("sources",),
    ("bundle",),
    ("storage", "machine", "timing", "labels"),
    ("errors",),
)
"""Inside runtime, from top to bottom: who stands higher may import who stands lower, and no one beside."""
HEAVY = ("torch", "onnx", "open_clip", "timm", "torchvision")
UNIX = ("fcntl", "grp", "pwd", "resource", "termios")
"""Modules of Python that Windows does not have."""


def imports_of(file: Path) -> set[str]:
    """Absolute module names imported anywhere in a file; relative ones resolved, as "dfer.part…"."""
    package = ["dfer", *file.relative_to(ROOT).parent.parts]
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("part", [part for part in MAY_IMPORT if (ROOT / part).is_dir()])
def test_arrows_point_one_way(part: str) -> None:
    files = list((ROOT / part).rglob("*.py"))
    assert files
    for file in files:
        parts = {name.split(".")[1] for name in imports_of(file) if name.startswith("dfer.")}
        assert parts <= MAY_IMPORT[part], file
        if part == "runtime":
            assert not {name.split(".")[0] for name in imports_of(file)} & {*HEAVY, *UNIX}, file


def test_inside_runtime_arrows_point_down() -> None:
    layer = {unit: place for place, units in enumerate(LAYERS) for unit in units}
    for file in (ROOT / "runtime").rglob("*.py"):
        unit = file.relative_to(ROOT / "runtime").parts[0].removesuffix(".py")
        if unit == "__init__":  # loads names when they are used
            continue
        for name in imports_of(file):
            other = name.split(".")[2] if name.startswith("dfer.runtime.") else unit
            assert other == unit or layer[other] > layer[unit], f"{file} imports {name}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    files = {file for part in MAY_IMPORT for file in (ROOT / part).rglob("*.py") if file.name != "__init__.py"}
    names = {".".join(["dfer", *file.relative_to(ROOT).with_suffix("").parts]): file for file in files}
    arrows = {}
    for name, file in names.items():
        imported = imports_of(file)
        arrows[name] = (imported | {module.rpartition(".")[0] for module in imported}) & names.keys()
    while leaves := {name for name, targets in arrows.items() if not targets}:
        arrows = {name: targets - leaves for name, targets in arrows.items() if name not in leaves}
    assert not arrows, f"in circles, or above one: {sorted(arrows)}"


def test_the_house_stays_one_that_one_finds_ones_way_in() -> None:
    top = [entry for entry in (ROOT / "runtime").iterdir() if entry.name not in ("__init__.py", "py.typed")]
    assert len([entry for entry in top if not entry.name.startswith("__")]) <= 18
    for part in MAY_IMPORT:
        for folder in {file.parent for file in (ROOT / part).rglob("*.py")}:
            modules = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
            assert len(modules) <= 12, folder
            for file in modules:
                assert len(file.read_text(encoding="utf-8").splitlines()) <= 400, file


def test_the_runtime_recognises_where_torch_cannot_be_imported(face_video: Path) -> None:
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError("not on this machine: " + name)
sys.meta_path.insert(0, Refuse())
from dfer.runtime import Recognizer
with Recognizer() as recognizer:
    print(len(list(recognizer.stream({str(face_video)!r}))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "24", done.stderr


@pytest.mark.parametrize("program", ["import dfer.runtime", "from dfer.runtime.cli.run import main"])
def test_importing_the_runtime_loads_nothing_heavy(program: str) -> None:
    heavy = (*HEAVY, "cv2", "onnxruntime", "matplotlib", "numpy", "rich")
    check = f"import sys; {program}; print(sorted(set(sys.modules) & set({heavy!r})))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

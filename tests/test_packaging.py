"""What a package index shows, and that packages hold all that runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOME = "https://example.org/owner/dfer-edge"
PLACES = re.compile(r"\]\(([^)\s]+)\)")


def ask_setup(*questions: str, home: str) -> str:
    """What setup.py answers."""
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "-q", *questions]
    environment = {**os.environ, "DFER_EDGE_HOME": home, "PYTHONUTF8": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_on_an_index_the_readme_links_into_the_repository() -> None:
    shown = ask_setup("--long-description", home=HOME)
    tag = "v" + ask_setup("--version", home=HOME).strip()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    places, own = PLACES.findall(shown), PLACES.findall(readme)
    assert len(places) == len(own) > 20
    for place, before in zip(places, own, strict=True):
        if "://" in before:
            assert place == before
            continue
        kind, version, file = place.removeprefix(f"{HOME}/").split("/", 2)
        assert (ROOT / file).exists(), place
        assert version == tag
        assert kind == ("raw" if Path(file).suffix == ".jpg" else "blob"), place  # as forges serve pictures and pages


def test_without_an_address_the_description_has_no_link_that_leads_nowhere() -> None:
    shown = ask_setup("--long-description", home="")
    assert all("://" in place for place in PLACES.findall(shown))
    assert "| Using dfer-run | sources, outputs" in shown
    assert "*Two drawn people in a video" in shown


def test_the_index_names_the_repository_only_where_its_address_is_known() -> None:
    assert ask_setup("--url", home=f"{HOME}/").strip() == HOME
    assert ask_setup("--url", home="").strip() in ("", "None", "UNKNOWN")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files that a wheel holds, relative to `dfer`."""
    folder = tmp_path_factory.mktemp("built")
    ask_setup("egg_info", "--egg-base", str(folder), "build", "--build-base", str(folder), home="")
    package = folder / "lib" / "dfer"
    return {file.relative_to(package).as_posix() for file in package.rglob("*") if file.is_file()}


def test_the_wheel_holds_the_parts_and_nothing_else(built: set[str]) -> None:
    parts = ("calibration", "export", "runtime", "train")
    files = {file.relative_to(ROOT).as_posix() for part in parts for file in (ROOT / part).rglob("*") if file.is_file()}
    files = {file for file in files if "__pycache__" not in file and "/engines/" not in file.partition(".dfer")[2]}
    for_the_readme = {"runtime/assets/demo.jpg", "runtime/assets/make_demo.sh"}
    assert built == files - for_the_readme


def test_every_part_is_typed(built: set[str]) -> None:
    assert {"calibration/py.typed", "export/py.typed", "runtime/py.typed", "train/py.typed"} <= built

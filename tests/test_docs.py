"""The documentation: links lead somewhere, commands exist and take these options, examples in docstrings hold."""

from __future__ import annotations

import configparser
import doctest
import importlib
import os
import re
import runpy
import shlex
import subprocess
import time
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "benchmarks", "examples", "docker")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in ROOT.glob(f"{folder}/*.md"))])
LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")
COMMANDS = {
    "dfer-run": "runtime.cli.run",
    "dfer-label": "runtime.cli.label",
    "dfer-profile": "runtime.cli.profile",
    "dfer-doctor": "runtime.cli.doctor",
    "dfer-prepare": "train.cli.prepare",
    "dfer-pretrain": "train.cli.pretrain",
    "dfer-train": "train.cli.train",
    "dfer-distill": "train.cli.distill",
    "dfer-eval": "train.cli.eval",
    "dfer-export": "export.command",
}

WITH_EXAMPLES = [
    file
    for part in ("runtime", "train", "export", "calibration")
    for file in sorted((ROOT / part).rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


def anchors_of(page: Path) -> set[str]:
    """As forges make them from headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        place, _, anchor = link.partition("#")
        if "://" in place:
            continue
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def commands_in(page: Path) -> list[str]:
    """Lines of code blocks that call a command of ours, comments and redirections left out."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.partition(" #")[0].replace("…", "") for block in blocks for line in block.splitlines()]
    return [line[line.index("dfer-") :] for line in lines if re.search(r"(^|[;&|] |\) )dfer-", line)]


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "benchmarks"], ids=str)
def test_commands_take_the_options_that_are_shown(page: Path) -> None:
    for line in commands_in(page):
        name, *words = shlex.split(re.split(r" (?:&&|\|) ", line)[0])
        command: click.Command = importlib.import_module(f"dfer.{COMMANDS[name]}").main
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        unknown = {word for word in words if word.startswith("--")} - known
        assert not unknown, line


def test_the_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_the_service_of_the_jetson_s_page_can_be_enabled_and_keeps_the_rows_of_every_start() -> None:
    (text,) = re.findall(r"^\[Service\].*?(?=^```)", (ROOT / "docs/jetson.md").read_text("utf-8"), re.M | re.S)
    unit = configparser.ConfigParser(interpolation=None)
    unit.read_string(text)
    assert unit["Install"]["WantedBy"] == "multi-user.target"
    assert f"/var/lib/{unit['Service']['StateDirectory']}/rows" in unit["Service"]["ExecStart"]
    started = unit["Service"]["ExecStart"].replace("$$", "$").replace("%%", "%")  # as systemd does
    started = re.sub(r"exec \S+/dfer-run", "exec echo", started)
    tables = set()
    for _ in range(2):
        said = subprocess.run(shlex.split(started), check=True, capture_output=True, text=True).stdout
        tables.add(re.search(r"--csv (/var/lib/dfer/rows-\d+T\d+\.csv) ", said + " ").group(1))  # type: ignore[union-attr]
        time.sleep(1.0)
    assert len(tables) == 2


@pytest.fixture
def beside_the_clip(demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder in which examples run: it holds clip.mp4."""
    (tmp_path / "clip.mp4").symlink_to(demo_clip)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("beside_the_clip")
@pytest.mark.parametrize("file", WITH_EXAMPLES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_examples_in_docstrings_hold(file: Path) -> None:
    module = ".".join(["dfer", *file.relative_to(ROOT).with_suffix("").parts])
    found = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0


def test_the_reference_is_what_the_docstrings_say() -> None:
    written = runpy.run_path(str(ROOT / ".ci" / "reference"))["page"]()
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8") == written, "run .ci/reference"


def test_each_example_of_the_reference_holds_when_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the first makes their clip
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    copied = re.findall(r"^```python\n(>>> .*?)^```", page, re.MULTILINE | re.DOTALL)
    assert sum(text.count(">>> ") for text in copied) == page.count(">>> ")
    for text in copied:
        examples = doctest.DocTestParser().get_doctest(text, {}, "reference.md", None, 0)
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples).failed == 0, text

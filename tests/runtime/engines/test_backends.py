"""The registry: a backend from outside the packages is run, listed and started like those inside."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner

from dfer.runtime.bundle import DEMO, Bundle
from dfer.runtime.cli import diagnosis
from dfer.runtime.cli.profile import main as profile
from dfer.runtime.cli.run import main as run
from dfer.runtime.engines import BACKENDS, Backend, open_engine, present_providers
from dfer.runtime.engines.choice import compare_providers
from dfer.runtime.errors import DferError
from dfer.train.cli.eval import main as evaluate
from helpers import edit_manifest


class Ghost(Backend):
    """A backend that is not installed."""

    def is_present(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The registry with "plain", which enters itself when it is imported, and with "ghost"."""
    monkeypatch.delitem(sys.modules, "plain_backend", raising=False)
    with patch.dict(BACKENDS, ghost=Ghost("ghost", ("fp32",), "pip install ghost")):
        importlib.import_module("plain_backend")
        yield


def test_it_runs_a_bundle_and_says_what_the_cpu_says(face_video: Path, tmp_path: Path) -> None:
    tables = []
    for provider in ("plain", "cpu"):
        files = tmp_path / f"{provider}.csv", tmp_path / f"{provider}.jsonl"
        arguments = [face_video, "--provider", provider, "--csv", files[0], "--jsonl", files[1], "--quiet"]
        arguments += ["--precision", "fp32"]
        result = CliRunner().invoke(run, [*map(str, arguments)], env={"DFER_BUNDLE": ""})
        assert result.exit_code == 0, result.output
        assert json.loads(files[1].read_text().splitlines()[0])["provider"] == provider
        with files[0].open(newline="") as lines:
            tables.append([{**row, "source": ""} for row in csv.DictReader(lines)])
    assert tables[0] == tables[1]
    assert len(tables[0]) > 10


@pytest.mark.parametrize("command", [run, profile, evaluate])
def test_every_command_lists_it(command: object) -> None:
    assert "|plain" in "".join(CliRunner().invoke(command, ["--help"]).output.split())  # type: ignore[arg-type]


def test_a_name_that_is_none_is_a_usage_error_with_those_that_are() -> None:
    result = CliRunner().invoke(run, ["clip.mp4", "--provider", "abacus"])
    assert result.exit_code == 2
    assert "abacus is unknown; one of cpu, " in result.output and "plain" in result.output
    with pytest.raises(DferError, match=r"^provider: abacus is unknown; one of cpu, .*plain"):
        open_engine(b"", "abacus")


def test_the_doctor_starts_it_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "BACKENDS", {name: BACKENDS[name] for name in ("cpu", "plain", "ghost")})
    found = {line.name: line for line in diagnosis.examine().findings if line.section == "providers"}
    assert {name: line.state for name, line in found.items()} == {"cpu": "works", "plain": "works", "ghost": "absent"}
    assert "fp32, " in found["plain"].text and "ms per face" in found["plain"].text


def test_the_doctor_starts_what_the_running_script_registered_in_its_own_process() -> None:
    with patch.dict(BACKENDS, mine=replace(BACKENDS["cpu"], name="mine")):
        assert "ms per face" in diagnosis._start(DEMO, "mine")["text"]


def test_auto_tries_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.engines.choice._SECONDS", 0.05)
    assert "plain" in present_providers() and "ghost" not in present_providers()
    assert compare_providers(Bundle.open(DEMO), ["cpu", "plain"])[0]["plain"] > 0


def test_what_is_absent_says_what_to_install(face_video: Path) -> None:
    result = CliRunner().invoke(run, [str(face_video), "--provider", "ghost"])
    assert result.exit_code == 1
    assert "--provider: ghost is not installed; pip install ghost" in result.output


def test_a_precision_that_it_does_not_run_is_an_error_and_never_a_recommendation(
    face_video: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(DEMO, tmp_path / "copy.dfer"))
    entry = {"files": {"encoder": {"default": "encoder.fp32.onnx"}}, "gate": "default"}
    edit_manifest(bundle, precisions={"fp16": entry, "fp32": entry}, recommended={"plain": "fp16"})
    arguments = [str(face_video), "--bundle", str(bundle), "--provider", "plain", "--precision"]
    result = CliRunner().invoke(run, [*arguments, "fp16"])
    assert result.exit_code == 1
    assert "--precision: plain does not run fp16 here; ask for another, or for provider cpu or" in result.output
    result = CliRunner().invoke(run, [*arguments, "auto"])
    assert result.exit_code == 0
    assert "plain does not run fp16 here" in result.stderr and "precision: fp32" in result.stderr

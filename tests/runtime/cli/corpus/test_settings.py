"""What a corpus run records about its model, so that no table mixes two of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_label import command

from dfer.runtime.bundle import DEMO, Bundle
from dfer.runtime.cli.corpus.label import LabelOptions, label
from dfer.runtime.cli.corpus.plan import Unit
from dfer.runtime.cli.corpus.settings import Job, LabelSettings
from dfer.runtime.cli.corpus.unit import label_unit
from dfer.runtime.cli.label import main
from dfer.runtime.errors import DferError
from dfer.runtime.recognizer import Recognizer
from helpers import edit_manifest, flat

pytest.importorskip("pyarrow")


def test_the_run_records_what_auto_chose_and_another_choice_is_refused(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = LabelOptions([clips / "day0"], out, LabelSettings(str(DEMO)), workers=1)
    label(options)
    known = json.loads((out / "run.json").read_text())
    with Recognizer(DEMO, threads=1) as recognizer:
        assert (known["provider"], known["precision"]) == (recognizer.provider, recognizer.precision)
    assert label(options).left == 0  # the same command goes on
    (out / "run.json").write_text(json.dumps(known | {"provider": "elsewhere", "precision": "fp8"}))
    with pytest.raises(DferError, match=r"other settings \(precision, provider\)"):
        label(options)


@pytest.mark.parametrize(
    ("arguments", "threads"), [([], 1), (["--cpus", 4], 4), (["--cpus", 0.5], 1), (["--cpus", 4, "--threads", 2], 2)]
)
def test_a_task_of_a_cluster_uses_the_processors_that_it_reserves(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], threads: int
) -> None:
    jobs: list[Job] = []

    def run_on_cluster(units: list[Unit], job: Job, *_: object) -> Iterator[tuple[Unit, int]]:
        jobs.append(job)
        return iter(())

    monkeypatch.setattr("dfer.runtime.cli.corpus.cluster.run_on_cluster", run_on_cluster)
    on = ["--cluster", "head:1", "--precision", "fp32"]
    assert command(clips, tmp_path / "out", *on, *arguments).exit_code == 0
    assert [job.settings.threads for job in jobs] == [threads]


def test_every_setting_reaches_the_recognizer(
    clips: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {
        **{"bundle": str(bundle), "provider": "cpu", "precision": "fp32", "threads": 3, "window": 1.5, "fps": 5.0},
        **{"max_faces": 2, "min_face": 50, "detect_every": 4},
    }
    own = [one for one in fields(LabelSettings) if one.name != "rotate"]  # is the source's, not the recogniser's
    assert [one.name for one in own if given[one.name] == one.default] == []
    taken: list[dict[str, Any]] = []

    def recognizer(*values: Any, **named: Any) -> None:
        taken.append(signature(Recognizer).bind(*values, **named).arguments)
        raise DferError("enough is known")

    def run_here(units: Sequence[Unit], job: Job, workers: int) -> Iterator[tuple[Unit, int]]:
        assert workers == 2
        return ((unit, label_unit(unit, job)) for unit in units)

    monkeypatch.setattr("dfer.runtime.cli.corpus.unit.Recognizer", recognizer)
    monkeypatch.setattr("dfer.runtime.cli.corpus.label.run_locally", run_here)
    options = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    result = CliRunner().invoke(main, [str(clips), str(tmp_path / "out"), "--workers", "2", *options])
    assert (result.exit_code, "enough is known" in result.output) == (1, True)
    assert taken == [given]


def test_the_bundle_of_the_environment_is_named_before_it_labels(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path / "absent.mp4"), "out"], env={"DFER_BUNDLE": str(DEMO)})
    assert (result.exit_code, f"bundle {DEMO}, from $DFER_BUNDLE" in result.output) == (1, True)


def test_warnings_about_the_model_are_told_once(clips: Path, bundle: Path, tmp_path: Path) -> None:
    precisions = json.loads(json.dumps({**Bundle.open(bundle).manifest.precisions}, default=dict))
    precisions["fp32"]["providers"]["cpu"]["passes"] = False
    edit_manifest(bundle, precisions=precisions)
    result = command(clips / "day0", tmp_path / "out", "--bundle", bundle, "--precision", "fp32", "--workers", 2)
    assert result.exit_code == 0, result.output
    assert flat(result.output).count("fp32 of this bundle failed its gate on cpu") == 1

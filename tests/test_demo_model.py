"""The bundled demo model on real videos and faces, and on procedural people: what the model card promises."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dfer.runtime import Bundle
from dfer.runtime.bundle import DEMO
from dfer.runtime.cli.run import main as run
from dfer.train.cli.eval import main as evaluate


def predict(video: Path, table: Path) -> list[dict[str, str]]:
    result = CliRunner().invoke(run, [str(video), "--bundle", str(DEMO), "--csv", str(table)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with table.open(newline="") as lines:
        return list(csv.DictReader(lines))


def score(tmp_path: Path, *arguments: object) -> dict[str, float]:
    out = tmp_path / "scores.json"
    call = [str(argument) for argument in (DEMO, "--workers", 2, "--json", out, *arguments)]
    result = CliRunner().invoke(evaluate, call, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    scores: dict[str, float] = json.loads(out.read_text())
    return scores


def test_it_is_small_and_agrees_with_torch() -> None:
    bundle = Bundle.open(DEMO)
    assert sum(file.stat().st_size for file in DEMO.iterdir()) <= 12e6
    parity = bundle.manifest.precisions["fp32"]["parity"]
    assert parity["cosine"] >= 0.9999
    assert parity["max_delta"] <= 1e-3


def test_one_track_over_a_real_clip_at_the_right_times(shared_data: Path, tmp_path: Path) -> None:
    rows = predict(shared_data / "videos" / "WolfgangLanger_Pexels.mp4", tmp_path / "o.csv")
    rate, frames = 24000 / 1001, 472
    sampled = int(frames / rate * 8)
    assert {row["track"] for row in rows} == {"1"}
    assert len(rows) >= 0.95 * sampled
    times = np.array([float(row["time_s"]) for row in rows])
    assert (np.diff(times) > 0).all()
    np.testing.assert_allclose(times, [int(row["frame"]) / rate for row in rows], atol=1e-3)


@pytest.mark.parametrize(("name", "first", "last"), [("face_noface.mov", 0, 72), ("noface_face.mov", 93, 168)])
def test_rows_only_where_the_face_is(shared_data: Path, tmp_path: Path, name: str, first: int, last: int) -> None:
    rows = predict(shared_data / "videos" / name, tmp_path / "o.csv")
    frames = [int(row["frame"]) for row in rows]
    assert {row["track"] for row in rows} == {"1"}
    assert first - 4 <= min(frames) <= first + 6
    assert last - 6 <= max(frames) <= last + 4


def test_no_rows_without_a_face(shared_data: Path, tmp_path: Path) -> None:
    assert predict(shared_data / "videos" / "no_face.mp4", tmp_path / "o.csv") == []
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 1


def test_five_people_in_a_photograph(shared_data: Path, tmp_path: Path) -> None:
    rows = predict(shared_data / "videos" / "multi_face.jpg", tmp_path / "o.csv")
    assert [row["track"] for row in rows] == ["1", "2", "3", "4", "5"]


def test_real_faces_of_people_not_trained_on(shared_data: Path, tmp_path: Path) -> None:
    scores = score(tmp_path, "--stills", shared_data / "faces" / "labels.csv")
    assert scores["war"] >= 0.80
    assert scores["uar_min10"] >= 0.52


def test_procedural_people_not_trained_on_and_what_time_is_worth(tmp_path: Path) -> None:
    ordered = score(tmp_path, "--identities", 8)
    shuffled = score(tmp_path, "--identities", 8, "--shuffle-frames")
    assert ordered["war"] >= 0.90
    assert shuffled["war"] <= ordered["war"] - 0.10

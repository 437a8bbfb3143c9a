"""The bundled demo model on real videos and faces, and on procedural people: what the model card promises."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dfer.runtime import Bundle
from dfer.runtime.bundle import DEMO
from dfer.runtime.cli.run import main as run
from dfer.runtime.procedural.demo import ROLES, demo_script, film_demo
from dfer.train.cli.eval import main as evaluate
from dfer.train.preparation.photographs import prepare_photographs


def predict(video: Path, table: Path) -> list[dict[str, str]]:
    result = CliRunner().invoke(run, [str(video), "--bundle", str(DEMO), "--csv", str(table)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with table.open(newline="") as lines:
        return list(csv.DictReader(lines))


def score(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    out = tmp_path / "scores.json"
    call = [str(argument) for argument in (DEMO, "--workers", 2, "--json", out, *arguments)]
    result = CliRunner().invoke(evaluate, call, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    scores: dict[str, Any] = json.loads(out.read_text())
    return scores


def test_it_is_small_and_agrees_with_torch() -> None:
    manifest = Bundle.open(DEMO).manifest
    assert sum(file.stat().st_size for file in DEMO.iterdir()) <= 14e6
    parity = manifest.precisions["fp32"]["parity"]
    assert parity["cosine"] >= 0.9999
    assert parity["max_delta"] <= 1e-3
    assert manifest.precisions["int8"]["gate"] == "default"
    assert 0 < manifest.unsure_below < 0.6


def test_crying_is_sadness_and_laughter_joy(shared_data: Path, tmp_path: Path) -> None:
    rows = predict(shared_data / "videos" / "WolfgangLanger_Pexels.mp4", tmp_path / "o.csv")

    def share(label: str, start: float, end: float) -> float:
        part = [row["label"] == label for row in rows if start <= float(row["time_s"]) < end]
        return sum(part) / len(part)

    assert share("happiness", 0, 5.7) == 0
    assert share("sadness", 0, 5.7) >= 0.7
    assert share("happiness", 17, 19.7) >= 0.7


def test_labels_follow_the_demo_clip_s_script(tmp_path: Path) -> None:
    film_demo(tmp_path / "demo.mp4")
    rows = predict(tmp_path / "demo.mp4", tmp_path / "o.csv")
    right: dict[float, list[bool]] = {0.0: [], 0.2: [], 0.4: [], 0.5: []}
    for row in rows:
        middle = float(row["x"]) + float(row["w"]) / 2
        person = int(np.argmin([abs(role.x(float(row["time_s"])) - middle) for role in ROLES]))
        for lag, judged in right.items():
            moment = float(row["time_s"]) - lag
            shown = [label for start, end, label in demo_script()[person] if start <= moment < end]
            judged.extend(row["label"] == label for label in shown)
    assert max(np.mean(judged) for judged in right.values()) >= 0.7


def test_web_photographs_it_has_not_seen_and_how_sure_it_is(shared_data: Path, tmp_path: Path) -> None:
    with (shared_data / "ferplus" / "votes.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"][::6]
    with (tmp_path / "votes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        folder = shared_data / "ferplus" / "images"
        writer.writerows({**row, "image": str(folder / row["image"])} for row in rows)
    prepared = prepare_photographs(tmp_path / "votes.csv", tmp_path / "faces")
    assert prepared.count("ok") >= 0.85 * len(rows)
    scores = score(tmp_path, "--stills", tmp_path / "faces" / "labels.csv")
    assert scores["war"] >= 0.80
    assert scores["calibration_error"] <= 0.08  # of some 450 pictures
    assert scores["confidence"]["right"] >= scores["confidence"]["wrong"] + 0.15


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


@pytest.mark.long
def test_real_faces_of_people_not_trained_on(shared_data: Path, tmp_path: Path) -> None:
    scores = score(tmp_path, "--stills", shared_data / "faces" / "labels.csv")
    assert scores["war"] >= 0.80
    assert scores["uar_min10"] >= 0.52


@pytest.mark.long
def test_procedural_people_not_trained_on_and_what_time_is_worth(tmp_path: Path) -> None:
    ordered = score(tmp_path, "--identities", 8)
    shuffled = score(tmp_path, "--identities", 8, "--shuffle-frames")
    assert ordered["war"] >= 0.90
    assert shuffled["war"] <= ordered["war"] - 0.10

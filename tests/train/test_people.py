"""Nobody whose clips or photographs choose the epochs is trained on, in either kind of data."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from dfer.runtime.errors import DferError, ParameterError
from dfer.train.data.batches import Source
from dfer.train.data.choice import DataChoice
from dfer.train.data.subsets import split_validation
from dfer.train.epoch_log import EpochLog
from dfer.train.options import TrainOptions
from dfer.train.run import Run, run_training
from dfer.train.training import Epoch

LABELS = ("fear", "anger")
PEOPLE = tuple(map(str, range(10)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LABEL/PERSON/0.png"""
    root, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    for label in LABELS:
        for person in PEOPLE:
            (clip := root / label / person).mkdir(parents=True)
            cv2.imwrite(str(clip / "0.png"), rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    return root


@pytest.fixture
def divided(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """The clips and the photographs that a run would train on."""
    found: list[Source] = []

    def fit(run: Run, method: Any, plan: Any, sources: list[Source], *rest: Any) -> list[Any]:
        found[:] = sources
        return []

    monkeypatch.setattr(Run, "fit", fit)
    return found


def listed(table: Path, first: str, end: str, splits: dict[str, str], people: tuple[str, ...] = PEOPLE) -> Path:
    rows = [f"{label}/{one}{end},{label},{splits.get(one, 'train')},{one}" for label in LABELS for one in people]
    table.write_text("\n".join([f"{first},label,split,person", *rows]) + "\n")
    return table


def opened(options: TrainOptions) -> str:
    log = StringIO()
    run_training(options, Console(file=log))
    return log.getvalue()


def trained_and_tested(sources: list[Source]) -> tuple[set[str | None], set[str | None]]:
    trained, tested = [group for one in sources for group in one.trained.groups], [one.tested.groups for one in sources]
    return set(trained), {group for groups in tested for group in groups}


def options_of(folder: Path, clips: dict[str, str], stills: dict[str, str], people: tuple[str, ...]) -> TrainOptions:
    data = DataChoice("csv", folder, lists=listed(folder / "clips.csv", "clip", "", clips), workers=1)
    table = listed(folder / "stills.csv", "image", "/0.png", stills, people)
    return TrainOptions(folder / "m.pt", data, table, clip="dfer-nano", validation=0.3)


@pytest.mark.parametrize("seed", [0, 1])
def test_photographs_of_people_held_back_among_clips_are_held_back(
    folder: Path, divided: list[Source], seed: int
) -> None:
    options = replace(options_of(folder, {}, {}, PEOPLE[::-1]), seed=seed)
    told = opened(options)
    trained, tested = trained_and_tested(divided)
    assert trained | tested == set(PEOPLE) and not trained & tested and len(tested) == 3
    assert "clips to train on + to validate on: happiness 0+0" in told and "fear 7+3" in told
    alone = divided[0].training
    opened(replace(options, stills=None))
    assert (alone == divided[0].training).all()  # photographs do not change how clips are divided


def test_people_held_back_by_a_split_are_left_out_of_the_training_of_the_others(
    folder: Path, divided: list[Source]
) -> None:
    options = options_of(folder, {"0": "val", "1": "val"}, {"2": "val"}, PEOPLE)
    told = opened(replace(options, validation=0.1, validation_split="val"))
    assert "4 photographs are not trained on, since people in them are held back among the clips" in told
    assert "2 clips are not trained on, since people in them are held back among the photographs" in told
    trained, tested = trained_and_tested(divided)
    assert tested == {"0", "1", "2"} and trained == set(PEOPLE) - tested

    options = options_of(folder, dict.fromkeys(PEOPLE[:5], "val"), {"9": "val"}, (*PEOPLE[:5], "9"))
    with pytest.raises(DferError, match="all photographs to train on show people who are held back among the clips"):
        opened(replace(options, validation=0.1, validation_split="val"))


def test_numbers_of_drawn_people_are_no_names(folder: Path, divided: list[Source]) -> None:
    options = options_of(folder, {}, {}, PEOPLE)
    drawn = replace(options, data=DataChoice(identities=2, workers=1), validation=0.5)
    opened(drawn)
    assert divided[0].people.keys() == {"0", "1"}
    photographs = divided[1].clips
    _, validation = split_validation(photographs.labels, 0.5, 0, photographs.groups)
    assert (divided[1].validation == validation).all()


def test_a_run_is_not_gone_on_with_after_other_people_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips to choose epochs on would have been trained on; a state of an earlier version does not say, and goes on."""
    table = listed(tmp_path / "clips.csv", "clip", "", {})
    data, brief = DataChoice("csv", folder, lists=table, workers=1), {"tokens": 2, "single_step": True}
    options = TrainOptions(tmp_path / "m.pt", data, method_options=brief, clip="dfer-nano", validation=0.3, views=0)
    options = replace(options, epochs=(1, 1, 1), depth=(1, 1, 1), resume=True)

    def stop(log: EpochLog, epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EpochLog, "write", stop)
        run_training(options)
    before = table.read_text()
    table.write_text(before.replace(",1\n", ",7\n"))
    with pytest.raises(ParameterError, match=r"m\.state was begun with other settings \(division\)"):
        run_training(options)
    state = torch.load(tmp_path / "m.state")
    del state["identity"]["division"]
    torch.save(state, tmp_path / "m.state")
    assert run_training(options).steps
    with pytest.raises(ParameterError, match=r"m\.pt was made with other settings \(division\)"):
        table.write_text(before)
        run_training(options)

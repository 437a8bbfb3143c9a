"""Options of a run arrive where they are used; one that is not passed on would be ignored without a word."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dfer.train import run
from dfer.train.data.batches import Sampling
from dfer.train.data.choice import DataChoice
from dfer.train.data.features import Extraction
from dfer.train.models.clip import load_clip
from dfer.train.options import TrainOptions
from dfer.train.training import TrainSettings

OF_THE_RUN = {"shift", "rank", "world", "window", "clip_norm"}
"""Fields that no option sets."""


class Stop(Exception):
    pass


@pytest.fixture
def options(tmp_path: Path) -> TrainOptions:
    """Nothing has its default value."""
    rng, rows = np.random.default_rng(0), ["image,label,person,split"]
    (tmp_path / "images").mkdir()
    for label in ("happiness", "sadness"):
        for number in range(4):
            (clip := tmp_path / "faces" / label / str(number)).mkdir(parents=True)
            for path in (clip / "0.png", tmp_path / "images" / f"{label}{number}.png"):
                cv2.imwrite(str(path), rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
            rows.append(f"images/{label}{number}.png,{label},{number},train")
    (tmp_path / "labels.csv").write_text("\n".join([*rows, ""]))
    return TrainOptions(
        tmp_path / "m.pt",
        DataChoice("folder", tmp_path / "faces", workers=1),
        stills=tmp_path / "labels.csv",
        stills_share=0.25,
        stills_most=3,
        method_options={"tokens": 2, "single_step": True},
        clip="dfer-nano",
        pretrained="weights.pt",
        image_size=96,
        patches=7,
        crop=64,
        validation=0.3,
        epochs=(1, 2, 3),
        learning_rate=(0.01, 0.02, 0.03),
        depth=(1, 1, 1),
        views=1,
        augmentation="paper",
        features=tmp_path / "stored",
        batch=8,
        balance=0.25,
        span=0.75,
        history=0.125,
        class_weights=True,
        ema=0.5,
        precision="bf16",
        seed=3,
    )


def test_every_option_arrives_where_it_is_used(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, list[Any]] = defaultdict(list)
    given: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = defaultdict(list)

    def record(name: str, stand_in: Callable[..., Any] | None = None) -> None:
        use = stand_in or getattr(run, name)

        def recording(*arguments: Any, **named: Any) -> Any:
            given[name].append((arguments, named))
            made[name].append(use(*arguments, **named))
            return made[name][-1]

        monkeypatch.setattr(run, name, recording)

    def stop(*_: Any, **__: Any) -> None:
        raise Stop

    for name in ("Sampling", "TrainSettings", "Extraction", "StillClips", "FeatureBatches", "stored_features"):
        record(name)
    record("load_clip", lambda *_, **__: load_clip("dfer-nano"))
    record("Trainer", stop)
    with pytest.raises(Stop):
        run.run_training(options)

    for settings in (Sampling, TrainSettings, Extraction):
        names = {field.name for field in fields(settings)} - OF_THE_RUN
        for name in names - ({"batch"} if settings is Extraction else set()):
            assert getattr(options, name) != getattr(TrainOptions, name), name
            for one in made[settings.__name__]:
                assert getattr(one, name) == getattr(options, name), (settings, name)
    ((arguments, named),) = given["load_clip"]
    assert arguments == ("dfer-nano", "weights.pt")
    assert named == {"crop_size": 64, "image_size": 96, "patches": 7}
    ((arguments, _),) = given["Trainer"]
    (phase,) = arguments[1]
    assert (phase.epochs, set(phase.rates.values())) == (6, {0.03})
    (stills,) = made["StillClips"]
    assert len(stills) == 6  # three of each class
    assert [share for _, share in given["FeatureBatches"][0][0][0]] == [0.75, 0.25]
    assert {arguments[0] for arguments, _ in given["stored_features"]} == {options.features}
    assert arguments[7]["validation"] == options.validation

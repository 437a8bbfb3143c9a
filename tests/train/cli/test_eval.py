"""`dfer-eval` on other data: the protocol it names, classes by description, clips without a counterpart."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from dfer.export.exporting import describe_bundle, export_checkpoint
from dfer.runtime.bundle import Bundle
from dfer.train.cli.eval import main as evaluate
from dfer.train.cli.train import main as train
from dfer.train.evaluation import Model
from helpers import edit_manifest

CLASSES = ("joy", "rage", "pain")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of clips of one frame each, `a` and `b`, captions of a's, and a model that learned those."""
    folder, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    for name in ("a", "b"):
        for label in CLASSES:
            for number in range(3):
                clip = folder / name / label / str(number)
                clip.mkdir(parents=True)
                cv2.imwrite(str(clip / "0.png"), rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    lines = [{"clip": f"{label}/{n}", "text": f"the {n}th lip moves"} for label in CLASSES for n in range(3)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(train, folder / "zero.pt", *MODEL, "--method", "zero-shot", *DATA, folder / "a", *told(folder))
    export_checkpoint(folder / "zero.pt", folder / "zero.dfer")
    return folder


SMALL = ["--clip", "dfer-nano", "--views", 0, "--batch", 4, "--epochs", 1]
MODEL = [*SMALL, "--validation", 0.3]
DATA = ["--workers", 1, "--data", "folder", "--root"]


def told(folder: Path) -> list[object]:
    return ["--captions", folder / "captions.jsonl"]


def run(command: Any, *arguments: object) -> str:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test(model: Path, *arguments: object) -> tuple[str, dict[str, Any]]:
    out = model.with_suffix(".json")
    printed = run(evaluate, model, *arguments, "--json", out)
    return printed, json.loads(out.read_text())


test.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", ["zero.pt", "zero.dfer"])
def test_the_protocol_follows_from_the_sets_of_captions_and_test(root: Path, model: str) -> None:
    printed, values = test(root / model, *DATA, root / "b")
    assert "protocol: zero-shot; captions of a; tested on b\n" in printed
    told = {name: values[name] for name in ("protocol", "training_sets", "caption_sets", "test_set", "fold")}
    assert told == {"protocol": "zero-shot", "training_sets": [], "caption_sets": ["a"], "test_set": "b", "fold": None}
    printed, values = test(root / model, *DATA, root / "a")
    assert values["protocol"] == "not zero-shot: captions and test come from a"
    assert "protocol: not zero-shot: captions and test come from a;" in printed


def test_classes_of_other_data_are_matched_and_the_rest_is_counted(root: Path) -> None:
    printed, values = test(root / "zero.pt", *DATA, root / "b")
    assert values["counterparts"] == {"joy": "happiness", "rage": "anger"}
    unseen = ["sadness", "neutral", "surprise", "disgust", "fear"]
    assert values["no_counterpart"] == {"data": {"pain": 3}, "model": unseen}
    assert values["clips"] == 6
    assert "joy counts as happiness" in printed
    assert "left out: 3 clips of classes that the model does not have (pain 3)" in printed


def test_described_classes_are_tested_of_checkpoint_and_bundle(root: Path) -> None:
    texts = root / "texts.json"
    texts.write_text(json.dumps({"pain": ["a face in pain", "one who hurts"], "rage": "a scowl", "Joy": "a smile"}))
    confusions = []
    for model in ("zero.pt", "zero.dfer"):
        _, values = test(root / model, "--describe", texts, *DATA, root / "b")
        assert (values["classes"], values["clips"]) == (["pain", "rage", "Joy"], 9)
        assert (values["described"], values["counterparts"]) == ("texts.json", {"joy": "Joy"})
        confusions.append(values["confusion"])
    assert confusions[0] == confusions[1]


@pytest.mark.long
def test_a_bundle_whose_manifest_does_not_name_its_encoders_yet_can_be_described(root: Path, tmp_path: Path) -> None:
    old, texts = tmp_path / "old.dfer", tmp_path / "texts.json"
    shutil.copytree(root / "zero.dfer", old)
    precisions = json.loads((old / "manifest.json").read_text())["precisions"]
    del precisions["fp32"]["files"]
    edit_manifest(old, precisions=precisions)
    texts.write_text(json.dumps({"pain": "a face in pain", "Joy": "a smile"}))
    described = describe_bundle(Bundle.open(old), root / "zero.pt", texts, tmp_path / "new.dfer", lambda step: None)
    assert described.manifest.classes == ("pain", "Joy")
    assert described.read("encoder.fp32.onnx") == Bundle.open(old).read("encoder.fp32.onnx")


def test_a_described_bundle_does_not_claim_what_was_measured_of_the_old_classes(root: Path, tmp_path: Path) -> None:
    old, texts = tmp_path / "old.dfer", tmp_path / "texts.json"
    shutil.copytree(root / "zero.dfer", old)
    content = json.loads((old / "manifest.json").read_text())
    parity = {"cosine": 1.0, "max_delta": 0.0, "top1": 1.0, "frames": 64}
    providers = {
        name: {"parity": parity, "passes": name == "cpu", "latency_ms": {"1": 1.0}} for name in ("cpu", "cuda")
    }
    precisions = {"fp32": {**content["precisions"]["fp32"], "providers": providers}}
    provenance = {**content["provenance"], "created": "2020-02-02T00:00:00+00:00", "versions": {"torch": "1.0"}}
    edit_manifest(old, precisions=precisions, recommended={"cpu": "fp32"}, provenance=provenance)
    texts.write_text(json.dumps({"pain": "a face in pain", "Joy": "a smile"}))
    found = describe_bundle(Bundle.open(old), root / "zero.pt", texts, tmp_path / "new.dfer").manifest
    kept = {"parity": {"cosine": 1.0, "frames": 64}, "latency_ms": {"1": 1.0}}
    assert found.precisions["fp32"]["providers"] == {"cpu": kept, "cuda": {**kept, "passes": False}}
    assert found.recommended == {"cpu": "fp32"}  # an encoder, which is the same
    head = found.provenance["head"]
    assert found.provenance["created"] < head["created"] and head["versions"]["torch"] == version("torch")


def test_what_there_is_none_of_is_no_number(root: Path) -> None:
    """No class with ten clips, and, where one class is all that there is, nothing that is wrong."""
    (only := root / "only.json").write_text(json.dumps({"pain": "a face in pain", "sleep": "a face asleep"}))
    printed, values = test(root / "zero.pt", "--describe", only, *DATA, root / "b")
    assert (values["clips"], values["uar_min10"]) == (3, None)
    assert "10 clips" not in printed and "nan" not in printed
    assert (values["war"] in (0, 1)) == ("– when" in " ".join(printed.split()))


def test_labels_make_it_supervised_or_cross_data(root: Path) -> None:
    out = root / "fine.pt"
    rest = ["--method", "finecliper", "--option", "adapter=none"]
    run(train, out, *MODEL, *rest, *DATA, root / "a", *told(root))
    seen = "not held out: trained on these clips"
    assert test(out, *DATA, root / "a")[1]["protocol"] == f"{seen}; not zero-shot: captions and test come from a"
    assert test(out, *DATA, root / "b")[1]["protocol"] == "cross-data"
    assert test(out, *DATA, root / "b")[1]["training_sets"] == ["a"]


def test_what_training_prints_as_next_tests_on_the_same_data(root: Path, tmp_path: Path) -> None:
    for label, own in zip(CLASSES, ("attentive", "bored", "so so"), strict=True):
        shutil.copytree(root / "a" / label, tmp_path / "my clips" / own)
    method = ["--method", "finecliper", "--option", "adapter=none"]
    printed = run(train, tmp_path / "own.pt", *MODEL, *method, *DATA, tmp_path / "my clips")
    said = re.search(r"next: dfer-eval (.*), dfer-export", printed)
    assert said is not None
    assert "WAR" in run(evaluate, *shlex.split(said[1]))
    alone = CliRunner().invoke(evaluate, [str(tmp_path / "own.pt"), "--identities", "1"])
    assert alone.exit_code != 0 and "--data folder --root" in alone.output


def test_splits_that_epochs_were_chosen_or_trained_on_are_no_test(root: Path, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        shutil.copytree(root / "a", tmp_path / "faces" / split)
    pictures = {split: sorted((tmp_path / "faces" / split).rglob("*.png")) for split in ("train", "val")}
    rows = [f"{path},{path.parts[-3]},{split}" for split, paths in pictures.items() for path in paths]
    (table := tmp_path / "labels.csv").write_text("\n".join(["image,label,split", *rows]))
    out, bundle, data = tmp_path / "chosen.pt", tmp_path / "chosen.dfer", [*DATA, tmp_path / "faces"]
    rest = ["--method", "finecliper", "--option", "adapter=none", "--stills", table, "--validation-split", "val"]
    share = MODEL.index("--validation")
    assert "on the val split" in run(train, out, *MODEL[:share], *MODEL[share + 2 :], *rest, *data)
    export_checkpoint(out, bundle)
    chosen = "supervised; epochs chosen and calibrated on this split"
    for arguments, protocol, split in (
        (data, "supervised", "test"),
        ([*data, "--split", "val"], chosen, "val"),
        ([*data, "--split", "train"], "not held out: trained on these clips", "train"),
        (["--stills", table], chosen, "val"),
    ):
        for model in (out, bundle):
            printed, values = test(model, *arguments)
            assert (values["protocol"], values["split"]) == (protocol, split)
            assert f"protocol: {protocol}; labels of faces" in printed


def test_splits_of_folders_are_the_same_by_any_of_their_names(root: Path, tmp_path: Path) -> None:
    for split in ("Train", "validation", "testing"):
        shutil.copytree(root / "a", tmp_path / "faces" / split)
    out, data = tmp_path / "chosen.pt", [*DATA, tmp_path / "faces"]
    rest = ["--method", "finecliper", "--option", "adapter=none", *data, "--validation-split"]
    assert "on the val split" in run(train, out, *SMALL, *rest, "validation")
    chosen = "supervised; epochs chosen and calibrated on this split"
    for split, name, protocol in (
        ("val", "val", chosen),
        ("Validation", "val", chosen),
        ("Train", "train", "not held out: trained on these clips"),
        ("test", "test", "supervised"),
    ):
        values = test(out, *data, "--split", split)[1]
        assert (values["split"], values["protocol"]) == (name, protocol)
    assert "epochs were chosen on the test split" in run(train, out, *SMALL, *rest, "testing")


def test_photographs_without_a_val_split_are_tested_on_test(root: Path, tmp_path: Path) -> None:
    pictures = enumerate(sorted((root / "a").rglob("*.png")))
    rows = [f"{path},{path.parts[-3]},{('train', 'test')[number % 2]}" for number, path in pictures]
    (table := tmp_path / "labels.csv").write_text("\n".join(["image,label,split", *rows]))
    printed, values = test(root / "zero.pt", "--stills", table)
    assert values["split"] == "test" and "labels.csv, split test" in printed
    assert test(root / "zero.pt", "--stills", table, "--split", "test")[1] == values
    refused = CliRunner().invoke(evaluate, [str(root / "zero.pt"), "--stills", str(table), "--split", "val"])
    assert "no rows with split 'val' to use; its splits are test, train" in " ".join(refused.output.split())


def test_a_split_that_is_not_there_is_refused_and_all_clips_are_called_so(root: Path) -> None:
    printed, values = test(root / "zero.pt", *DATA, root / "b")
    assert (values["data"], values["split"]) == ("zero.pt on folder, all clips", None)
    assert "split" not in printed
    assert test(root / "zero.pt", *DATA, root / "b", "--split", "test")[1] == values  # the default by its name
    for data, name in (([*DATA, root / "b"], root / "b"), ([], "40 procedural people")):
        arguments = [str(argument) for argument in (root / "zero.pt", *data, "--split", "nonsense")]
        result = CliRunner().invoke(evaluate, arguments)
        assert result.exit_code == 1
        assert f"{name} has no split 'nonsense'; leave --split out" in " ".join(result.output.split())


def test_scores_of_a_bundle_say_what_ran_it_and_what_the_runtime_warns_of(root: Path, bundle: Path) -> None:
    recommended = Bundle.open(bundle).manifest.recommended["cpu"]
    for arguments in ([], ["--provider", "auto", "--precision", recommended]):
        printed, values = test(bundle, "--identities", 1, *arguments)
        provider = values["provider"]
        assert provider != "auto" and values["precision"] == recommended
        assert values["data"] == f"copy.dfer ({recommended} on {provider}) on 1 procedural people not trained on"
        assert values["data"] in " ".join(printed.split()) and "warning" not in printed
    precisions = json.loads((bundle / "manifest.json").read_text())["precisions"]
    precisions["fp32"]["providers"]["cpu"]["passes"] = False
    edit_manifest(bundle, precisions=precisions)
    printed, values = test(bundle, "--identities", 1, "--precision", "fp32")
    assert "warning: fp32 of this bundle failed its gate on cpu" in printed and values["precision"] == "fp32"
    _, values = test(root / "zero.pt", *DATA, root / "b")
    assert (values["provider"], values["precision"]) == (None, None)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("m.pt", ["--stills", "labels.csv", "--max-missing", "0.9"], "--max-missing: no effect with --stills"),
        (
            "m.pt",
            ["--stills", "labels.csv", "--data", "dfew", "--root", "DFEW"],
            "--data, --root: no effect with --stills",
        ),
        (
            "m-{fold}.pt",
            ["--data", "dfew", "--root", "DFEW", "--fold", "2"],
            "--fold: no effect with {fold} in m-{fold}.pt",
        ),
    ],
)
def test_options_without_an_effect_are_refused(model: str, options: list[str], words: str) -> None:
    result = CliRunner().invoke(evaluate, [model, *options])
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())


def test_long_names_of_many_classes_stay_whole_in_the_confusion_matrix(root: Path) -> None:
    names = ["attentive", "attentive-not", *(f"disappointment-{number}" for number in range(8)), "pain"]
    (texts := root / "long.json").write_text(json.dumps(dict.fromkeys(names, "a face")))
    printed, values = test(root / "zero.pt", "--describe", texts, *DATA, root / "b")
    header = next(line.split() for line in printed.splitlines() if line.split()[-1:] == ["recall"])
    assert header == [*map(str, range(1, 12)), "recall"]
    for number, (name, counts) in enumerate(zip(values["classes"], values["confusion"], strict=True), 1):
        (row,) = (line for line in printed.splitlines() if line.split()[:2] == [str(number), name])
        assert row.split()[2:-1] == list(map(str, counts))
        assert len(row) <= 80


class Joyful(Model):
    """A stand-in for a model, to which every clip shows joy; it keeps the first pixel of every frame it is given."""

    size, classes, temperature = 48, CLASSES, 1.0

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def classify(self, frames: np.ndarray) -> np.ndarray:
        self.seen.append(frames[:, 0, 0, 0].tolist())
        return np.array([0.8, 0.1, 0.1], np.float32)


@pytest.fixture
def joyful(monkeypatch: pytest.MonkeyPatch) -> tuple[Joyful, list[tuple[Any, ...]]]:
    """The stand-in, and what it is opened with."""
    model: Joyful = Joyful()
    opened: list[tuple[Any, ...]] = []

    def open_model(*arguments: Any) -> Joyful:
        opened.append(arguments)
        return model

    monkeypatch.setattr("dfer.train.evaluation.open_model", open_model)
    return model, opened


def test_five_models_are_tested_on_a_fold_each_and_their_mean_is_printed(
    root: Path, joyful: tuple[Joyful, list[tuple[Any, ...]]]
) -> None:
    tested = [f"a/{clip}" for clip in ("joy/0", "rage/0", "pain/0", "rage/1", "pain/1")]
    rows = [f"{clip},{clip.split('/')[1]},test,{fold}" for fold in range(1, 6) for clip in tested[:fold]]
    (root / "folds.csv").write_text("\n".join(["clip,label,split,fold", *rows]))
    out = root / "folds.json"
    call = [root / "m-{fold}.pt", "--data", "csv", "--root", root / "folds.csv", "--workers", 1, "--json", out]
    printed = run(evaluate, *call, "--provider", "openvino", "--precision", "int8")
    assert [one[:3] for one in joyful[1]] == [(root / f"m-{fold}.pt", "openvino", "int8") for fold in range(1, 6)]
    values = json.loads(out.read_text())
    assert [(one["fold"], one["clips"]) for one in values] == [(fold, fold) for fold in range(1, 6)]
    assert [one["war"] for one in values] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert f"mean of 5 folds   WAR {sum(1 / n for n in range(1, 6)) / 5:.4f}   UAR 0.5000" in printed


def test_the_folds_of_a_table_decide_which_models_are_tested(
    root: Path, joyful: tuple[Joyful, list[tuple[Any, ...]]]
) -> None:
    rows = ["joy/0,joy,test,2", "rage/0,rage,test,10", "joy/1,joy,test,3", "pain/0,pain,train,"]
    (root / "three.csv").write_text("\n".join(["clip,label,split,fold", *(f"a/{row}" for row in rows)]))
    call = [root / "m-{fold}.pt", "--data", "csv", "--root", root / "three.csv"]
    printed = run(evaluate, *call)
    assert [one[0].name for one in joyful[1]] == ["m-2.pt", "m-3.pt", "m-10.pt"]
    assert "mean of 3 folds   WAR 0.6667" in printed
    (root / "none.csv").write_text("clip,label,split\na/joy/0,joy,test\n")
    refused = CliRunner().invoke(evaluate, [str(argument) for argument in [*call[:-1], root / "none.csv"]])
    assert "none.csv: no row has a fold; name one model, without {fold}" in " ".join(refused.output.split())


def test_frames_are_shuffled_where_asked_for(tmp_path: Path, joyful: tuple[Joyful, list[tuple[Any, ...]]]) -> None:
    (clip := tmp_path / "data" / "joy" / "0").mkdir(parents=True)
    for number in range(16):
        cv2.imwrite(str(clip / f"{number:02}.png"), np.full((48, 48, 3), number, np.uint8))
    for options in ([], ["--shuffle-frames"]):
        run(evaluate, tmp_path / "m.pt", *DATA, tmp_path / "data", *options)
    ordered, shuffled = joyful[0].seen
    assert ordered == list(range(16)) == sorted(shuffled) != shuffled


@pytest.mark.parametrize("votes", [False, True])
def test_photographs_may_have_classes_of_ones_own(root: Path, tmp_path: Path, votes: bool) -> None:
    """As labels or as votes: in training those of the clips, in a test those of checkpoint and bundle."""
    rows = ["image,split,joy,rage,pain,unknown" if votes else "image,split,label"]
    for number, label in enumerate(CLASSES * 4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((48, 48, 3), 20 * number, np.uint8))
        told = ",".join(str(2 * (name == label)) for name in CLASSES) + ",1" if votes else label.title()
        rows.append(f"{number}.png,{'val' if number < 3 else 'train'},{told}")
    (table := tmp_path / "labels.csv").write_text("\n".join(rows))
    out = tmp_path / "own.pt"
    call = [*MODEL, "--method", "finecliper", "--option", "adapter=none", *DATA, root / "a", "--stills", table]
    printed = run(train, out, *call)
    assert "photographs to train on + to validate on: joy " in printed
    models = [out]
    if votes:
        models.append(export_checkpoint(out, out.with_suffix(".dfer")).bundle.path)
    for model in models:
        _, values = test(model, "--stills", table)
        assert (set(values["classes"]), values["clips"]) == (set(CLASSES), 3)
        assert values["no_counterpart"] == {"data": {}, "model": []}
    if not votes:
        table.write_text(table.read_text().replace("Rage", "Rapture"))
        refused = CliRunner().invoke(train, [str(argument) for argument in (out, *call)])
        assert "line 6: unknown label 'Rapture'; allowed are joy, pain, rage\n" in refused.output
        drawn = [out, *call[: -len(DATA) - 3], "--workers", 1, "--identities", 3, "--stills", table]
        refused = CliRunner().invoke(train, [str(argument) for argument in drawn])
        assert "unknown label" in refused.output and "(dfer-train --data folder, or csv)" in refused.output

"""--provider auto takes the fastest that works, once per machine and bundle; slow and broken ones are made here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from time import sleep

import numpy as np
import pytest

from dfer.runtime import machine
from dfer.runtime.bundle import DEMO, Bundle
from dfer.runtime.engines import BACKENDS, Engine, choice, open_graph
from dfer.runtime.engines.ort import OrtBackend, OrtEngine
from dfer.runtime.errors import DferError
from dfer.runtime.recognizer import Recognizer
from helpers import edit_manifest


class Sleeper(Engine):
    """An engine whose run takes `seconds`; nobody looks at what comes out."""

    def __init__(self, provider: str, seconds: float) -> None:
        self.provider, self._seconds = provider, seconds

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        sleep(self._seconds)
        return {}

    def close(self) -> None: ...


RECOMMENDED = Bundle.open(DEMO).manifest.recommended["cpu"]


class Here:
    """Providers of a machine that is not here: seconds that each run takes, None where it fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cache: Path, **delays: float | None) -> None:
        self.opened: list[tuple[str, str]] = []
        self.delays, self.said = delays, list[str]()
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        monkeypatch.setattr(choice, "_SECONDS", 0.05)
        monkeypatch.setattr(choice, "present_providers", lambda: list(self.delays))
        monkeypatch.setattr(choice, "open_graph", self._open)

    def _open(self, bundle: Bundle, graph: str, provider: str, *_: object) -> Engine:
        self.opened.append((provider, graph))
        delay = self.delays[provider]
        if delay is None:
            raise DferError(f"{provider} does not start")
        return Sleeper(provider, delay)

    def choose(self, bundle: Path = DEMO, threads: int | None = 2, precision: str = "auto") -> tuple[str, str]:
        return choice.choose(Bundle.open(bundle), threads, self.said.append, precision)

    def trials(self) -> int:
        found = sum(graph.startswith("encoder") for _, graph in self.opened)
        self.opened.clear()
        return found


def test_the_fastest_is_taken_and_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = Here(monkeypatch, tmp_path, openvino=0.03, cpu=0.0, cuda=0.04)
    assert here.choose() == ("cpu", RECOMMENDED)
    assert here.trials() == 3
    assert here.choose() == ("cpu", RECOMMENDED)
    assert here.trials() == 0
    here.choose(threads=1)
    assert here.trials() == 3
    (record, _) = json.loads((tmp_path / "dfer-edge" / "choices.json").read_text())["choices"].values()
    assert record["milliseconds"]["cuda"] > record["milliseconds"]["cpu"]
    assert not here.said


def test_the_only_provider_needs_no_trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = Here(monkeypatch, tmp_path, cpu=0.0)
    assert here.choose() == ("cpu", RECOMMENDED)
    assert (here.trials(), list(tmp_path.iterdir())) == (0, [])


def test_a_provider_that_fails_is_told_and_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = Here(monkeypatch, tmp_path, cuda=None, cpu=0.0)
    assert here.choose() == ("cpu", RECOMMENDED)
    (said,) = here.said
    assert "leaves out cuda" in said
    here.trials()
    assert here.choose() == ("cpu", RECOMMENDED)  # remembered, and so is why
    assert here.trials() == 0
    assert "leaves out cuda: cuda does not start (as" in here.said[1] and str(tmp_path) in here.said[1]
    here.delays["cpu"] = None
    with pytest.raises(DferError, match=r"no provider runs .*; cuda: cuda does not start; cpu: cpu does not start"):
        here.choose(threads=1)
    del here.delays["cpu"]
    here.delays["webgpu"] = None
    with pytest.raises(DferError, match=r"no provider runs .*; cuda: cuda does not start; webgpu: webgpu does not"):
        here.choose(threads=1)


@pytest.mark.parametrize("plugin", ["onnxruntime-ep-webgpu", "onnxruntime-ep-nv-tensorrt-rtx-cu13"])
def test_an_upgraded_plug_in_is_tried_again(plugin: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = Here(monkeypatch, tmp_path, webgpu=0.01, cpu=0.0)
    known = metadata.version
    for version in ("0.4", "0.5"):
        monkeypatch.setattr(metadata, "version", lambda name, new=version: new if name == plugin else known(name))
        here.choose()
        assert here.trials() == 2
        assert machine.versions()[plugin] == version


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b'{"choices": {"a": 3}}', b'{"choices": []}'])
def test_a_damaged_record_is_written_anew(content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = Here(monkeypatch, tmp_path, openvino=0.02, cpu=0.0)
    (tmp_path / "dfer-edge").mkdir()
    (tmp_path / "dfer-edge" / "choices.json").write_bytes(content)
    assert here.choose() == ("cpu", RECOMMENDED)
    here.trials()
    assert here.choose() == ("cpu", RECOMMENDED)
    assert here.trials() == 0


def test_a_remembered_provider_that_is_gone_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = Here(monkeypatch, tmp_path, openvino=0.0, cpu=0.03)
    assert here.choose()[0] == "openvino"
    record = tmp_path / "dfer-edge" / "choices.json"
    record.write_text(record.read_text().replace('"openvino",', '"abacus",'))
    assert here.choose()[0] == "openvino"
    here.delays = {"cuda": 0.02, "cpu": 0.0}
    assert here.choose()[0] == "cpu"


def test_a_cache_that_cannot_be_written_costs_the_trial_each_time_and_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = Here(monkeypatch, tmp_path, openvino=0.02, cpu=0.0)
    (tmp_path / "dfer-edge").write_text("a file where the folder should be")
    for _ in range(2):
        assert here.choose() == ("cpu", RECOMMENDED)
        assert here.trials() == 2
    assert "cannot be kept" in here.said[0]


def test_each_provider_runs_what_the_bundle_recommends_for_it(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(DEMO, tmp_path / "copy.dfer"))
    graph = "encoder.fp32.onnx"
    entry = {"files": {"encoder": {"default": graph}, "head": "head.fp32.onnx"}}
    edit_manifest(bundle, precisions={"fp32": entry, "int8": entry}, recommended={"openvino": "int8"})
    opened = Bundle.open(bundle)
    assert choice.precision_for(opened, "openvino") == "int8"
    assert choice.precision_for(opened, "cpu") == "fp32"


def test_a_precision_asked_for_by_name_that_failed_its_gate_there_is_warned_of(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(DEMO, tmp_path / "copy.dfer"))
    precisions = json.loads((bundle / "manifest.json").read_text())["precisions"]
    precisions["int8"]["providers"]["cpu"]["passes"] = False
    edit_manifest(bundle, precisions=precisions, recommended={"cpu": "fp32"})
    for asked, words in (("int8", "int8 of this bundle failed its gate on cpu"), ("fp32", ""), ("auto", "")):
        said: list[str] = []
        with Recognizer(bundle, provider="cpu", precision=asked, warn=said.append):
            assert [words in line for line in said] == [True] * bool(words)


GATED = {"gate": "default"}
OFF = {"gate": "off"}
MEASURED = {"gate": "default", "providers": {"cpu": {}, "tensorrt": {}}}
CPU_ONLY = {"gate": "default", "files": {"encoder": {"cpu": "encoder.fp32.onnx"}, "head": "head.fp32.onnx"}}


@pytest.mark.parametrize(
    ("precisions", "recommended", "provider", "precision"),
    [
        # What was measured for ONNX Runtime's backend on the same library holds for the native one, and only for that.
        ({"fp32": GATED, "fp16": GATED, "int8": GATED}, {"cpu": "fp16", "tensorrt": "int8"}, "native-tensorrt", "int8"),
        ({"fp32": GATED, "fp16": GATED, "int8": GATED}, {"tensorrt": "int8"}, "native-tensorrt-rtx", "fp16"),
        ({"fp32": GATED, "fp16": GATED}, {"tensorrt-rtx": "fp32"}, "native-tensorrt-rtx", "fp32"),
        # Nothing measured: the fastest that passed its gate elsewhere.
        ({"fp32": GATED, "int8": GATED, "fp16": GATED}, {"cpu": "int8"}, "native-tensorrt", "fp16"),
        ({"fp32": GATED, "int8": GATED}, {}, "native-tensorrt", "int8"),
        ({"fp32": GATED, "int8": GATED, "fp16": OFF}, {}, "native-tensorrt", "int8"),
        ({"fp32": GATED, "int8": CPU_ONLY}, {}, "native-tensorrt", "fp32"),
        ({"fp32": OFF, "int8": OFF, "fp16": OFF}, {}, "native-tensorrt", "fp32"),
        ({"fp32": GATED, "fp16": GATED}, {}, "cuda", "fp16"),
        ({"fp32": GATED, "fp16": GATED, "int8": GATED}, {}, "cpu", "fp32"),
        # Measured, and none passed there.
        ({"fp32": MEASURED, "fp16": MEASURED}, {"cpu": "fp16"}, "native-tensorrt", "fp32"),
    ],
)
def test_a_precision_is_found_for_backends_that_export_could_not_measure(
    precisions: dict[str, dict[str, object]], recommended: dict[str, str], provider: str, precision: str, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(DEMO, tmp_path / "copy.dfer"))
    files = {"files": {"encoder": {"default": "encoder.fp32.onnx"}, "head": "head.fp32.onnx"}}
    edit_manifest(
        bundle, precisions={name: {**files, **entry} for name, entry in precisions.items()}, recommended=recommended
    )
    assert choice.precision_for(Bundle.open(bundle), provider) == precision


def test_what_is_present_here_really_competes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(choice, "_SECONDS", 0.05)
    candidates = choice.present_providers()
    assert "cpu" in candidates
    timings, _ = choice.compare_providers(Bundle.open(DEMO), ["cpu"])
    assert timings["cpu"] > 0
    assert choice.choose(Bundle.open(DEMO))[0] in candidates


def test_a_precision_asked_for_by_name_is_run_by_the_fastest_that_can(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(DEMO, tmp_path / "copy.dfer"))
    entry = {"files": {"encoder": {"default": "encoder.fp32.onnx"}, "head": "head.fp32.onnx"}}
    edit_manifest(bundle, precisions={"fp32": entry, "bf16": entry, "int8": CPU_ONLY}, recommended={"cpu": "int8"})
    here = Here(monkeypatch, tmp_path, cpu=0.02, openvino=0.0)
    assert here.choose(bundle) == ("openvino", "fp32")
    assert choice.resolve(Bundle.open(bundle), "auto", "int8") == ("cpu", "int8")
    here.delays["openvino"] = 0.04  # what won in one precision says nothing of another
    assert here.choose(bundle, precision="fp32") == ("cpu", "fp32")
    monkeypatch.setattr(choice, "present_providers", lambda: ["cpu"])
    monkeypatch.setattr(choice, "open_graph", open_graph)
    with pytest.raises(DferError, match="precision: cpu does not run bf16 here"):
        Recognizer(bundle, precision="bf16")


def test_what_a_provider_leaves_to_the_cpu_is_only_told_if_it_is_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu = BACKENDS["cpu"]
    assert isinstance(cpu, OrtBackend)
    monkeypatch.setitem(BACKENDS, "leaving", replace(cpu, name="leaving", on_cpu=("Shape",)))
    monkeypatch.setattr(OrtEngine, "on_cpu", lambda _: ["Shape"])
    monkeypatch.setattr(choice, "_SECONDS", 0.05)
    monkeypatch.setattr(choice, "median", len)  # all ran as often as each other, so the first wins
    for winner, told in (("cpu", []), ("leaving", ["head.fp32.onnx", "encoder.fp32.onnx"])):
        said: list[str] = []
        monkeypatch.setattr(choice, "present_providers", lambda first=winner: [first, *({"leaving", "cpu"} - {first})])
        with Recognizer(precision="fp32", warn=said.append) as recognizer:
            assert recognizer.provider == winner
        assert said == [f"leaving leaves Shape of {graph} to the CPU" for graph in told]


def test_a_choice_that_does_not_start_any_more_is_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = Here(monkeypatch, tmp_path, openvino=0.0, cpu=0.002)
    assert here.choose()[0] == "openvino"
    here.delays["openvino"] = None  # a driver broke
    with ExitStack() as stack:
        _, encoder, head = choice.open_engines(Bundle.open(DEMO), "auto", "auto", 2, here.said.append, stack)
        assert (encoder.provider, head.provider) == ("cpu", "cpu")
    assert here.said[0].startswith("provider auto tries all again, since openvino, its last choice, does not run")
    here.said.clear()
    assert here.choose()[0] == "cpu"
    assert "leaves out openvino" in here.said[0]
    with pytest.raises(DferError, match="openvino does not start"), ExitStack() as stack:
        choice.open_engines(Bundle.open(DEMO), "openvino", "auto", 2, here.said.append, stack)


def test_choices_that_are_made_at_once_are_all_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = Here(monkeypatch, tmp_path, openvino=0.0, cpu=0.002)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda threads: here.choose(threads=threads), range(1, 7)))
    here.opened.clear()
    for threads in range(1, 7):
        here.choose(threads=threads)
    assert not here.opened


def test_a_damaged_bundle_is_an_error_and_no_reason_for_another_provider(bundle: Path, own_cache: Path) -> None:
    opened = Bundle.open(bundle)
    graph, _ = opened.manifest.graphs(choice.precision_for(opened, "cpu"), "cpu")
    data = (bundle / graph).read_bytes()
    (bundle / graph).write_bytes(data[:-1] + b"!")
    with pytest.raises(DferError, match=f"{graph} is not the file that was exported"):
        choice.compare_providers(opened, ["cpu", "openvino"])
    assert not list(own_cache.rglob("*.json"))

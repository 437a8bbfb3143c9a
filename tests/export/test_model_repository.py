"""Model repositories for Triton: what is in them, and what happens to what was there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from dfer.export import command
from dfer.export.model_repository import write_repository
from dfer.runtime.bundle import DEMO, Bundle
from dfer.runtime.engines.triton import version_of
from dfer.runtime.engines.trt_library import PRODUCTS, is_installed
from dfer.runtime.errors import DferError


def test_the_model_is_the_encoder_with_the_bundles_digest(tmp_path: Path) -> None:
    bundle = Bundle.open(DEMO)
    folder = write_repository(bundle, tmp_path / "models")
    assert folder == tmp_path / "models" / "demo-encoder"
    version = version_of(bundle.digest, "fp32")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == [
        f"models/demo-encoder/{version}/model.onnx",
        "models/demo-encoder/config.pbtxt",
    ]
    assert (folder / version / "model.onnx").read_bytes() == bundle.read("encoder.fp32.onnx")
    text = (folder / "config.pbtxt").read_text()
    assert bundle.digest in text
    assert "dims: [ 80, 80, 3 ]" in text
    assert "dims: [ 128 ]" in text
    assert "tensorrt" not in text


def test_a_model_is_replaced_and_its_neighbours_stay(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    bundle = Bundle.open(DEMO)
    first = write_repository(bundle, tmp_path)
    (first / "2").mkdir()
    write_repository(bundle, tmp_path, tensorrt=True)
    assert 'name: "tensorrt" parameters { key: "precision_mode" value: "FP32" }' in (first / "config.pbtxt").read_text()
    assert sorted(path.name for path in first.iterdir()) == [version_of(bundle.digest, "fp32"), "config.pbtxt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo-encoder", "other"]


def test_a_model_of_another_bundle_is_never_replaced(tmp_path: Path) -> None:
    for name in ("a b.dfer", "a-b.dfer", "模型.dfer"):
        shutil.copytree(DEMO, tmp_path / name)
    models = tmp_path / "models"
    written = write_repository(Bundle.open(tmp_path / "a b.dfer"), models)
    before = (written / "config.pbtxt").read_bytes()
    assert write_repository(Bundle.open(tmp_path / "a b.dfer"), models) == written
    with pytest.raises(DferError, match=r"a-b-encoder: is there, and of another bundle; rename .*a-b\.dfer"):
        write_repository(Bundle.open(tmp_path / "a-b.dfer"), models)
    (models / "demo-encoder" / "1").mkdir(parents=True)  # somebody's own
    with pytest.raises(DferError, match="demo-encoder: is there, and of another bundle"):
        write_repository(Bundle.open(DEMO), models)
    with pytest.raises(DferError, match=r"模型\.dfer: .*rename the bundle"):
        write_repository(Bundle.open(tmp_path / "模型.dfer"), models)
    assert (written / "config.pbtxt").read_bytes() == before


def test_a_precision_that_the_bundle_has_not_or_has_for_one_provider_only(tmp_path: Path) -> None:
    with pytest.raises(DferError, match="has no encoder in fp16; it has fp32, int8"):
        write_repository(Bundle.open(DEMO), tmp_path, "fp16")
    with pytest.raises(DferError, match="int8 of this bundle is for provider cpu"):
        write_repository(Bundle.open(DEMO), tmp_path, "int8")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DferError, match=r"file: the model .* cannot be written: .*file is not a folder"):
        write_repository(Bundle.open(DEMO), tmp_path / "file")
    with pytest.raises(DferError, match=r"absent/models: the model .* cannot be written: .*absent is not a folder"):
        write_repository(Bundle.open(DEMO), tmp_path / "absent" / "models")


def test_the_command_writes_one_of_a_bundle_and_says_how_to_use_it(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(command.main, list(arguments))
        return result.exit_code, result.output

    status, output = run("--bundle", str(DEMO), "--triton", str(tmp_path / "models"))
    assert status == 0
    assert (tmp_path / "models" / "demo-encoder" / "config.pbtxt").is_file()
    assert f"tritonserver --model-repository={tmp_path / 'models'}" in output
    assert "--provider triton://localhost:8000/demo-encoder" in output
    status, output = run("--bundle", str(DEMO), "--triton", str(tmp_path / "models"), "--triton-precision", "fp16")
    assert (status, "--triton-precision: " in output, "it has fp32" in output) == (1, True, True)
    status, output = run()
    assert (status, "name what to export: --ckpt CHECKPOINT, or --bundle BUNDLE" in output) == (1, True)
    for arguments in ((), ("--ckpt", "a.pt", "--triton", "b")):
        status, output = run("--bundle", str(DEMO), *arguments)
        assert (status, "--bundle is for --triton FOLDER, or for --describe JSON" in output) == (1, True)
    for option in (["--fp16"], ["--window", "1"], ["--gate", "off"], ["--targets", "sm86"], ["--out", "c.dfer"]):
        status, output = run("--bundle", str(DEMO), "--triton", str(tmp_path / "other"), *option)
        assert (status, f"{option[0]}: --bundle is exported already" in output) == (1, True)
    assert not (tmp_path / "other").exists()
    for option in (["--triton-precision", "fp32"], ["--triton-tensorrt"]):
        status, output = run("--bundle", str(DEMO), "--describe", "a.json", "--out", str(tmp_path / "b.dfer"), *option)
        assert (status, f"{option[0]}: is for --triton FOLDER" in output) == (1, True)


def test_what_an_export_could_not_end_with_is_told_before_it_begins(tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "a b.dfer")
    models = tmp_path / "models"
    write_repository(Bundle.open(tmp_path / "a b.dfer"), models)
    triton = ["--triton", str(models)]
    calls = [
        (["--triton-precision", "fp32"], "--triton-precision: is for --triton FOLDER"),
        (["--triton-tensorrt"], "--triton-tensorrt: is for --triton FOLDER"),
        (["--int8-for", "cpu"], "--int8-for: is for --int8; name that, or go without"),
        (["--calib-min", "9"], "--calib-min: is for --calib FACES"),
        ([*triton, "--triton-precision", "fp16"], "--triton-precision: fp16 is not exported; add --fp16"),
        ([*triton, "--triton-precision", "int8"], "--triton-precision: int8 is not exported for a server"),
        (["--triton", str(tmp_path / "absent" / "models")], "absent is not a folder"),
        ([*triton, "--out", str(tmp_path / "模型.dfer")], "rename the bundle"),
        ([*triton, "--out", str(tmp_path / "a-b.dfer")], "is there, and of another bundle"),
        (["--targets", "sm1"], "TensorRT-RTX does not build for sm1"),
        (["--targets", "sm86", "--engine", "none"], "--targets: only TensorRT-RTX builds for other GPUs"),
    ]
    calls += [(["--engine", name], "is not installed") for name in PRODUCTS if not is_installed(name)]
    for arguments, words in calls:  # the checkpoint has not even been looked for
        result = CliRunner().invoke(command.main, ["--ckpt", str(tmp_path / "absent.pt"), *arguments])
        assert (result.exit_code, words in result.output) == (1, True), result.output

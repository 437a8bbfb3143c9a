"""Bundles: whole or refused, in one line, before anything in them is loaded."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dfer.runtime import Recognizer
from dfer.runtime.bundle import Bundle, Manifest, Preprocessing, write_bundle, writing
from dfer.runtime.errors import DferError
from dfer.runtime.storage import exchange
from helpers import edit_manifest, graph_bytes


def refused(path: Path, words: str) -> None:
    with pytest.raises(DferError, match=words) as caught:
        Bundle.open(path).verify()
    assert "\n" not in str(caught.value)


def test_a_good_bundle_opens_and_holds_unit_class_vectors(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    matrix = opened.class_matrix()
    assert matrix.shape == (len(opened.manifest.classes), opened.manifest.width)
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)


def test_the_folder_that_one_is_in_is_a_bundle_with_a_name(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    assert Bundle.open(".").path.name == bundle.name
    refused(Path("/"), "no manifest")


@pytest.mark.parametrize("name", ["encoder.fp32.onnx", "head.fp32.onnx", "class_matrix.npy"])
def test_one_changed_byte_is_found(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    refused(bundle, rf"{name} is not the file that was exported")
    with pytest.raises(DferError, match=f"{name} is not the file"):
        Bundle.open(bundle).read(name)


def test_a_file_that_was_cut_short_is_found_when_a_bundle_is_opened(bundle: Path) -> None:
    whole = (bundle / "encoder.fp32.onnx").read_bytes()
    (bundle / "encoder.fp32.onnx").write_bytes(whole[:-1])
    with pytest.raises(DferError, match=rf"encoder\.fp32\.onnx has {len(whole) - 1} bytes, not the {len(whole)}"):
        Bundle.open(bundle)


def test_what_is_run_is_what_was_checked(bundle: Path) -> None:
    """A file that is replaced behind an open bundle's back is refused, and damage hinders only who reads that file."""
    opened = Bundle.open(bundle)
    encoder = bundle / "encoder.fp32.onnx"
    encoder.write_bytes(encoder.read_bytes()[:-1] + b"!")
    with pytest.raises(DferError, match=r"encoder\.fp32\.onnx is not the file"):
        opened.read("encoder.fp32.onnx")
    assert opened.read("head.fp32.onnx") and opened.class_matrix().any()
    with pytest.raises(DferError, match=r"encoder\.fp32\.onnx is not the file"):
        Recognizer(bundle, provider="cpu", precision="fp32")
    encoder.unlink()
    encoder.symlink_to("/dev/zero")
    with pytest.raises(DferError, match="a link that leads out"):
        opened.read("encoder.fp32.onnx")


@pytest.mark.parametrize(("old", "new"), [('"happiness"', '"hapqiness"'), ('"window": 16', '"window": 17')])
def test_a_changed_manifest_is_found(bundle: Path, old: str, new: str) -> None:
    path = bundle / "manifest.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    refused(bundle, "manifest.json is not the one that was exported")


def test_a_link_in_a_circle_and_deep_nesting_are_refused(bundle: Path) -> None:
    (bundle / "head.fp32.onnx").unlink()
    (bundle / "head.fp32.onnx").symlink_to("head.fp32.onnx")
    refused(bundle, "head.fp32.onnx")
    (bundle / "manifest.json").write_text("[" * 100_000)
    refused(bundle, "cannot be read")


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / "head.fp32.onnx").unlink()
    refused(bundle, "head.fp32.onnx is missing")


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/hostname", "sub/../../x", "..", "a\\..\\b"])
def test_a_path_that_leaves_the_folder_is_refused(bundle: Path, name: str) -> None:
    (bundle.parent / "outside.onnx").write_bytes(b"")
    edit_manifest(bundle, files={name: {"size": 0, "sha256": "0" * 64}})
    refused(bundle, "not a file in the folder")


def test_a_link_out_of_the_folder_is_refused(bundle: Path) -> None:
    outside = bundle.parent / "outside.onnx"
    (bundle / "head.fp32.onnx").rename(outside)
    (bundle / "head.fp32.onnx").symlink_to(outside)
    refused(bundle, "link that leads out")


def test_a_device_of_a_provider_is_read_back_as_written(bundle: Path) -> None:
    precisions = {"fp32": {"files": {"encoder": {"default": "encoder.fp32.onnx", "openvino:npu": "head.fp32.onnx"}}}}
    edit_manifest(bundle, precisions=precisions, recommended={"openvino:gpu": "fp32"})
    manifest = Bundle.open(bundle).manifest
    assert manifest.recommended == {"openvino:gpu": "fp32"}
    assert manifest.graphs("fp32", "openvino:npu")[0] == "head.fp32.onnx"


def test_a_newer_schema_asks_for_an_upgrade(bundle: Path) -> None:
    edit_manifest(bundle, schema=99)
    refused(bundle, "schema 99 is newer .* upgrade")


def test_a_precision_without_its_files_is_refused(bundle: Path) -> None:
    edit_manifest(bundle, precisions={"fp32": {}, "fp16": {}}, recommended={})
    refused(bundle, "lists no encoder.fp16.onnx")


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.dfer", "no such folder")
    (tmp_path / "mine.pt").touch()
    refused(tmp_path / "mine.pt", "is a file, and a bundle is a folder; dfer-export --ckpt makes one of a checkpoint")
    refused(tmp_path, "no manifest.json")
    (tmp_path / "manifest.json").write_text("{")
    refused(tmp_path, "cannot be read")


fields = ["schema", "method", "classes", "window", "width", "scale", "preprocessing", "files", "precisions"]
junk = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(fields), junk)
@example("window", float("inf"))
@example("classes", "abc")
@example("files", {"x" * 300: {"size": 0, "sha256": ""}})
@example("files", {"a\0b": {"size": 0, "sha256": ""}})
@example("files", {"encoder.fp32.onnx": {"size": float("inf"), "sha256": ""}})
def test_a_wild_manifest_gives_a_clear_error_or_an_equal_bundle(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: object
) -> None:
    folder = tmp_path_factory.mktemp("wild") / "wild.dfer"
    write_small(folder)
    edit_manifest(folder, **{field: value})
    try:
        opened = Bundle.open(folder)
        opened.verify()
    except DferError as error:
        assert "\n" not in str(error)
    else:
        assert json.loads(json.dumps(value)) == value or value != value  # only what is as good as the original
        assert len(opened.manifest.classes) >= 1


MANIFEST = Manifest(
    "align-dfer", ("a", "b"), 16, 8, 100.0, Preprocessing(16, 16, (0, 0, 0), (1, 1, 1)), {"fp32": {}}, {}
)
HEAD = graph_bytes("features", 1, ("n", 16, 8), 2)
OTHER_HEAD = graph_bytes("features", 1, ("n", 16, 8), 2, name="other")
FILES = {"encoder.fp32.onnx": graph_bytes(), "head.fp32.onnx": HEAD, "class_matrix.npy": b"m"}


def write_small(folder: Path) -> Bundle:
    return write_bundle(folder, MANIFEST, FILES)


def test_writing_replaces_a_bundle_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_small(tmp_path / "x.dfer")
    write_bundle(tmp_path / "x.dfer", MANIFEST, {**FILES, "head.fp32.onnx": OTHER_HEAD})
    assert (tmp_path / "x.dfer" / "head.fp32.onnx").read_bytes() == OTHER_HEAD
    assert [path.name for path in tmp_path.iterdir()] == ["x.dfer"]


def test_failed_writing_leaves_the_old_bundle_whole(tmp_path: Path) -> None:
    write_small(tmp_path / "x.dfer")
    with pytest.raises(DferError, match="lists no head"):
        write_bundle(tmp_path / "x.dfer", MANIFEST, {"encoder.fp32.onnx": b"other"})
    assert Bundle.open(tmp_path / "x.dfer").read("encoder.fp32.onnx") == FILES["encoder.fp32.onnx"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.dfer"]


def test_a_failed_rename_brings_the_old_bundle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small(tmp_path / "x.dfer")
    rename = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    monkeypatch.setattr(writing, "exchange", lambda *_: False)  # as where the system cannot swap
    with pytest.raises(DferError, match="No space left"):
        write_bundle(tmp_path / "x.dfer", MANIFEST, {**FILES, "head.fp32.onnx": OTHER_HEAD})
    assert Bundle.open(tmp_path / "x.dfer").read("head.fp32.onnx") == HEAD
    assert [path.name for path in tmp_path.iterdir()] == ["x.dfer"]


def test_writing_never_replaces_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("…")
    with pytest.raises(DferError, match="is not a bundle"):
        write_small(tmp_path / "precious")
    with pytest.raises(DferError, match="does not exist"):
        write_small(tmp_path / "nowhere" / "x.dfer")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    assert json.loads((write_small(tmp_path / "y.dfer").path / "manifest.json").read_text())["schema"] == 1


def write_and_die(path: Path, swaps: bool) -> None:
    """Replace a bundle and be killed where there is least of it: after the swap, or between the two renames."""
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self.name == "new":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    def swap(first: Path, second: Path) -> bool:
        if swaps and exchange(first, second):
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    Path.replace, writing.exchange = replace, swap  # type: ignore[method-assign]
    write_bundle(path, MANIFEST, {**FILES, "head.fp32.onnx": OTHER_HEAD})


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("swaps", [False, True])
@pytest.mark.parametrize("opens", [False, True])
def test_a_writer_that_is_killed_hides_no_bundle(tmp_path: Path, swaps: bool, opens: bool) -> None:
    path = tmp_path / "x.dfer"
    write_small(path)
    process = multiprocessing.get_context("fork").Process(target=write_and_die, args=(path, swaps))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert path.exists() == swaps or sys.platform != "linux"
    if opens:
        assert Bundle.open(path).read("head.fp32.onnx") in (HEAD, OTHER_HEAD)
    write_small(path)
    assert Bundle.open(path).read("head.fp32.onnx") == HEAD
    assert [path.name for path in tmp_path.iterdir()] == ["x.dfer"]


def test_many_writers_of_one_bundle_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "x.dfer"
    heads = [graph_bytes("features", 1, ("n", 16, 8), 2, name=f"writer{number}") for number in range(6)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda head: write_bundle(path, MANIFEST, {**FILES, "head.fp32.onnx": head}), heads))
    assert Bundle.open(path).read("head.fp32.onnx") in heads
    assert [path.name for path in tmp_path.iterdir()] == ["x.dfer"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window", 10**9),
        ("window", 16.5),
        ("window", True),
        ("width", 10**9),
        ("width", 65_536),  # with a window of 4096 a gigabyte
        ("scale", float("nan")),
        ("scale", float("inf")),
        ("scale", 0),
        ("scale", -1),
        ("classes", ["a", "a"]),
        ("classes", ["a", "[red]b"]),
        ("classes", ["a", "\x1b[31mb"]),
        ("classes", ["a", "b\n"]),
        ("classes", ["a", "<b>"]),
        ("classes", ["a", "$\\frac$"]),
        ("classes", ["a", "=1+1"]),
        ("classes", ["a", "b" * 65]),
        ("classes", ["a", "confidence"]),
        ("classes", ["a", "unsure"]),
        ("classes", ["a", " "]),
        ("classes", [str(number) for number in range(10_001)]),
        ("method", "\x1b[2J"),
        ("precisions", {"\x1b[2J": {}}),
        ("precisions", {"fp32": {"providers": 3}}),
        ("recommended", {"[red]": "fp32"}),
        ("recommended", {"openvino:../gpu": "fp32"}),
        ("precisions", {"fp32": {"files": {"encoder": {"default": "encoder:gpu"}}}}),
        ("files", {"\x1b[2J": {"size": 0, "sha256": ""}}),
        ("files", {"encoder.fp32.onnx": {"size": 10**400, "sha256": ""}}),
    ],
)
def test_a_manifest_that_is_not_to_be_believed_is_refused(tmp_path: Path, field: str, value: object) -> None:
    write_small(tmp_path / "x.dfer")
    changes = {field: value, **({"window": 4096} if value == 65_536 else {})}
    edit_manifest(tmp_path / "x.dfer", **changes)
    with pytest.raises(DferError) as caught:
        Bundle.open(tmp_path / "x.dfer")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_a_schema_that_is_only_equal_to_one_and_a_repeated_key_are_refused(tmp_path: Path) -> None:
    write_small(tmp_path / "x.dfer")
    for schema in (True, 1.0):
        edit_manifest(tmp_path / "x.dfer", schema=schema)
        refused(tmp_path / "x.dfer", "is not a bundle's manifest")
    edit_manifest(tmp_path / "x.dfer", schema=1)
    manifest = tmp_path / "x.dfer" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"scale":', '"scale": 1.0, "scale":'))
    refused(tmp_path / "x.dfer", "is there twice")


@pytest.mark.skipif(os.name == "nt", reason="needs FIFOs")
@pytest.mark.parametrize("name", ["manifest.json", "head.fp32.onnx"])
def test_pipes_and_devices_are_refused_without_waiting_for_them(tmp_path: Path, name: str) -> None:
    write_small(tmp_path / "x.dfer")
    file = tmp_path / "x.dfer" / name
    file.unlink()
    os.mkfifo(file)
    refused(tmp_path / "x.dfer", f"{name} is not a regular file")
    file.unlink()
    file.symlink_to("/dev/zero")
    refused(tmp_path / "x.dfer", "a link that leads out")


def test_a_class_matrix_that_is_none_is_refused_when_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(DferError, match=r"class_matrix\.npy is not float32 of 2×8"):
        write_small(tmp_path / "x.dfer").class_matrix()

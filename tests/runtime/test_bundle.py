"""Bundles: whole or refused, in one line, before anything in them is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dfer.runtime.bundle import Bundle, Manifest, Preprocessing, write_bundle
from dfer.runtime.errors import DferError
from helpers import edit_manifest


def refused(path: Path, words: str) -> None:
    with pytest.raises(DferError, match=words) as caught:
        Bundle.open(path)
    assert "\n" not in str(caught.value)


def test_a_good_bundle_opens_and_holds_unit_class_vectors(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    matrix = opened.class_matrix()
    assert matrix.shape == (len(opened.manifest.classes), opened.manifest.width)
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["encoder.fp32.onnx", "head.fp32.onnx", "class_matrix.npy"])
def test_one_changed_byte_is_found(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    refused(bundle, rf"{name} is not the file that was exported")


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


def test_a_newer_schema_asks_for_an_upgrade(bundle: Path) -> None:
    edit_manifest(bundle, schema=99)
    refused(bundle, "schema 99 is newer .* upgrade")


def test_a_precision_without_its_files_is_refused(bundle: Path) -> None:
    edit_manifest(bundle, precisions={"fp32": {}, "fp16": {}})
    refused(bundle, "lists no encoder.fp16.onnx")


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.dfer", "no such folder")
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
    except DferError as error:
        assert "\n" not in str(error)
    else:
        assert json.loads(json.dumps(value)) == value or value != value  # only what is as good as the original
        assert len(opened.manifest.classes) >= 1


MANIFEST = Manifest(
    "align-dfer", ("a", "b"), 16, 8, 100.0, Preprocessing(16, 16, (0, 0, 0), (1, 1, 1)), {"fp32": {}}, {}
)
FILES = {"encoder.fp32.onnx": b"e", "head.fp32.onnx": b"h", "class_matrix.npy": b"m"}


def write_small(folder: Path) -> Bundle:
    return write_bundle(folder, MANIFEST, FILES)


def test_writing_replaces_a_bundle_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_small(tmp_path / "x.dfer")
    write_bundle(tmp_path / "x.dfer", MANIFEST, {**FILES, "head.fp32.onnx": b"new"})
    assert (tmp_path / "x.dfer" / "head.fp32.onnx").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["x.dfer"]


def test_failed_writing_leaves_the_old_bundle_whole(tmp_path: Path) -> None:
    write_small(tmp_path / "x.dfer")
    with pytest.raises(DferError, match="lists no head"):
        write_bundle(tmp_path / "x.dfer", MANIFEST, {"encoder.fp32.onnx": b"other"})
    assert Bundle.open(tmp_path / "x.dfer").read("encoder.fp32.onnx") == b"e"
    assert [path.name for path in tmp_path.iterdir()] == ["x.dfer"]


def test_a_failed_rename_brings_the_old_bundle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small(tmp_path / "x.dfer")
    rename = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(DferError, match="No space left"):
        write_bundle(tmp_path / "x.dfer", MANIFEST, {**FILES, "head.fp32.onnx": b"new"})
    assert Bundle.open(tmp_path / "x.dfer").read("head.fp32.onnx") == b"h"
    assert [path.name for path in tmp_path.iterdir()] == ["x.dfer"]


def test_writing_never_replaces_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("…")
    with pytest.raises(DferError, match="is not a bundle"):
        write_small(tmp_path / "precious")
    with pytest.raises(DferError, match="does not exist"):
        write_small(tmp_path / "nowhere" / "x.dfer")
    assert json.loads((write_small(tmp_path / "y.dfer").path / "manifest.json").read_text())["schema"] == 1

"""Engines on disk: loaded only when they are what was built for this bundle, built once, whole or absent."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dfer.runtime.bundle import DEMO, Bundle
from dfer.runtime.engines import store as store_module
from dfer.runtime.engines.building import BuiltEngine
from dfer.runtime.engines.store import KEPT, EngineKey, EngineStore
from dfer.runtime.errors import DferError
from helpers import edit_manifest

GRAPH = "head.fp32.onnx"


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A copy of the demo bundle."""
    return Path(shutil.copytree(DEMO, tmp_path / "demo.dfer", ignore=shutil.ignore_patterns("engines")))


@pytest.fixture
def store(demo: Path, own_cache: Path) -> EngineStore:
    return EngineStore(Bundle.open(demo))


def key_of(store: EngineStore, **changes: str) -> EngineKey:
    key = EngineKey(GRAPH, store.bundle.digests[GRAPH], "tensorrt", "10.3.0", "NVIDIA GeForce RTX 3060")
    return replace(key, **changes)


def built(timing_cache: bytes = b"") -> BuiltEngine:
    return BuiltEngine(b"an engine", timing_cache + b"t", 1.5)


def never(timing_cache: bytes) -> BuiltEngine:
    raise AssertionError("was built again")


def files(store: EngineStore) -> set[str]:
    return {path.name for path in store.folder.iterdir()} - {".lock"}


def test_an_engine_is_built_once_and_found_by_later_processes(store: EngineStore) -> None:
    key = key_of(store)
    assert store.find(key) is None
    assert store.find_or_build(key, built) == (b"an engine", 1.5)
    again = EngineStore(Bundle.open(store.bundle.path))
    assert again.find_or_build(key, never) == (b"an engine", None)
    assert key.file == "head.fp32.tensorrt.10.3.0.nvidia-geforce-rtx-3060.engine"
    assert files(store) == {key.file, key.timing_cache, "index.json"}


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "10.4.0"},
        {"target": "NVIDIA GeForce RTX 4060"},
        {"product": "tensorrt-rtx"},
        {"graph": "encoder.fp32.onnx"},
        {"graph_sha256": "0" * 64},
    ],
)
def test_any_other_key_is_built_for_itself(store: EngineStore, changes: dict[str, str]) -> None:
    store.find_or_build(key_of(store), built)
    assert store.find(key_of(store, **changes)) is None


def test_a_replaced_engine_of_the_right_size_is_refused(store: EngineStore) -> None:
    key = key_of(store)
    store.find_or_build(key, built)
    (store.folder / key.file).write_bytes(b"AN ENGINE")
    with pytest.raises(DferError, match=r"was not loaded; delete it") as caught:
        store.find_or_build(key, never)
    assert "\n" not in str(caught.value)
    (store.folder / key.file).unlink()
    assert store.find_or_build(key, built)[0] == b"an engine"


def test_an_engine_without_a_record_is_not_loaded(store: EngineStore) -> None:
    key = key_of(store)
    store.folder.mkdir(parents=True)
    (store.folder / key.file).write_bytes(b"from somewhere")
    assert store.find(key) is None
    assert store.find_or_build(key, built)[0] == b"an engine"


def test_engines_of_another_bundle_are_not_loaded(store: EngineStore) -> None:
    key = key_of(store)
    store.find_or_build(key, built)
    edit_manifest(store.bundle.path, provenance={"checkpoint": "another.pt"})
    assert EngineStore(Bundle.open(store.bundle.path)).find(key) is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"schema": 1}', '{"files": 3}', "[" * 100_000])
def test_a_damaged_index_knows_nothing(store: EngineStore, content: str) -> None:
    key = key_of(store)
    store.find_or_build(key, built)
    (store.folder / "index.json").write_text(content)
    assert store.find(key) is None


@pytest.mark.parametrize("record", [None, [], {}, {"key": {}}])
def test_a_damaged_record_knows_nothing(store: EngineStore, record: object) -> None:
    key = key_of(store)
    store.find_or_build(key, built)
    index = json.loads((store.folder / "index.json").read_text())
    index["files"][key.file] = record
    (store.folder / "index.json").write_text(json.dumps(index))
    assert store.find(key) is None


@pytest.mark.parametrize("hostile", ["../../etc/passwd", "..", "/etc/passwd", "a\\..\\b", "a\0b", "…", ""])
def test_no_name_leads_out_of_the_folder(store: EngineStore, hostile: str) -> None:
    for key in (key_of(store, target=hostile), key_of(store, version=hostile), key_of(store, graph=hostile)):
        assert Path(key.file).name == key.file
        store.find_or_build(key, built)
    assert {path.name for path in store.folder.parent.iterdir()} == {store.folder.name}


def test_links_are_not_followed(store: EngineStore, tmp_path: Path) -> None:
    key = key_of(store)
    store.find_or_build(key, built)
    engine = store.folder / key.file
    outside = engine.rename(tmp_path / "outside.engine")
    engine.symlink_to(outside)
    with pytest.raises(DferError, match="link"):
        store.find(key)
    elsewhere = store.folder.rename(tmp_path / "elsewhere")
    store.folder.symlink_to(elsewhere)
    with pytest.raises(DferError, match="link"):
        store.find_or_build(key, never)


def test_a_lock_that_is_a_link_is_refused_and_leads_nowhere(store: EngineStore, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    store.folder.mkdir(parents=True)
    (store.folder / ".lock").symlink_to(precious)
    with pytest.raises(DferError, match="cannot write engines"):
        store.find_or_build(key_of(store), never)
    assert precious.read_text() == "mine"


def test_an_interrupted_build_leaves_nothing(store: EngineStore) -> None:
    def interrupted(timing_cache: bytes) -> BuiltEngine:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.find_or_build(key_of(store), interrupted)
    assert files(store) == set()
    assert store.find_or_build(key_of(store), built)[1] == 1.5


def build_and_hang(path: Path) -> None:
    store = EngineStore(Bundle.open(path))

    def hang(timing_cache: bytes) -> BuiltEngine:
        (store.folder / ".half.0a1b2c3d.part.engine").write_bytes(b"half")
        (path.parent / "hanging").touch()
        time.sleep(60)
        return built()

    store.find_or_build(key_of(store), hang)


def test_a_killed_builder_holds_no_lock_and_its_half_is_swept_up(store: EngineStore) -> None:
    process = multiprocessing.get_context("spawn").Process(target=build_and_hang, args=(store.bundle.path,))
    process.start()
    deadline = time.monotonic() + 120
    while not (store.bundle.path.parent / "hanging").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert files(store) == {".half.0a1b2c3d.part.engine"}
    key = key_of(store)
    assert store.find_or_build(key, built, waiting=lambda: pytest.fail("waited for the dead"))[0] == b"an engine"
    assert files(store) == {key.file, key.timing_cache, "index.json"}


def test_of_many_builders_one_builds_and_the_others_wait(store: EngineStore) -> None:
    calls: list[str] = []
    waited = threading.Event()

    def slow(timing_cache: bytes) -> BuiltEngine:
        calls.append("build")
        assert waited.wait(60)
        return built()

    def ask(_: int) -> bytes:
        mine = EngineStore(store.bundle)
        return mine.find_or_build(key_of(mine), slow, waiting=waited.set)[0]

    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(ask, range(6))) == {b"an engine"}
    assert calls == ["build"]


def test_the_timing_cache_is_handed_to_the_next_build_unless_it_was_changed(store: EngineStore) -> None:
    seen: list[bytes] = []

    def build(timing_cache: bytes) -> BuiltEngine:
        seen.append(timing_cache)
        return built(timing_cache)

    graphs = ("a.onnx", "b.onnx", "c.onnx")
    for graph in graphs[:2]:
        store.find_or_build(key_of(store, graph=graph), build)
    (store.folder / key_of(store).timing_cache).write_bytes(b"xx")
    store.find_or_build(key_of(store, graph=graphs[2]), build)
    store.find_or_build(key_of(store, graph="d.onnx", version="11.0"), build)
    assert seen == [b"", b"t", b"", b""]


def test_engines_that_came_with_a_bundle_are_not_loaded(store: EngineStore, tmp_path: Path) -> None:
    """Not even with an index that fits: whoever made the bundle could write that as well."""
    key = key_of(store)
    store.find_or_build(key, built)
    for place in (store.bundle.path / "engines", store.bundle.path / store.folder.name):
        shutil.copytree(store.folder, place)
    shutil.rmtree(store.folder)
    again = EngineStore(Bundle.open(store.bundle.path))
    assert again.find(key) is None
    assert again.find_or_build(key, lambda _: BuiltEngine(b"built here", None, 1.0))[0] == b"built here"


def test_a_bundle_that_cannot_be_written_gets_its_engines(store: EngineStore) -> None:
    before = sorted(store.bundle.path.rglob("*"))
    store.find_or_build(key_of(store), built)
    assert sorted(store.bundle.path.rglob("*")) == before
    assert os.name == "nt" or store.folder.stat().st_mode & 0o077 == 0


def test_copies_of_a_bundle_share_engines_and_old_bundles_lose_theirs(store: EngineStore, tmp_path: Path) -> None:
    store.find_or_build(key_of(store), built)
    copy = EngineStore(Bundle.open(Path(shutil.copytree(store.bundle.path, tmp_path / "copy.dfer"))))
    assert copy.find_or_build(key_of(copy), never)[0] == b"an engine"
    for number in range(KEPT):
        os.utime(store.folder / "index.json", (number, number))
        edit_manifest(copy.bundle.path, provenance={"number": number})
        EngineStore(Bundle.open(copy.bundle.path)).find_or_build(key_of(copy), built)
    assert not store.folder.exists()
    assert len(list(store.folder.parent.iterdir())) == KEPT


def test_without_a_place_for_a_cache_it_says_what_to_set(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise FileNotFoundError(2, "no home folder for a cache; set XDG_CACHE_HOME", "~")

    monkeypatch.setattr(store_module, "cache_folder", no_home)
    with pytest.raises(DferError, match="XDG_CACHE_HOME"):
        EngineStore(Bundle.open(demo))


def test_a_file_in_the_place_of_the_folder_says_so(store: EngineStore) -> None:
    store.folder.parent.mkdir(parents=True)
    store.folder.write_text("in the way")
    with pytest.raises(DferError, match="Not a directory"):
        store.find_or_build(key_of(store), built)

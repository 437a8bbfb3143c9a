"""The native runner on a fake GPU: what it allocates, sets, captures and frees."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from dfer.runtime.engines.tensorrt import TensorRTEngine
from dfer.runtime.errors import DferError
from fake_gpu import FRAME, LARGEST, FakeCuda, fake_library, features_of


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def engine(cuda: FakeCuda) -> Iterator[TensorRTEngine]:
    with TensorRTEngine(fake_library(cuda)[0], cuda, b"engine") as engine:
        yield engine


def frames(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *FRAME), dtype=np.uint8)


def check(engine: TensorRTEngine, crops: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(engine.run({"frames": crops})["features"], features_of(crops))


def test_memory_is_allocated_once_for_the_largest_batch(engine: TensorRTEngine, cuda: FakeCuda) -> None:
    assert sorted(map(len, cuda.device.values())) == sorted([LARGEST * 12, LARGEST * 4 * 4])
    for count in (4, 1, 3, 4):
        check(engine, frames(count))
    assert cuda.calls["allocate"] == cuda.calls["pin"] == cuda.calls["set_tensor_address"] == 2


def test_shapes_are_set_only_when_the_batch_changes(engine: TensorRTEngine, cuda: FakeCuda) -> None:
    for count in (2, 2, 2, 3, 3, 2):
        check(engine, frames(count))
    assert cuda.calls["set_input_shape"] == 3


def test_a_graph_is_captured_after_one_warm_run_and_replayed_until_the_batch_changes(
    engine: TensorRTEngine, cuda: FakeCuda
) -> None:
    check(engine, frames(2, 0))
    assert cuda.calls["capture"] == 0
    for seed in range(1, 5):
        check(engine, frames(2, seed))  # other pixels through the same graph
    assert (cuda.calls["capture"], cuda.calls["launch"], cuda.calls["execute"]) == (1, 4, 2)
    for seed in range(3):
        check(engine, frames(3, seed))
    assert (cuda.calls["capture"], cuda.calls["drop"], len(cuda.graphs)) == (2, 1, 1)


def test_tensorrt_rtx_captures_by_itself_and_pycuda_not_at_all(cuda: FakeCuda) -> None:
    library, _ = fake_library(cuda, "tensorrt-rtx")
    with TensorRTEngine(library, cuda, b"engine") as engine:
        for seed in range(3):
            check(engine, frames(2, seed))
        assert engine.provider == "tensorrt-rtx"
    assert library.module.config.cuda_graph_strategy == "whole graph"
    assert cuda.calls["capture"] == 0
    plain = FakeCuda()
    plain.captures = False
    with TensorRTEngine(fake_library(plain)[0], plain, b"engine") as engine:
        for seed in range(3):
            check(engine, frames(2, seed))
    assert plain.calls["capture"] == 0


@pytest.mark.parametrize("count", [0, LARGEST + 1, 3 * LARGEST, 3 * LARGEST + 2])
def test_any_batch_runs_the_large_ones_in_parts(engine: TensorRTEngine, cuda: FakeCuda, count: int) -> None:
    check(engine, frames(count))
    check(engine, frames(count, 1))
    assert cuda.calls["allocate"] == 2


def test_results_are_the_callers_own(engine: TensorRTEngine) -> None:
    first = engine.run({"frames": frames(2, 0)})["features"]
    kept = first.copy()
    engine.run({"frames": frames(2, 1)})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"pictures": frames(1)},
        {"frames": frames(1).astype(np.float32)},
        {"frames": frames(1)[:, :1]},
    ],
)
def test_other_inputs_are_refused_before_anything_is_queued(
    engine: TensorRTEngine, cuda: FakeCuda, inputs: dict[str, NDArray[np.uint8]]
) -> None:
    with pytest.raises(DferError, match=r"takes frames uint8 \[N,2,2,3\]"):
        engine.run(inputs)
    assert cuda.calls["upload"] == 0


def test_closing_frees_everything_once(cuda: FakeCuda) -> None:
    engine = TensorRTEngine(fake_library(cuda)[0], cuda, b"engine")
    for _ in range(2):
        check(engine, frames(2))
    engine.close()
    engine.close()
    assert (cuda.device, cuda.pinned, cuda.graphs, cuda.closed) == ({}, {}, [], True)
    with pytest.raises(DferError, match="closed"):
        engine.run({"frames": frames(2)})


@pytest.mark.parametrize("runs_before", [0, 1, 2])
def test_a_run_that_fails_is_one_line_and_the_next_starts_over(cuda: FakeCuda, runs_before: int) -> None:
    library, faults = fake_library(cuda)
    with TensorRTEngine(library, cuda, b"engine") as engine:
        for _ in range(runs_before):
            check(engine, frames(2))
        if runs_before == 2:  # a captured graph does not go through TensorRT: make it go there
            check(engine, frames(1))
        faults.add("execute_async_v3")
        with pytest.raises(
            DferError, match=r"cannot run the engine: Error Code 1: Cuda Runtime \(an illegal"
        ) as caught:
            engine.run({"frames": frames(2)})
        assert "\n" not in str(caught.value)
        faults.clear()
        check(engine, frames(2))
        faults.add("set_input_shape")
        with pytest.raises(DferError, match="cannot run"):
            engine.run({"frames": frames(3)})
        faults.clear()
        check(engine, frames(3))
    assert (cuda.device, cuda.pinned, cuda.graphs) == ({}, {}, [])


def test_an_engine_that_does_not_load_leaves_nothing(cuda: FakeCuda) -> None:
    library, faults = fake_library(cuda)
    faults.add("deserialize")
    with pytest.raises(DferError, match="does not load the engine: Error Code 6"):
        TensorRTEngine(library, cuda, b"engine")
    assert (cuda.device, cuda.pinned, cuda.closed) == ({}, {}, True)


def test_many_threads_take_turns(engine: TensorRTEngine) -> None:
    def work(seed: int) -> None:
        check(engine, frames(1 + seed % LARGEST, seed))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(200)))

"""A GPU and a TensorRT that exist in Python only, strict about what real ones are strict about."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfer.runtime.engines.cuda import Cuda
from dfer.runtime.engines.trt_library import TrtLibrary

FRAME = (2, 2, 3)
WEIGHTS = np.arange(1, 5, dtype=np.float32)
LARGEST = 4


def features_of(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the fake engine computes: float32 [N,4] of uint8 [N,2,2,3]."""
    return frames.sum(axis=(1, 2, 3), dtype=np.float32)[:, None] * WEIGHTS


class FakeCuda(Cuda):
    """Counts what is asked of it; work runs when it is queued, or later if it is captured."""

    name, capability, stream, captures = "Fake GPU 3000", (8, 6), 7, True

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.device: dict[int, bytearray] = {}
        self.pinned: dict[int, NDArray[np.uint8]] = {}
        self.graphs: list[list[Callable[[], object]]] = []
        self.closed = False
        self._recording: list[Callable[[], object]] | None = None
        self._local = threading.local()

    @contextmanager
    def active(self) -> Iterator[None]:
        self._local.depth = getattr(self._local, "depth", 0) + 1
        try:
            yield
        finally:
            self._local.depth -= 1

    def queue(self, call: str, work: Callable[[], object]) -> None:
        self.count(call)
        if self._recording is None:
            work()
        else:
            self._recording.append(work)

    def count(self, call: str) -> None:
        assert getattr(self._local, "depth", 0) > 0, f"{call} in a thread that has not entered the context"
        self.calls[call] += 1

    def allocate(self, size: int) -> int:
        self.count("allocate")
        address = 4096 * (self.calls["allocate"] + 1)
        self.device[address] = bytearray(size)
        return address

    def free(self, address: int) -> None:
        self.count("free")
        del self.device[address]

    def pin(self, size: int) -> NDArray[np.uint8]:
        self.count("pin")
        memory = np.zeros(size, np.uint8)
        self.pinned[id(memory)] = memory
        return memory

    def unpin(self, memory: NDArray[np.uint8]) -> None:
        self.count("unpin")
        del self.pinned[id(memory)]

    def upload(self, address: int, memory: NDArray[np.uint8]) -> None:
        def work() -> None:
            self.device[address][: memory.nbytes] = memory.tobytes()

        self.queue("upload", work)

    def download(self, memory: NDArray[np.uint8], address: int) -> None:
        def work() -> None:
            memory[:] = np.frombuffer(bytes(self.device[address][: memory.nbytes]), np.uint8)

        self.queue("download", work)

    def synchronize(self) -> None:
        assert self._recording is None, "a capture may not wait"
        self.count("synchronize")

    def capture(self, work: Callable[[], object]) -> list[Callable[[], object]]:
        self.count("capture")
        self._recording = []
        try:
            work()
            graph = self._recording
        finally:
            self._recording = None
        self.graphs.append(graph)
        return graph

    def launch(self, graph: Any) -> None:
        self.count("launch")
        assert any(graph is alive for alive in self.graphs)
        for work in graph:
            work()

    def drop(self, graph: Any) -> None:
        self.count("drop")
        self.graphs = [alive for alive in self.graphs if alive is not graph]

    def close(self) -> None:
        self.closed = True


class _Context:
    def __init__(self, cuda: FakeCuda, faults: set[str], said: deque[str]) -> None:
        self.cuda, self.faults, self.said = cuda, faults, said
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.cuda.count("set_tensor_address")
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.cuda.count("set_input_shape")
        self.shape = shape
        return 0 < shape[0] <= LARGEST and "set_input_shape" not in self.faults

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == self.cuda.stream
        if "execute_async_v3" in self.faults:
            self.said.append("Error Code 1: Cuda Runtime\n(an illegal memory access was encountered)")
            return False
        shape, device = self.shape, self.cuda.device

        def work() -> None:
            size = int(np.prod(shape))
            frames = np.frombuffer(bytes(device[self.addresses["frames"]][:size]), np.uint8).reshape(shape)
            features = features_of(frames).tobytes()
            device[self.addresses["features"]][: len(features)] = features

        self.cuda.queue("execute", work)
        return True


class _RuntimeConfig:
    """TensorRT-RTX's: it makes a cache of the kernels that a GPU's runs compile."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.cuda_graph_strategy, self.cache = cuda, "", None

    def create_runtime_cache(self) -> _RuntimeCache:
        return _RuntimeCache(self.cuda)

    def set_runtime_cache(self, cache: Any) -> bool:
        self.cache = cache
        return True


class _RuntimeCache:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.kernels = cuda, ""

    def deserialize(self, blob: bytes) -> bool:
        self.cuda.count("deserialize_kernels")
        fits = blob.decode().startswith(self.cuda.name)
        self.kernels = blob.decode() if fits else ""
        return fits

    def serialize(self) -> bytes:
        self.cuda.count("serialize_kernels")
        if not self.kernels and self.cuda.calls["execute"]:
            self.kernels = f"{self.cuda.name}: kernels"
        return self.kernels.encode()


def fake_library(cuda: FakeCuda, product: str = "tensorrt") -> tuple[TrtLibrary, set[str]]:
    """A TensorRT whose every engine is `features_of` for batches up to LARGEST, and the set of calls that shall fail.

    "deserialize" in it makes loading fail, "set_input_shape" and "execute_async_v3" running.
    """
    faults: set[str] = set()
    said: deque[str] = deque()
    shapes = {"frames": (-1, *FRAME), "features": (-1, 4)}
    config = _RuntimeConfig(cuda)
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: list(shapes)[index],
        get_tensor_mode=lambda name: "in" if name == "frames" else "out",
        get_tensor_dtype=lambda name: np.uint8 if name == "frames" else np.float32,
        get_tensor_shape=lambda name: shapes[name],
        get_tensor_profile_shape=lambda name, _: [(size, *FRAME) for size in (1, 2, LARGEST)],
        create_runtime_config=lambda: config,
        create_execution_context=lambda *_: _Context(cuda, faults, said),
    )

    class Runtime:
        def __init__(self, _: object) -> None:
            self.engine_host_code_allowed = True

        def deserialize_cuda_engine(self, data: bytes) -> object:
            assert self.engine_host_code_allowed is False
            cuda.count("deserialize")
            if "deserialize" in faults:
                said.append("Error Code 6: The engine plan file is not compatible with this version of TensorRT")
                return None
            return engine

    module = SimpleNamespace(
        Runtime=Runtime,
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        nptype=lambda dtype: dtype,
        CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph"),
        config=config,
    )
    return TrtLibrary(product, "10.3.0", module, None, said), faults

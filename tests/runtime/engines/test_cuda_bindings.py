"""The two CUDA bindings against stand-ins of NVIDIA's and pycuda's modules."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dfer.runtime.engines.cuda import CudaBindings, PyCuda, open_cuda
from dfer.runtime.errors import DferError


class FakeRuntime(ModuleType):
    """cuda.bindings.runtime over host memory: every call returns (status, results…)."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.log: list[str] = []
        self.failing: dict[str, int] = {}
        self.blocks: dict[int, Any] = {}
        self.devices = 1

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.log.append(name)
            if status := self.failing.get(name, 0):
                return (status, *([None] if name == "cudaMalloc" else []))
            return (0, *self.answer(name, *arguments))

        return call

    def answer(self, name: str, *arguments: Any) -> list[Any]:
        match name:
            case "cudaGetDeviceCount":
                return [self.devices]
            case "cudaGetDeviceProperties":
                return [SimpleNamespace(name=b"NVIDIA H200\0\0", major=9, minor=0)]
            case "cudaGetErrorString":
                return [b"out of memory"]
            case "cudaMalloc" | "cudaMallocHost":
                block = (ctypes.c_uint8 * arguments[0])()
                self.blocks[ctypes.addressof(block)] = block
                return [ctypes.addressof(block)]
            case "cudaFree" | "cudaFreeHost":
                del self.blocks[arguments[0]]
                return []
            case "cudaMemcpyAsync":
                ctypes.memmove(arguments[0], arguments[1], arguments[2])
                return []
            case "cudaStreamCreateWithFlags" | "cudaStreamEndCapture" | "cudaGraphInstantiate":
                return [11]
        return []


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    fake, package = FakeRuntime(), ModuleType("cuda.bindings")
    package.runtime = fake  # type: ignore[attr-defined]
    for name, module in (("cuda", ModuleType("cuda")), ("cuda.bindings", package), ("cuda.bindings.runtime", fake)):
        monkeypatch.setitem(sys.modules, name, module)
    return fake


class FakePyCuda:
    """pycuda.driver, as far as contexts go: which thread has how many of them pushed."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        self.depth: dict[int, int] = {}
        self.pushes = 0
        device = SimpleNamespace(
            name=lambda: "Orin", compute_capability=lambda: (8, 7), retain_primary_context=lambda: self
        )
        self.Device = lambda index: device
        self.Context = self
        self.Stream = lambda: SimpleNamespace(handle=5, synchronize=self.need_context)

    def init(self) -> None: ...

    def push(self) -> None:
        self.pushes += 1
        self.depth[threading.get_ident()] = self.depth.get(threading.get_ident(), 0) + 1

    def pop(self) -> None:
        self.depth[threading.get_ident()] -= 1

    def need_context(self) -> None:
        if not self.depth.get(threading.get_ident()):
            raise self.Error("invalid device context")


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch) -> FakePyCuda:
    driver: Any = FakePyCuda()
    package = ModuleType("pycuda")
    package.driver = driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    return driver  # type: ignore[no-any-return]


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)


def test_bytes_go_to_the_gpu_and_back(runtime: FakeRuntime) -> None:
    cuda = open_cuda()
    assert isinstance(cuda, CudaBindings)
    assert (cuda.name, cuda.capability, cuda.stream) == ("NVIDIA H200", (9, 0), 11)
    with cuda.active():
        there, back, address = cuda.pin(64), cuda.pin(64), cuda.allocate(64)
        there[:] = np.arange(64)
        cuda.upload(address, there)
        cuda.download(back, address)
        cuda.synchronize()
        np.testing.assert_array_equal(back, np.arange(64))
        cuda.free(address)
        cuda.unpin(there)
        cuda.unpin(back)
        cuda.close()
    assert runtime.blocks == {}
    assert runtime.log[-1] == "cudaStreamDestroy"


def test_a_failing_call_is_one_line_with_cudas_reason(runtime: FakeRuntime) -> None:
    cuda = CudaBindings()
    runtime.failing["cudaMalloc"] = 2
    with cuda.active(), pytest.raises(DferError, match=r"cudaMalloc: out of memory\); check the driver"):
        cuda.allocate(1 << 40)


def test_a_capture_ends_and_its_graph_is_freed_whatever_happens(runtime: FakeRuntime) -> None:
    cuda = CudaBindings()
    with cuda.active():
        cuda.launch(cuda.capture(lambda: None))
        assert runtime.log[-5:] == [
            "cudaStreamBeginCapture",
            "cudaStreamEndCapture",
            "cudaGraphInstantiate",
            "cudaGraphDestroy",
            "cudaGraphLaunch",
        ]
        with pytest.raises(ZeroDivisionError):
            cuda.capture(lambda: 1 // 0)
        assert runtime.log[-1] == "cudaStreamEndCapture"


def test_no_gpu_is_said(runtime: FakeRuntime) -> None:
    runtime.devices = 0
    with pytest.raises(DferError, match="no NVIDIA GPU"):
        open_cuda()


def test_the_real_binding_says_why_there_is_no_gpu() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    if runtime.cudaGetDeviceCount()[0] == 0:
        pytest.skip("there is a GPU")
    with pytest.raises(DferError, match=r"cudaGetDeviceCount: .*; check the driver"):
        open_cuda()


def test_pycuda_serves_where_nvidias_binding_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, pycuda: FakePyCuda
) -> None:
    without(monkeypatch, "cuda", "cuda.bindings")
    cuda = open_cuda()
    assert isinstance(cuda, PyCuda)
    assert (cuda.name, cuda.capability, cuda.captures) == ("Orin", (8, 7), False)


def test_each_thread_enters_the_primary_context_and_leaves_it(pycuda: FakePyCuda) -> None:
    cuda = PyCuda()
    caught: list[Exception] = []

    def work() -> None:
        try:
            with cuda.active():
                cuda.synchronize()
                raise pycuda.Error("an illegal memory access was encountered")
        except DferError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "illegal memory access" in str(caught[0])
    assert pycuda.pushes == 2 and set(pycuda.depth.values()) == {0}  # one for making the stream, one for the thread


def test_with_neither_binding_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "cuda", "cuda.bindings", "pycuda", "pycuda.driver")
    with pytest.raises(DferError, match="pip install cuda-bindings"):
        open_cuda()

"""The part of CUDA that the native runner needs, through one of two Python bindings: cuda.bindings, else pycuda."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..errors import DferError, EngineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Cuda(ABC):
    """The first visible GPU and one stream on it. Everything but `name` and `capability` must be used in `active()`.

    name: of the GPU. capability: (8, 6) for sm86. stream: its handle, as TensorRT takes it.
    captures: whether `capture` is supported. Device errors are EngineErrors; freeing never raises.
    """

    name: str
    capability: tuple[int, int]
    stream: int
    captures: bool

    @abstractmethod
    def active(self) -> Any:
        """Return a context manager in which this thread may use the GPU. Every thread that uses it must enter it."""

    @abstractmethod
    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the GPU; return the address."""

    @abstractmethod
    def free(self, address: int) -> None: ...

    @abstractmethod
    def pin(self, size: int) -> NDArray[np.uint8]:
        """Allocate `size` bytes of page-locked host memory, for asynchronous copies."""

    @abstractmethod
    def unpin(self, memory: NDArray[np.uint8]) -> None: ...

    @abstractmethod
    def upload(self, address: int, memory: NDArray[np.uint8]) -> None:
        """Queue a copy of pinned memory to the GPU."""

    @abstractmethod
    def download(self, memory: NDArray[np.uint8], address: int) -> None:
        """Queue a copy from the GPU to pinned memory."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all queued work is done."""

    @abstractmethod
    def capture(self, work: Callable[[], object]) -> Any:
        """Record the work that `work` queues as a CUDA graph, without running it."""

    @abstractmethod
    def launch(self, graph: Any) -> None:
        """Queue a captured graph."""

    @abstractmethod
    def drop(self, graph: Any) -> None:
        """Free a captured graph."""

    @abstractmethod
    def close(self) -> None:
        """Free the stream."""


def open_cuda() -> Cuda:
    """Open the GPU through whichever binding is installed; DferError if there is no binding, driver or GPU."""
    for binding in (CudaBindings, PyCuda):
        try:
            return binding()
        except ImportError:
            continue
    raise DferError(
        "the native TensorRT runner needs CUDA's Python bindings; run: pip install cuda-bindings (or, where the device "
        "has it, pycuda)"
    )


class CudaBindings(Cuda):
    """NVIDIA's cuda.bindings, from the package cuda-bindings (part of cuda-python)."""

    captures = True

    def __init__(self) -> None:
        from cuda.bindings import runtime

        self._cuda = runtime
        if self._call("cudaGetDeviceCount") == 0:
            raise DferError("no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES")
        properties = self._call("cudaGetDeviceProperties", 0)
        self.name = properties.name.split(b"\0")[0].decode()
        self.capability = (int(properties.major), int(properties.minor))
        with self.active():
            self._stream = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self.stream = int(self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *results = getattr(self._cuda, name)(*arguments)
        if int(status) != 0:
            _, reason = self._cuda.cudaGetErrorString(status)
            raise EngineError(f"CUDA cannot be used ({name}: {reason.decode()}); check the driver with nvidia-smi")
        return results[0] if results else None

    @contextmanager
    def active(self) -> Iterator[None]:
        self._call("cudaSetDevice", 0)  # for this thread; also makes the primary context current
        yield

    def allocate(self, size: int) -> int:
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        self._cuda.cudaFree(address)

    def pin(self, size: int) -> NDArray[np.uint8]:
        import numpy as np

        address = int(self._call("cudaMallocHost", size))
        memory: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return memory

    def unpin(self, memory: NDArray[np.uint8]) -> None:
        self._cuda.cudaFreeHost(memory.ctypes.data)

    def upload(self, address: int, memory: NDArray[np.uint8]) -> None:
        self._copy(address, memory.ctypes.data, memory.nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def download(self, memory: NDArray[np.uint8], address: int) -> None:
        self._copy(memory.ctypes.data, address, memory.nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        self._call("cudaMemcpyAsync", to, source, size, kind, self._stream)

    def synchronize(self) -> None:
        self._call("cudaStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], object]) -> Any:
        # Thread-local: concurrent CUDA calls of other threads neither enter the graph nor break it.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            self._cuda.cudaStreamEndCapture(self._stream)  # else the stream would stay unusable
            raise
        graph = self._call("cudaStreamEndCapture", self._stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._cuda.cudaGraphDestroy(graph)

    def launch(self, graph: Any) -> None:
        self._call("cudaGraphLaunch", graph, self._stream)

    def drop(self, graph: Any) -> None:
        self._cuda.cudaGraphExecDestroy(graph)

    def close(self) -> None:
        self._cuda.cudaStreamDestroy(self._stream)


class PyCuda(Cuda):
    """pycuda, for older JetPacks. It shares the primary context with TensorRT and enters it per thread, since a context
    of its own (`pycuda.autoinit`) belongs to the thread that imported it. CUDA graphs are not supported."""

    captures = False

    def __init__(self) -> None:
        import pycuda.driver as driver

        self._cuda = driver
        try:
            driver.init()
            device = driver.Device(0)
            self.name, self.capability = str(device.name()), tuple(device.compute_capability())
            self._context = device.retain_primary_context()
        except driver.Error as error:
            raise DferError(f"CUDA cannot be used ({error}); check the driver with nvidia-smi") from error
        self._memory: dict[int, Any] = {}
        with self.active():
            self._stream = driver.Stream()
        self.stream = int(self._stream.handle)

    @contextmanager
    def active(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        except self._cuda.Error as error:
            raise EngineError(f"CUDA failed: {error}") from error
        finally:
            self._cuda.Context.pop()

    def allocate(self, size: int) -> int:
        memory = self._cuda.mem_alloc(size)
        self._memory[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        with suppress(self._cuda.Error):
            self._memory.pop(address).free()

    def pin(self, size: int) -> NDArray[np.uint8]:
        import numpy as np

        memory: NDArray[np.uint8] = self._cuda.pagelocked_empty(size, np.uint8)
        return memory

    def unpin(self, memory: NDArray[np.uint8]) -> None:
        with suppress(self._cuda.Error):
            memory.base.free()  # type: ignore[union-attr]  # pycuda's own allocation

    def upload(self, address: int, memory: NDArray[np.uint8]) -> None:
        self._cuda.memcpy_htod_async(address, memory, self._stream)

    def download(self, memory: NDArray[np.uint8], address: int) -> None:
        self._cuda.memcpy_dtoh_async(memory, address, self._stream)

    def synchronize(self) -> None:
        self._stream.synchronize()

    def capture(self, work: Callable[[], object]) -> Any:
        raise NotImplementedError("pycuda captures no graphs; see `captures`")

    def launch(self, graph: Any) -> None:
        raise NotImplementedError("pycuda captures no graphs; see `captures`")

    def drop(self, graph: Any) -> None:
        raise NotImplementedError("pycuda captures no graphs; see `captures`")

    def close(self) -> None:
        del self._stream

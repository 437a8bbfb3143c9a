"""The native runner: an engine of TensorRT or TensorRT-RTX with preallocated buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DferError, EngineError
from .backend import Engine
from .cuda import Cuda
from .trt_library import TrtLibrary

if TYPE_CHECKING:
    from .backend import Array


@dataclass(frozen=True)
class _Tensor:
    """An input or output. rows: pinned host memory [largest batch, …]. address: a GPU buffer of the same size."""

    name: str
    rows: NDArray[Any]
    memory: NDArray[np.uint8]
    address: int

    def part(self, count: int) -> NDArray[np.uint8]:
        """Return the bytes of the first `count` rows."""
        return self.memory[: count * self.rows[:1].nbytes]


class TensorRTEngine(Engine):
    """A deserialised engine on the first GPU. Any thread may run it, one at a time.

    data: a serialised engine from a trusted source (see `EngineStore`), since it is native code.
    runtime_cache: what TensorRT-RTX compiled for this engine in earlier runs, which takes it seconds; must be as
        trusted as `data`. keep: called at `close` with the cache, if it changed. TensorRT compiles nothing at run time.
    largest: rows of the largest batch; larger inputs are run in parts.

    With an unchanged batch size, the second run is captured as a CUDA graph, copies included, and later runs replay it;
    another batch size sets new shapes and starts over. TensorRT-RTX captures by itself, since only it knows when its
    compiled kernels are final.

    Takes ownership of `cuda` and closes it. Raises DferError when the engine does not fit this GPU or version.
    """

    def __init__(
        self,
        library: TrtLibrary,
        cuda: Cuda,
        data: bytes,
        runtime_cache: bytes = b"",
        keep: Callable[[bytes], object] = lambda _: None,
    ) -> None:
        self.provider = library.product
        self._library, self._cuda = library, cuda
        self._captures = cuda.captures and library.product == "tensorrt"
        self._lock = Lock()
        self._engine: Any = None
        self._context: Any = None
        self._runtime_cache: Any = None  # TensorRT-RTX's
        self._loaded_cache, self._keep = runtime_cache, keep
        self._inputs: list[_Tensor] = []
        self._outputs: list[_Tensor] = []
        self._batch = 0  # rows that shapes are set for; 0: none
        self._warm = False
        self._graph: Any = None
        self._open = True
        try:
            with cuda.active():
                self._load(data)
                self._allocate()
        except BaseException:
            self.close()
            raise

    def _load(self, data: bytes) -> None:
        trt, title = self._library.module, self._library.title
        self._library.errors.clear()
        runtime = trt.Runtime(self._library.logger)
        runtime.engine_host_code_allowed = False
        self._engine = runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise DferError(f"{title} does not load the engine: {self._library.first_error()}; delete it to rebuild")
        if self._library.product == "tensorrt-rtx":
            config = self._engine.create_runtime_config()
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            cache = config.create_runtime_cache()
            if self._loaded_cache:
                cache.deserialize(self._loaded_cache)  # refused, and recreated, if from another GPU or driver
            if config.set_runtime_cache(cache):
                self._runtime_cache = cache
            self._context = self._engine.create_execution_context(config)
        else:
            self._context = self._engine.create_execution_context()
        if self._context is None:
            raise DferError(f"{title} cannot prepare the engine: {self._library.first_error()}")

    def _allocate(self) -> None:
        trt, engine = self._library.module, self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        most = [tuple(engine.get_tensor_profile_shape(name, 0)[2]) for name in inputs]
        self.largest = min(int(shape[0]) for shape in most)
        for name in names:
            shape = (self.largest, *tuple(engine.get_tensor_shape(name))[1:])
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            memory = self._cuda.pin(int(np.prod(shape)) * dtype.itemsize)
            try:
                address = self._cuda.allocate(memory.nbytes)
            except BaseException:
                self._cuda.unpin(memory)
                raise
            tensor = _Tensor(name, memory.view(dtype).reshape(shape), memory, address)
            (self._inputs if name in inputs else self._outputs).append(tensor)
            self._context.set_tensor_address(name, address)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        with self._lock:
            rows = self._rows(inputs)
            results = {tensor.name: np.empty((rows, *tensor.rows.shape[1:]), np.float32) for tensor in self._outputs}
            with self._cuda.active():
                for start in range(0, rows, self.largest):
                    count = min(self.largest, rows - start)
                    for tensor in self._inputs:
                        tensor.rows[:count] = inputs[tensor.name][start : start + count]
                    self._run_rows(count)
                    for tensor in self._outputs:
                        results[tensor.name][start : start + count] = tensor.rows[:count]
        return results

    def _rows(self, inputs: Mapping[str, Array]) -> int:
        """Check that `inputs` match the engine; return their batch size."""
        if not self._open:
            raise DferError("the engine was closed")
        wanted = {tensor.name: (tensor.rows.dtype, tensor.rows.shape[1:]) for tensor in self._inputs}
        given = {name: (array.dtype, array.shape[1:]) for name, array in inputs.items()}
        batches = {len(array) for array in inputs.values()}
        if given != wanted or len(batches) != 1:
            raise DferError(f"the engine takes {_words(wanted)} with one batch for all, and was given {_words(given)}")
        return batches.pop()

    def _run_rows(self, count: int) -> None:
        """Run from the inputs' pinned memory to the outputs'."""
        if count != self._batch:
            self._reset()
            for tensor in self._inputs:
                if not self._context.set_input_shape(tensor.name, (count, *tensor.rows.shape[1:])):
                    raise self._failed()
            self._batch = count
        try:
            if self._graph is None and self._warm and self._captures:
                self._graph = self._cuda.capture(self._enqueue)
            if self._graph is None:
                self._enqueue()
            else:
                self._cuda.launch(self._graph)
            self._cuda.synchronize()
        except BaseException:
            self._reset()
            raise
        self._warm = True

    def _enqueue(self) -> None:
        for tensor in self._inputs:
            self._cuda.upload(tensor.address, tensor.part(self._batch))
        if not self._context.execute_async_v3(self._cuda.stream):
            raise self._failed()
        for tensor in self._outputs:
            self._cuda.download(tensor.part(self._batch), tensor.address)

    def _failed(self) -> EngineError:
        return EngineError(f"{self._library.title} cannot run the engine: {self._library.first_error()}")

    def _reset(self) -> None:
        """Discard everything specific to one batch size."""
        if self._graph is not None:
            self._cuda.drop(self._graph)
        self._graph, self._batch, self._warm = None, 0, False

    def close(self) -> None:
        """Free everything; further calls do nothing."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            with self._cuda.active():
                self._reset()
                if self._runtime_cache is not None:
                    compiled = self._runtime_cache.serialize()
                    if compiled is not None and bytes(compiled) != self._loaded_cache:
                        self._keep(bytes(compiled))
                self._context = None
                self._runtime_cache = None
                self._engine = None
                for tensor in (*self._inputs, *self._outputs):
                    self._cuda.free(tensor.address)
                    self._cuda.unpin(tensor.memory)
                self._inputs, self._outputs = [], []
                self._cuda.close()


def _words(tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> str:
    words = [f"{name} {dtype} [N,{','.join(map(str, row))}]" for name, (dtype, row) in tensors.items()]
    return ", ".join(words) or "nothing"

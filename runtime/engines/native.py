"""TensorRT and TensorRT-RTX through their own API: turns a bundle's graph into a cached or new engine for this GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DferError
from .backend import Backend, Engine, Report
from .building import BuiltEngine, Progress, build_engine, check_target
from .cuda import Cuda, open_cuda
from .trt_library import PRODUCTS, TrtLibrary, is_installed, load_trt

if TYPE_CHECKING:
    from ..bundle import Bundle
    from .store import EngineKey


@dataclass(frozen=True, kw_only=True)
class NativeBackend(Backend):
    """TensorRT or TensorRT-RTX engines, built on first use. product: a key of PRODUCTS."""

    product: str

    def is_present(self) -> bool:
        return is_installed(self.product)

    def has_device(self) -> bool:
        try:
            cuda = open_cuda()
        except DferError:
            return False
        with cuda.active():
            cuda.close()
        return True

    def open(self, bundle: Bundle, graph: str, precision: str, threads: int | None, report: Report) -> Engine:
        return open_native(bundle, graph, self.product, report)

    def start(self) -> str:
        library = load_trt(self.product)
        return f"{library.title} on {target_here(library)}; builds its engines at first use"


BACKENDS = tuple(
    NativeBackend(
        name=f"native-{product}",
        precisions=("fp16", "int8", "fp32"),
        install=facts.install,
        device="gpu",
        measured_as=product,  # ONNX Runtime's backend on the same library, which needs no bundle
        product=product,
    )
    for product, facts in PRODUCTS.items()
)


def open_native(bundle: Bundle, graph: str, product: str, report: Report = lambda _: None) -> Engine:
    """Open the graph `graph` ("encoder.fp16.onnx") of a bundle as a native engine on the first GPU, built if none fits.

    product: a key of PRODUCTS.
    Raises DferError if the library or the GPU is missing, or if the engine cannot be built or loaded.
    """
    from .store import EngineStore
    from .tensorrt import TensorRTEngine

    library = load_trt(product)
    cuda = open_cuda()
    try:
        store = EngineStore(bundle)
        with cuda.active():
            target = gpu_target(library, cuda)
            data, _ = stored_engine(bundle, graph, library, target, report)
        key = _key(bundle, graph, library, target)
        runtime_cache = store.runtime_cache(key)
    except BaseException:
        with cuda.active():
            cuda.close()
        raise

    def keep(compiled: bytes) -> None:
        try:
            store.keep_runtime_cache(key, compiled)
        except DferError as error:  # not fatal: only the next start is slower
            report(f"what {library.title} compiled is not kept, and will be compiled again: {error}")

    return TensorRTEngine(library, cuda, data, runtime_cache, keep)


def stored_engine(
    bundle: Bundle,
    graph: str,
    library: TrtLibrary,
    target: str,
    report: Report = lambda _: None,
    progress: Progress = lambda *_: None,
) -> tuple[bytes, float | None]:
    """Return a serialised engine, built if it is not in the store, and the build time in seconds, None if stored.

    target: with TensorRT-RTX one of TARGETS, which needs no GPU; with TensorRT the name of the GPU here.
    """
    from .store import EngineStore

    key = _key(bundle, graph, library, target)
    ahead = library.product == "tensorrt-rtx"

    def build(timing_cache: bytes) -> BuiltEngine:
        report(
            f"building {graph} for {target} with {library.title}; this is done once and takes "
            + ("some seconds" if ahead else "minutes")
        )
        data = bundle.read(graph)
        return build_engine(library, data, graph, target if ahead else None, timing_cache, progress)

    data, seconds = EngineStore(bundle).find_or_build(
        key, build, waiting=lambda: report(f"another process is building engines of {bundle.path}; waiting for it")
    )
    if seconds is not None:
        report(f"built {graph} in {seconds:.1f} s")
    return data, seconds


def _key(bundle: Bundle, graph: str, library: TrtLibrary, target: str) -> EngineKey:
    from .store import EngineKey

    if graph not in bundle.digests:
        raise DferError(f"bundle {bundle.path}: the manifest lists no {graph}")
    return EngineKey(graph, bundle.digests[graph], library.product, library.version, target)


def gpu_target(library: TrtLibrary, cuda: Cuda) -> str:
    """Return the build target for this GPU; DferError if TensorRT-RTX does not support it (sm90, Jetson)."""
    if library.product == "tensorrt":
        return cuda.name
    major, minor = cuda.capability
    return check_target(f"sm{major}{minor}")


def target_here(library: TrtLibrary) -> str:
    """Return `gpu_target` of this machine's first GPU; DferError also if there is none."""
    cuda = open_cuda()
    with cuda.active():
        try:
            return gpu_target(library, cuda)
        finally:
            cuda.close()

"""From a graph of a bundle to an engine that fits this GPU: the stored one, or one built now."""

from __future__ import annotations

from collections.abc import Callable

from ..bundle import Bundle
from ..errors import DferError
from .building import Built, Progress, build_engine, check_target
from .cuda import Cuda, open_cuda
from .store import EngineKey, EngineStore
from .tensorrt import TensorRTEngine
from .trt_library import TrtLibrary, load_trt

Report = Callable[[str], object]
"""Told one line about what takes time."""


def open_native(
    bundle: Bundle,
    graph: str,
    backend: str = "auto",
    report: Report = lambda _: None,
    progress: Progress = lambda *_: None,
) -> TensorRTEngine:
    """The graph `graph` ("encoder.fp16.onnx") of a bundle as a native engine on the first GPU, built if none fits.

    backend: "tensorrt", "tensorrt-rtx", or "auto" for the first that is installed.
    Raises DferError when there is no such library, no GPU, or no engine can be had for it.
    """
    library = load_trt(backend)
    cuda = open_cuda()
    try:
        store = EngineStore(bundle)
        with cuda.active():
            target = gpu_target(library, cuda)
            data, _ = stored_engine(bundle, graph, library, target, report, progress)
        key = _key(bundle, graph, library, target)
        kernels = store.kernels(key)
    except BaseException:
        with cuda.active():
            cuda.close()
        raise

    def keep(compiled: bytes) -> None:
        try:
            store.keep_kernels(key, compiled)
        except DferError as error:  # it ran; only the next start pays
            report(f"what {library.title} compiled is not kept, and will be compiled again: {error}")

    return TensorRTEngine(library, cuda, data, kernels, keep)


def stored_engine(
    bundle: Bundle,
    graph: str,
    library: TrtLibrary,
    target: str,
    report: Report = lambda _: None,
    progress: Progress = lambda *_: None,
) -> tuple[bytes, float | None]:
    """A serialised engine, from the bundle's store or built into it, and the seconds that took (None: was there).

    target: one of TARGETS with TensorRT-RTX, which needs no GPU for it; with TensorRT the name of the GPU here.
    """
    key = _key(bundle, graph, library, target)
    ahead = library.backend == "tensorrt-rtx"

    def build(timings: bytes) -> Built:
        report(
            f"building {graph} for {target} with {library.title}; this is done once and takes "
            + ("some seconds" if ahead else "minutes")
        )
        return build_engine(library, bundle.read(graph), graph, target if ahead else None, timings, progress=progress)

    data, seconds = EngineStore(bundle).find_or_build(
        key, build, waiting=lambda: report(f"another process is building engines of {bundle.path}; waiting for it")
    )
    if seconds is not None:
        report(f"built {graph} in {seconds:.1f} s")
    return data, seconds


def _key(bundle: Bundle, graph: str, library: TrtLibrary, target: str) -> EngineKey:
    if graph not in bundle.digests:
        raise DferError(f"bundle {bundle.path}: the manifest lists no {graph}")
    return EngineKey(graph, bundle.digests[graph], library.backend, library.version, target)


def gpu_target(library: TrtLibrary, cuda: Cuda) -> str:
    """What engines for this GPU are built for; DferError when TensorRT-RTX does not know it (sm90, Jetson)."""
    if library.backend == "tensorrt":
        return cuda.name
    major, minor = cuda.capability
    return check_target(f"sm{major}{minor}")

"""Every precision of a bundle on a GPU: agreement with FP32 on the CPU, and latency from host memory to host memory.

python benchmarks/gpu.py align.dfer [--providers cuda,native-tensorrt] [--runs 200] [--json gpu.json]

"cuda" is ONNX Runtime's provider (onnxruntime-gpu); "native-tensorrt" and "-rtx" are the native runner, which first
builds its engines into the user's cache. Providers that are not installed or do not run get a row with the error.
Providers and precisions take turns, so that clock drift affects all alike.

State: tested with "--providers cpu" only; no GPU was available when it was written.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from dfer.runtime.bundle import Bundle
from dfer.runtime.engines import Engine, open_engine, open_graph
from dfer.runtime.engines.cuda import open_cuda
from dfer.runtime.errors import DferError
from dfer.runtime.procedural import Identity, draw_background, draw_face
from dfer.runtime.procedural.expressions import ExpressionCurve

BATCHES = (1, 8)
WARM_UP = 20
HEAD = "head.fp32.onnx"


@dataclass(frozen=True)
class Row:
    """One precision on one provider. cosine: lowest of any frame; delta: largest |Δp|; top1: share of equal classes.

    milliseconds: by batch, median and 90th percentile. error: why there are no figures.
    """

    provider: str
    precision: str
    cosine: float = 0.0
    delta: float = 0.0
    top1: float = 0.0
    milliseconds: dict[int, tuple[float, float]] | None = None
    error: str = ""


def drawn_windows(size: int, window: int, people: int = 6) -> NDArray[np.uint8]:
    """Return crops uint8 [people,T,size,size,3] of moving procedural faces."""
    rng = np.random.default_rng(0)
    windows = np.empty((people, window, size, size, 3), np.uint8)
    for person, expression in zip(windows, ("happiness", "anger", "surprise") * people, strict=False):
        identity = Identity.sample(rng)
        curve, scene = ExpressionCurve.sample(expression, 2.0, rng), draw_background(identity, size, size)
        for index, frame in enumerate(person):
            frame[:] = scene
            draw_face(frame, identity, *curve.at(2.0 * index / window), (size / 2, size / 2), round(0.9 * size))
    return windows


def encode(engine: Engine, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return features [W,T,D] of windows of crops [W,T,H,W,3]."""
    return np.stack([engine.run({"frames": window})["features"] for window in windows])


def timings(
    engines: dict[tuple[str, str], Engine], crops: NDArray[np.uint8], runs: int
) -> dict[tuple[str, str], tuple]:
    """Return median and 90th percentile in milliseconds of `runs` runs of each engine, in turns of ten."""
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in engines}
    for turn in range(-WARM_UP, runs, 10):
        for name, engine in engines.items():
            for _ in range(10):
                start = perf_counter()
                engine.run({"frames": crops})
                if turn >= 0:
                    seconds[name].append(perf_counter() - start)
    return {
        name: (1e3 * float(np.percentile(spent, 50)), 1e3 * float(np.percentile(spent, 90)))
        for name, spent in seconds.items()
    }


def gpu_name() -> str:
    """Return the name of the first GPU, or why there is none."""
    try:
        return open_cuda().name
    except DferError as error:
        return str(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--providers", default="cuda,native-tensorrt,native-tensorrt-rtx")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    windows = drawn_windows(bundle.manifest.preprocessing.size, bundle.manifest.window)
    with open_engine(bundle.read("encoder.fp32.onnx"), "cpu") as encoder, open_engine(bundle.read(HEAD), "cpu") as head:
        wanted = encode(encoder, windows)
        wanted_p = head.run({"features": wanted})["probabilities"]

    rows: dict[tuple[str, str], Row] = {}
    engines: dict[tuple[str, str], Engine] = {}
    graphs = sorted(name for name in bundle.digests if name.startswith("encoder.") and not name.endswith(".cpu.onnx"))
    for provider in options.providers.split(","):
        for graph in graphs:
            name = (provider, graph.removeprefix("encoder.").removesuffix(".onnx"))
            try:
                with open_graph(bundle, HEAD, provider, report=print) as head:
                    engines[name] = open_graph(bundle, graph, provider, report=print)
                    found = encode(engines[name], windows)
                    found_p = head.run({"features": found})["probabilities"]
            except DferError as error:
                rows[name] = Row(*name, error=str(error))
                continue
            lengths = np.linalg.norm(wanted, axis=-1) * np.linalg.norm(found, axis=-1)
            rows[name] = Row(
                *name,
                cosine=float(((wanted * found).sum(axis=-1) / lengths).min()),
                delta=float(np.abs(wanted_p - found_p).max()),
                top1=float((wanted_p.argmax(axis=1) == found_p.argmax(axis=1)).mean()),
                milliseconds={},
            )
    engines = {name: engine for name, engine in engines.items() if not rows[name].error}
    for batch in BATCHES:
        for name, spent in timings(engines, windows[0, :batch], options.runs).items():
            rows[name].milliseconds[batch] = spent
    print(f"{'provider':23}{'precision':11}{'cosine':>10}{'max |Δp|':>10}{'top-1':>7}   ms, p50 (p90) at batch 1 and 8")
    for row in rows.values():
        figures = f"{row.cosine:10.6f}{row.delta:10.2g}{row.top1:7.1%}   " + "   ".join(
            f"{median:.2f} ({late:.2f})" for median, late in (row.milliseconds or {}).values()
        )
        print(f"{row.provider:23}{row.precision:11}{row.error or figures}")
    if options.json:
        content = {"bundle": str(options.bundle), "gpu": gpu_name(), "rows": [asdict(r) for r in rows.values()]}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()

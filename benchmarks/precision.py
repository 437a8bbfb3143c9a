"""Export in every precision: agreement, where each file loads and builds, size, latency, time and memory, as Markdown.

    python benchmarks/precision.py                        # ViT-B-32 with random weights; draws 640 faces
    python benchmarks/precision.py --outliers             # the same function with outlier channels
    python benchmarks/precision.py --clip ViT-L-14 --calib FACES
    python benchmarks/precision.py --ckpt demo.pt --calib labels.csv
    python benchmarks/precision.py … --write benchmarks/precision.md    # puts the section there

With random weights the figures say nothing about expressions; speed, size and rounding errors of features do not
depend on training. Latencies are medians, with precisions taking turns; report the machine's load with them.
Engine builds need `dfer-edge[tensorrt-rtx]`, BF16 and the OpenVINO rows `dfer-edge[openvino]`.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import cv2
import numpy as np
import torch

from dfer.calibration.faces import load_faces
from dfer.calibration.graphs import Graph, largest
from dfer.calibration.quantization import quantize_static
from dfer.export.engine import build_engines
from dfer.export.exporting import ExportResult, export_method
from dfer.export.latency import measure_latency
from dfer.export.options import ExportOptions
from dfer.export.parity import GATES, Parity, faces_reference
from dfer.runtime.bundle import Bundle
from dfer.runtime.engines import find_backend, open_engine, open_graph, present_providers
from dfer.runtime.engines.trt_library import is_installed
from dfer.runtime.errors import DferError
from dfer.train.checkpoints.checkpoint import load_checkpoint
from dfer.train.data.augmentation import plain_view
from dfer.train.data.procedural import ProceduralClips
from dfer.train.methods import Method
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.models.clip import load_clip

CROPS = 640
"""Procedural faces: 512 for calibration and 128 for testing."""
TARGETS = ("sm86", "sm89", "sm120")


@dataclass(frozen=True)
class Check:
    """A requirement on a figure, the measured value, and whether it is met."""

    what: str
    must: str
    measured: str
    holds: bool


def add_outliers(tower: Any, factor: float = 45.0, channels: int = 6) -> None:
    """Scale some channels of every block's LayerNorms by `factor`, and the weights that read them by 1/`factor`."""
    picked = torch.randperm(tower.ln_post.weight.shape[0])[:channels]
    with torch.no_grad():
        for block in tower.transformer.resblocks:
            for norm, weight in ((block.ln_1, block.attn.in_proj_weight), (block.ln_2, block.mlp.c_fc.weight)):
                norm.weight[picked] *= factor
                norm.bias[picked] *= factor
                weight[:, picked] /= factor


def drawn_faces(work: Path, size: int) -> Path:
    """Return a folder of `CROPS` procedural faces as PNG files; draw them if it is empty."""
    folder = work / f"faces.{size}"
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        clips = ProceduralClips(range(8))
        frames = (frame for index in range(len(clips)) for frame in plain_view(clips.frames(index), size))
        for number, frame in zip(range(CROPS), frames, strict=False):
            cv2.imwrite(str(folder / f"{number:04}.png"), frame[..., ::-1])
    return folder


def naive_parity(method: Method, bundle: Bundle, faces: Path) -> Parity:
    """Return the parity of naive static INT8: every layer, maximum as range, no smoothing, no float fallback."""
    measured, kept = load_faces(faces, method.preprocessing.size, 2)
    encoder = bundle.read("encoder.fp32.onnx")
    some = measured.frames[:: max(1, len(measured.frames) // 64)]
    naive = quantize_static(encoder, largest(encoder, some), [layer.name for layer in Graph(encoder).layers()])
    with open_engine(naive, "cpu") as encoding, open_engine(bundle.read("head.fp32.onnx"), "cpu") as classifying:
        return faces_reference(method, kept).compare(encoding, classifying)


def parity_lines(exported: ExportResult, naive: Parity) -> Iterator[str]:
    labelled = exported.parity["fp32"].war is not None
    more = (" WAR | UAR |", "---|---|") if labelled else ("", "")
    yield f"| precision | feature cosine | max \\|Δp\\| | same top-1, exactly | with ties | gate |{more[0]}"
    yield f"|---|---|---|---|---|---|{more[1]}"
    rows = [*exported.parity.items(), ("naive static INT8", naive)]
    for name, parity in rows:
        gate = ("passed" if parity.passes(name) else "failed") if name in GATES["default"] else "not exported"
        recalls = f" {parity.war:.1%} | {parity.uar:.1%} |" if labelled else ""
        yield (
            f"| {name} | {parity.cosine:.6f} | {parity.max_delta:.2g} | {parity.exact_top1:.1%} | {parity.top1:.1%} "
            f"| {gate} |{recalls}"
        )


def file_lines(bundle: Bundle) -> Iterator[str]:
    """Yield table rows: on which providers each graph loads and runs, and its TensorRT-RTX builds."""
    providers = present_providers()
    builds = is_installed("tensorrt-rtx")
    yield f"| file | MB | {' | '.join(providers)} | TensorRT-RTX for {', '.join(TARGETS)} |"
    yield "|---" * (3 + len(providers)) + "|"
    size = bundle.manifest.preprocessing.size
    inputs = {
        "frames": np.zeros((1, size, size, 3), np.uint8),
        "features": np.zeros((1, bundle.manifest.window, bundle.manifest.width), np.float32),
    }
    for name in sorted(name for name in bundle.digests if name.endswith(".onnx")):
        given = "features" if name.startswith("head.") else "frames"
        only_cpu = name.endswith(".cpu.onnx")
        cells = [name, f"{(bundle.path / name).stat().st_size / 1e6:.1f}"]
        for provider in providers:
            if only_cpu and provider != "cpu":
                cells.append("not for it")
                continue
            try:
                with open_graph(bundle, name, provider) as engine:
                    engine.run({given: inputs[given]})
                cells.append("runs")
            except DferError as error:
                cells.append(str(error))
        if only_cpu:
            cells.append("not for it")
        elif builds:
            rows = build_engines(bundle, [name], "auto", TARGETS)
            cells.append("; ".join(row.refused or f"{row.size / 1e6:.0f} MB in {row.seconds:.1f} s" for row in rows))
        else:
            cells.append("not installed")
        yield f"| {' | '.join(cells)} |"


def latency_lines(exported: ExportResult) -> Iterator[str]:
    yield "| measured at export, each provider by itself | precision | batch 1, ms | batch 8, ms | |"
    yield "|---|---|---|---|---|"
    for provider, by_precision in exported.measurements.items():
        for name, found in by_precision.items():
            best = "recommended" if exported.bundle.manifest.recommended.get(provider) == name else ""
            yield f"| {provider} | {name} | {found.latency[1]:.1f} | {found.latency[8]:.1f} | {best} |"


def race(bundle: Bundle) -> dict[str, float]:
    """Return milliseconds at batch 1 of the encoders compared across providers, which take turns in one run."""
    wanted = [("cpu", "fp32"), ("cpu", "int8"), ("openvino", "int8"), ("openvino", "bf16")]
    there = [
        (place, name) for place, name in wanted if place in present_providers() and name in bundle.manifest.precisions
    ]
    with ExitStack() as stack:
        engines = {}
        for place, name in there:
            graph = bundle.read(bundle.manifest.graphs(name, place)[0])
            engines[f"{name} on {place}"] = stack.enter_context(open_engine(graph, place, precision=name))
        found = measure_latency(engines, bundle.manifest.preprocessing.size)
    return {name: by_batch[1] for name, by_batch in found.items()}


def race_lines(raced: Mapping[str, float]) -> Iterator[str]:
    yield "| in one run, batch 1 | ms | times as fast |\n|---|---|---|"
    for name, milliseconds in raced.items():
        yield f"| {name} | {milliseconds:.1f} | {raced['fp32 on cpu'] / milliseconds:.2f} × |"


def checks(
    exported: ExportResult,
    naive: Parity,
    raced: Mapping[str, float],
    outliers: bool,
    full: bool,
    seconds: float,
    memory: float,
) -> list[Check]:
    """Return the checks; those of sizes, speed, time and memory have limits for ViT-B-32 only (`full`)."""
    bundle, parity = exported.bundle, exported.parity
    found = [Check(f"{name} passes its gate", "yes", "yes", True) for name in parity]  # else there would be no bundle
    if outliers:
        found.append(Check("naive static INT8, feature cosine", "< 0.97", f"{naive.cosine:.4f}", naive.cosine < 0.97))
        ours = parity["int8"].cosine
        found.append(Check("our INT8, feature cosine", "≥ 0.995", f"{ours:.4f}", ours >= 0.995))
    labelled = parity["fp32"].war is not None
    for name, limit in (("war", 0.005), ("uar", 0.01)) if labelled else ():
        lost = getattr(parity["fp32"], name) - getattr(parity["int8"], name)
        found.append(Check(f"INT8 {name.upper()} below fp32", f"≤ {limit:.1%}", f"{lost:.2%}", lost <= limit))
    if full:
        for name, limit in (("int8 on cpu", 2.8), ("int8 on openvino", 4.0)):
            if name in raced:
                times = raced["fp32 on cpu"] / raced[name]
                found.append(Check(f"{name}, against fp32 on cpu", f"≥ {limit} ×", f"{times:.2f} ×", times >= limit))
        for file, most in (("fp16", 180), ("int8", 95), ("int8.cpu", 95)):
            size = (bundle.path / f"encoder.{file}.onnx").stat().st_size / 1e6
            found.append(Check(f"encoder.{file}.onnx", f"≤ {most} MB", f"{size:.1f} MB", size <= most))
        found.append(Check("the whole export", "≤ 360 s", f"{seconds:.0f} s", seconds <= 360))
        found.append(Check("its peak memory", "≤ 6 GB", f"{memory:.2f} GB", memory <= 6))
    return found


def put(page: Path, title: str, text: str) -> None:
    """Write a section of the page, replacing the one with that title, or at the end."""
    kept = [part.rstrip("\n") for part in page.read_text(encoding="utf-8").split("\n## ")]
    titles = [part.partition("\n")[0] for part in kept]
    place = titles.index(title) if title in titles else len(kept)
    kept[place : place + 1] = [f"{title}\n\n{text}"]
    page.write_text("\n\n## ".join(kept) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="ViT-B-32", help="a ViT of open_clip, with random weights")
    parser.add_argument("--ckpt", type=Path, help="a checkpoint of dfer-train instead")
    parser.add_argument("--outliers", action="store_true", help="give LayerNorms outlier channels")
    parser.add_argument("--calib", type=Path, help="faces, as dfer-export takes them; default: drawn ones")
    parser.add_argument("--write", type=Path, help="page to put the section into")
    options = parser.parse_args()
    asked = [word for word in sys.argv[1:] if word not in ("--write", str(options.write))]
    torch.manual_seed(0)
    method: Method
    if options.ckpt:
        method, _ = load_checkpoint(options.ckpt)
    else:
        method = AlignDfer(load_clip(options.clip), tokens=4, video_layers=1)
    title = options.ckpt.name if options.ckpt else f"{options.clip}, random weights"
    if options.outliers:
        add_outliers(method.clip_model.visual)
        title += ", outlier channels"
    with tempfile.TemporaryDirectory() as scratch:
        faces = options.calib or drawn_faces(Path(scratch), method.preprocessing.size)
        begun = monotonic()

        def told(step: str) -> None:
            print(f"{monotonic() - begun:6.1f} s  {step}", file=sys.stderr)

        wanted = ExportOptions(fp16=True, bf16=find_backend("openvino").runs("bf16"), int8=True, faces=faces)
        exported = export_method(method, Path(scratch) / "model.dfer", {}, wanted, told)
        seconds, used = monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF)
        memory = used.ru_maxrss / 1e6  # KB on Linux
        told("naive INT8, for comparison")
        naive = naive_parity(method, exported.bundle, faces)
        told("the race")
        raced = race(exported.bundle)
        made, full = exported.int8, not options.ckpt and options.clip == "ViT-B-32"
        assert made is not None
        told("loading and building every file")
        lines = [
            f"    python benchmarks/precision.py {' '.join(asked)}".rstrip(),
            "",
            f"{exported.parity['int8'].frames} faces judge INT8, noise and drawn faces in motion the others too; INT8 "
            f"in {made.total - len(made.floating)} of {made.total} layers, ranges by {made.kind}. "
            f"Load of the machine then (1 minute): {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
            "",
            *parity_lines(exported, naive),
            "",
            *file_lines(exported.bundle),
            "",
            *latency_lines(exported),
            "",
            *race_lines(raced),
            "",
            f"The export took {seconds:.0f} s ({used.ru_utime + used.ru_stime:.0f} s of one core, imports and drawing "
            f"included), and {memory:.2f} GB at its peak.",
            "",
            "| check | must be | measured | |\n|---|---|---|---|",
        ]
        found = checks(exported, naive, raced, options.outliers, full, seconds, memory)
    lines += [f"| {one.what} | {one.must} | {one.measured} | {'✓' if one.holds else '✗'} |" for one in found]
    print("\n".join(lines))
    if options.write:
        put(options.write, title, "\n".join(lines))
    sys.exit(not all(one.holds for one in found))


if __name__ == "__main__":
    main()

"""Speed compared with single-frame recognisers: EfficientNet-B0, the class of EmotiEffLib's and others' models.

    python benchmarks/per_frame.py WORK [--student STUDENT.dfer] [--seconds 40] [--write]

All on ONNX Runtime with the same settings, random weights, one face: of 224 pixels for EfficientNet-B0 (the demo
model: 80), of 224 and 128 for ViT-B/32, which also reads 15 of the 16 patches of 128. STUDENT.dfer: a distilled model
with an INT8 encoder (`distillation.py`). WORK keeps the exported models. --write writes per_frame.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from pages import Check, publish, table, take_turns
from vit import vit_bundle
from windows import PATCHES, TURN, ours

from dfer.runtime.bundle import DEMO
from dfer.runtime.engines import open_engine, present_providers
from dfer.runtime.machine import physical_cores
from dfer.runtime.recognizer import Recognizer
from dfer.train.models.clip import load_timm

SIDE = 224
MUST = {"cpu": 1.0, "openvino": 0.9}
"""Maximum cost of INT8 at 128 pixels relative to EfficientNet-B0, by provider."""
STUDENT = 0.25
"""The same for a student, with either provider."""


def efficientnet(folder: Path) -> Path:
    """Export EfficientNet-B0 for seven classes as an FP32 graph: float32 [N,3,224,224] → logits [N,7]."""
    path = folder / "efficientnet_b0.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        network = load_timm().create_model("efficientnet_b0", num_classes=7).eval()
        batch = torch.export.Dim("N", min=1, max=64)
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, SIDE, SIDE),),
            path,
            input_names=["frames"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
            external_data=False,
            dynamo=True,
        )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--clip", default="ViT-B-32", help="a ViT of open_clip; others are no figures for the page")
    parser.add_argument("--student", type=Path)
    options = parser.parse_args()
    vits = {
        f"ours: {options.clip}, {size} px{f', {patches} patches' if patches else ''}": vit_bundle(
            options.work, options.clip, size=size, patches=patches
        )
        for size in PATCHES
        for patches in PATCHES[size]
    }
    graph = efficientnet(options.work).read_bytes()
    crop = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    works, sees = {}, {}
    for provider in ("cpu", "openvino"):
        if provider not in present_providers():
            continue
        engine = open_engine(graph, provider, physical_cores())
        name = f"EfficientNet-B0, fp32, {provider}"
        works[name], sees[name] = (lambda engine=engine: engine.run({"frames": crop})), "one frame"
        bundles: dict[str, Path] = {**vits, "ours: demo model": DEMO}
        if options.student:
            bundles["ours: student"] = options.student
        for title, path in bundles.items():
            alone = path == DEMO and provider != "cpu"  # its INT8 is for ONNX Runtime's own kernels
            for precision in ("fp32",) if alone else ("fp32", "int8"):
                name = f"{title}, {precision}, {provider}"
                works[name] = ours(Recognizer(path, provider=provider, precision=precision))
                sees[name] = "16 frames, 2 s"
    times = take_turns(works, options.seconds, dict.fromkeys(works, TURN))
    base = times["EfficientNet-B0, fp32, cpu"]
    checks = []
    for provider, most in MUST.items():
        limits = {f"{title}, int8, {provider}": most for title in vits if "128 px" in title}
        limits[f"ours: student, int8, {provider}"] = STUDENT
        for name in filter(times.__contains__, limits):
            ratio = times[name] / base
            checks.append(
                Check(f"{name}: at most {limits[name]} of EfficientNet-B0", f"{ratio:.2f}", ratio <= limits[name])
            )
    rows = [[name, f"{spent:.1f}", f"{spent / base:.2f}", sees[name]] for name, spent in times.items()]
    publish(
        "per_frame.md",
        "Against recognisers that look at one frame",
        [
            f"    python benchmarks/per_frame.py WORK{' --student STUDENT.dfer' * bool(options.student)} --write",
            "Median milliseconds per face and frame, from crop to probabilities, measured in turns; random weights. "
            "The predictions see different spans of time: a per-frame recogniser cannot tell an onset from an offset.",
            table(("", "ms", "against EfficientNet-B0 on CPU", "a prediction sees"), rows),
        ],
        checks,
        options.write,
    )


if __name__ == "__main__":
    main()

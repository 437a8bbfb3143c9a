"""Cost of small image towers as students of a trained model, before training one: see `dfer-distill --tower`.

    python benchmarks/towers.py TEACHER.pt WORK [--tower NAME=PIXELS …] [--seconds 60] [--write]

Each gets the head of TEACHER.pt and random weights, is exported in FP32 and INT8 with the gate off,
and takes turns with the others and with EfficientNet-B0. WORK keeps the exported bundles. --write writes towers.md.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path

import torch
from distillation import PEER, PRECISIONS, measure
from pages import publish, table
from precision import drawn_faces

from dfer.export.exporting import export_method
from dfer.export.options import ExportOptions
from dfer.runtime.bundle import MANIFEST
from dfer.runtime.engines import present_providers
from dfer.train.checkpoints.checkpoint import load_checkpoint
from dfer.train.methods.student import Student

TOWERS = {
    "dfer_resnet_nano": 64,
    "dfer_resnet_tiny": 80,
    "dfer_resnet_small": 80,
    "mobilenetv4_conv_small": 112,
    "mobileone_s0": 112,
    "resnet18": 112,
    "hgnetv2_b0": 112,
    "deit_tiny_patch16_224": 112,
    "vit_small_patch16_224": 112,
    "fastvit_t8": 128,
}
"""Name → side of the input crops in pixels."""


def export(work: Path, teacher: Path, tower: str, size: int) -> tuple[Path, str]:
    """Export an untrained student; return its bundle and its tower's parameters, in millions."""
    torch.manual_seed(0)
    student = Student.of_teacher(load_checkpoint(teacher)[0], tower, size, None).eval()
    path = work / f"{tower}-{size}.dfer"
    if not (path / MANIFEST).is_file():
        print(f"exporting {tower}", file=sys.stderr, flush=True)
        export_method(student, path, {}, ExportOptions(int8=True, faces=drawn_faces(work, size), gate="off"))
    return path, f"{sum(one.numel() for one in student.tower.parameters()) / 1e6:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--tower", action="append", dest="towers", metavar="NAME=PIXELS")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(exist_ok=True)
    towers = dict(one.split("=") for one in options.towers) if options.towers else TOWERS
    providers = [name for name in ("cpu", "openvino") if name in present_providers()]
    made = {tower: export(options.work, options.teacher, tower, int(pixels)) for tower, pixels in towers.items()}
    times = measure({tower: bundle for tower, (bundle, _) in made.items()}, providers, options)
    rows = []
    for tower, (_, size) in made.items():
        spent = [times[f"{tower} {provider} {precision}"] for provider, precision in product(providers, PRECISIONS)]
        rows.append([tower, str(towers[tower]), size, *(f"{one:.2f} ms, {one / times[PEER]:.2f}" for one in spent)])
    head = [f"{provider}, {precision.upper()}" for provider, precision in product(providers, PRECISIONS)]
    parts = [
        "    python benchmarks/towers.py TEACHER.pt WORK --write",
        "Time of a prediction: one frame through the encoder, and the teacher's head. Random weights; parameters of "
        f"the tower in millions. The second number is the ratio to the {times[PEER]:.1f} ms that {PEER} takes for one "
        "frame in FP32 on ONNX Runtime's CPU provider. Measured in turns.",
        table(("tower", "pixels", "parameters", *head), rows),
    ]
    publish("towers.md", "What students cost", parts, [], options.write)


if __name__ == "__main__":
    main()

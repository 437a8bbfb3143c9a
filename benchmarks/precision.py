"""Export of a CLIP tower with random weights in every precision: agreement, size, latency, time and memory.

    python benchmarks/precision.py                       # ViT-B-32; draws 512 faces
    python benchmarks/precision.py --outliers            # the same function with outlier channels
    python benchmarks/precision.py --clip ViT-L-14 --calib FACES

With random weights the figures say nothing about expressions; agreement and speed do not depend on what was learned.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

import cv2
import torch

from dfer.export.exporting import Exported, Wish, export_method
from dfer.train.augmentation import plain_view
from dfer.train.clip import load_clip
from dfer.train.data.procedural import ProceduralClips
from dfer.train.methods.align_dfer import AlignDfer

CROPS = 512


def add_outliers(tower: Any, factor: float = 45.0, channels: int = 6) -> None:
    """Make some channels of every block's LayerNorms `factor` times as large, and what reads them as much smaller."""
    picked = torch.randperm(tower.ln_post.weight.shape[0])[:channels]
    with torch.no_grad():
        for block in tower.transformer.resblocks:
            for norm, weight in ((block.ln_1, block.attn.in_proj_weight), (block.ln_2, block.mlp.c_fc.weight)):
                norm.weight[picked] *= factor
                norm.bias[picked] *= factor
                weight[:, picked] /= factor


def draw_crops(folder: Path, size: int) -> None:
    """`CROPS` procedural faces as PNG files."""
    clips, done = ProceduralClips(range(8)), 0
    for index in range(len(clips)):
        for frame in plain_view(clips.frames(index), size):
            if done < CROPS:
                cv2.imwrite(str(folder / f"{done:04}.png"), frame[..., ::-1])
                done += 1
    if done < CROPS:
        raise SystemExit(f"only {done} faces were drawn")


def report(exported: Exported, seconds: float, memory: float) -> None:
    """Print what was measured, as Markdown."""
    bundle = exported.bundle
    print("\n| precision | encoder, MB | feature cosine | max |Δp| | same top-1 |\n|---|---|---|---|---|")
    for name, parity in exported.parity.items():
        files = {bundle.manifest.graphs(name, provider)[0] for provider in ("default", "cpu")}
        sizes = " / ".join(f"{(bundle.path / file).stat().st_size / 1e6:.1f}" for file in sorted(files))
        print(f"| {name} | {sizes} | {parity.cosine:.6f} | {parity.max_delta:.2g} | {parity.top1:.1%} |")
    print("\n| provider | precision | batch 1, ms | batch 8, ms | against CPU fp32 | |\n|---|---|---|---|---|---|")
    slowest = exported.measurements["cpu"]["fp32"].latency[1]
    for provider, by_precision in exported.measurements.items():
        for name, found in by_precision.items():
            best = "recommended" if bundle.manifest.recommended.get(provider) == name else ""
            ratio = f"{slowest / found.latency[1]:.2f}×"
            print(f"| {provider} | {name} | {found.latency[1]:.1f} | {found.latency[8]:.1f} | {ratio} | {best} |")
    made = exported.int8
    assert made is not None
    print(f"\nint8: {made.total - len(made.floating)} of {made.total} layers; ranges by {made.kind}")
    print(f"export: {seconds:.0f} s, peak memory {memory:.2f} GB, load of the machine {os.getloadavg()[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="ViT-B-32", help="a ViT of open_clip")
    parser.add_argument("--outliers", action="store_true", help="give LayerNorms outlier channels")
    parser.add_argument("--calib", type=Path, help="faces, as dfer-export takes them; default: drawn ones")
    options = parser.parse_args()
    torch.manual_seed(0)
    method = AlignDfer(load_clip(options.clip), tokens=4, video_layers=1)
    if options.outliers:
        add_outliers(method.clip_model.visual)
    with tempfile.TemporaryDirectory() as scratch:
        faces = options.calib or Path(scratch) / "faces"
        if options.calib is None:
            faces.mkdir()
            draw_crops(faces, method.preprocessing.size)
        begun = monotonic()

        def told(step: str) -> None:
            print(f"{monotonic() - begun:6.1f} s  {step}", file=sys.stderr)

        wish = Wish(fp16=True, int8=True, faces=faces)
        exported = export_method(method, Path(scratch) / "model.dfer", {}, told, wish)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # KB on Linux
        report(exported, monotonic() - begun, memory)


if __name__ == "__main__":
    main()

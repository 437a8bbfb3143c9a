"""A prediction per frame, compared with re-encoding every window in PyTorch, as DFER-CLIP's code does.

    python benchmarks/windows.py WORK [--student STUDENT.dfer] [--seconds 60] [--write]

Theirs computes the text side and 16 frames for each prediction; ours encodes the one new frame, reuses the features of
the other 15, and has the text side folded into the head at export. Same model (ViT-B/32, random weights), one face,
crops in memory on both sides; ours also with images of 128 pixels (`dfer-train --image-size 128`), with 15 of their 16
patches (`--patches 15`), and with frames encoded in batches, as for files. STUDENT.dfer: a distilled model
with an INT8 encoder (`distillation.py`). WORK keeps the exported bundles. --write writes windows.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch
from pages import Check, publish, table, take_turns
from vit import random_dfer_clip, vit_bundle

from dfer.runtime.engines import LARGEST_BATCH, present_providers
from dfer.runtime.machine import describe_machine, physical_cores
from dfer.runtime.pipeline.feature_window import FeatureWindow
from dfer.runtime.recognizer import Recognizer

MUST = {
    "AMX": {("cpu", 224): 45, ("openvino", 224): 60, ("cpu", 128): 95, ("openvino", 128): 115},
    "VNNI": {("cpu", 224): 33, ("openvino", 224): 45, ("cpu", 128): 75, ("openvino", 128): 90},
}
"""Minimum speed-up: by the machine's instructions, then by provider and side of images."""
PATCHES = {224: (None,), 128: (None, 15)}
"""By side of images, how many of their patches are read, None for all; the minimum is the same."""
STUDENT = 300
"""Minimum speed-up of a student, with either provider."""
THEIRS = "PyTorch: text side and 16 frames"
FILE = f", {LARGEST_BATCH} frames of a file at once"
TURN = 60
"""Our runs per turn, about as long as one of theirs: shorter turns would mostly measure loading weights into caches."""


def ours(recognizer: Recognizer, frames: int = 1) -> Callable[[], object]:
    """Return a function that predicts for `frames` more frames of one face: encoder, a window for each, head."""
    manifest = recognizer.bundle.manifest
    size = manifest.preprocessing.size
    window = FeatureWindow(manifest.window, 2.0, 0.125)
    crops = np.random.default_rng(0).integers(0, 256, (frames, size, size, 3), dtype=np.uint8)
    numbers = count()

    def predict() -> object:
        windows = []
        for feature in recognizer.encode(crops):
            window.push(0.125 * next(numbers), feature)
            windows.append(window.stack())
        return recognizer.classify(np.stack(windows))

    return predict


def theirs(clip: str) -> dict[str, Callable[[], object]]:
    """Return DFER-CLIP's forward pass, and variants that compute less of it."""
    method = random_dfer_clip(clip)
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), dtype=np.uint8))
    with torch.inference_mode():
        matrix, kept = method.class_matrix(), method.encode_frames(frames)

    def predict(text: bool, new: int) -> object:
        with torch.inference_mode():
            features = torch.cat([kept[new:], method.encode_frames(frames[:new])])
            return method.logits(features[None], None if text else matrix).softmax(dim=-1)

    return {
        THEIRS: lambda: predict(True, 16),
        "PyTorch: 16 frames, text side kept": lambda: predict(False, 16),
        "PyTorch: one frame, features kept, text side kept": lambda: predict(False, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--clip", default="ViT-B-32", help="a ViT of open_clip; others are no figures for the page")
    parser.add_argument("--student", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(physical_cores())
    works = theirs(options.clip)
    must = MUST["AMX" if "AMX" in describe_machine().instructions else "VNNI"]
    needed, missing = {}, []  # name → minimum speed-up; providers not installed
    for (provider, size), least in must.items():
        if provider not in present_providers():
            missing.append(provider)
            continue
        for patches in PATCHES[size]:
            bundle = vit_bundle(options.work, options.clip, size=size, patches=patches)
            recognizer = Recognizer(bundle, provider=provider)
            images = f"{size} px{f', {patches} patches' if patches else ''}"
            name = f"ours: {images}, {provider}, {recognizer.precision}"
            works[name], needed[name] = ours(recognizer), least
            works[name + FILE] = ours(recognizer, LARGEST_BATCH)
        if options.student and size == 128:
            name = f"ours: student, {provider}, int8"
            works[name] = ours(Recognizer(options.student, provider=provider, precision="int8"))
            needed[name] = STUDENT
    runs = {name: TURN // (LARGEST_BATCH if name.endswith(FILE) else 1) for name in works if name.startswith("ours")}
    times = take_turns(works, options.seconds, runs)
    times |= {name: spent / LARGEST_BATCH for name, spent in times.items() if name.endswith(FILE)}
    rows = [[name, f"{spent:.1f}", f"{times[THEIRS] / spent:.1f} ×"] for name, spent in times.items()]
    factors = {name: times[THEIRS] / times[name] for name in needed}
    checks = [
        Check(f"{name}: at least {least} ×", f"{factors[name]:.1f} ×", factors[name] >= least)
        for name, least in needed.items()
    ]
    checks += [Check(provider, "does not run here", False) for provider in dict.fromkeys(missing)]
    publish(
        "windows.md",
        "A prediction per frame against re-encoding every window",
        [
            f"    python benchmarks/windows.py WORK{' --student STUDENT.dfer' * bool(options.student)} --write",
            f"{options.clip}, random weights, one face, a window of 16; median ms per prediction, taken in turns.",
            table(("", "ms", "faster by"), rows),
        ],
        checks,
        options.write,
    )


if __name__ == "__main__":
    main()

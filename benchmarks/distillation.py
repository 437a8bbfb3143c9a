"""Accuracy and cost of students of a trained model on photographs, compared with their teacher.

    python benchmarks/distillation.py TEACHER.pt LABELS.csv WORK [--tower NAME …] [--stills CSV …] [--write]

LABELS.csv: photographs from `dfer-prepare --photos`; students learn the teacher's features of its split train
without labels. Teacher and students are tested on its split val and that of every --stills, in FP32 and in INT8, and
timed in turns. WORK keeps students and bundles; existing ones are reused. --write writes distillation.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
from ablation import command
from pages import Check, publish, table, take_turns
from per_frame import SIDE, efficientnet
from windows import ours

from dfer.runtime.engines import open_engine, present_providers
from dfer.runtime.machine import physical_cores
from dfer.runtime.recognizer import Recognizer

TOWERS = ("dfer_resnet_tiny",)
LOST = {"war": 0.02, "uar_min10": 0.04}
"""Maximum loss relative to the teacher in FP32."""
LOSSES = ", ".join(map(str, LOST.values()))
PRECISIONS = ("fp32", "int8")
PEER = f"EfficientNet-B0 at {SIDE} px"


def export(checkpoint: Path, faces: Path) -> Path:
    bundle = checkpoint.with_suffix(".dfer")
    if not bundle.exists():
        print(f"exporting {checkpoint.name}", file=sys.stderr, flush=True)
        program = "from dfer.export.command import main; main()"
        options = ["--ckpt", checkpoint, "--out", bundle, "--int8", "--calib", faces, "--engine", "none"]
        subprocess.run([sys.executable, "-c", program, *map(str, options)], check=True, stdout=subprocess.DEVNULL)
    return bundle


def scores(bundle: Path, stills: Path, precision: str) -> dict[str, float]:
    out = bundle.with_name(f"{bundle.stem}-{stills.parent.name}-{precision}.json")
    if not out.exists():
        command("eval", bundle, "--stills", stills, "--precision", precision, "--json", out)
    result: dict[str, float] = json.loads(out.read_text(encoding="utf-8"))
    if absent := [name for name in LOST if result[name] is None]:
        raise SystemExit(f"{stills}: no {', '.join(absent)}: split val has ten photographs of no class")
    return result


def teach(options: argparse.Namespace) -> dict[str, Path]:
    """Train and export the students; return the bundles of teacher and students, by name."""
    models = {"teacher": options.work / options.teacher.name}
    if not models["teacher"].exists():
        shutil.copy(options.teacher, models["teacher"])
    for tower in options.towers or TOWERS:
        models[tower] = options.work / f"{tower}.pt"
        if not models[tower].exists():
            print(f"teaching {tower}", file=sys.stderr, flush=True)
            flags = ["--epochs", options.epochs, "--learning-rate", options.learning_rate]
            command("distill", models["teacher"], models[tower], "--tower", tower, "--faces", options.faces, *flags)
    return {name: export(model, options.faces) for name, model in models.items()}


def measure(bundles: dict[str, Path], providers: list[str], options: argparse.Namespace) -> dict[str, float]:
    """Return milliseconds per prediction by "name provider precision", and per frame for `PEER`."""
    engine = open_engine(efficientnet(options.work).read_bytes(), "cpu", physical_cores())
    crop = np.zeros((1, 3, SIDE, SIDE), np.float32)
    works: dict[str, Callable[[], object]] = {PEER: lambda: engine.run({"frames": crop})}
    for name, bundle in bundles.items():
        for provider, precision in product(providers, PRECISIONS):
            opened = Recognizer(bundle, provider=provider, precision=precision)
            works[f"{name} {provider} {precision}"] = ours(opened)
    return take_turns(works, options.seconds, dict.fromkeys(works, 30))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("faces", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--tower", action="append", dest="towers")
    parser.add_argument("--stills", action="append", type=Path, default=[])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(exist_ok=True)
    bundles = teach(options)
    tests = [options.faces, *options.stills]
    providers = [name for name in ("cpu", "openvino") if name in present_providers()]
    times = measure(bundles, providers, options)
    read, cost, checks = [], [], []
    for name, precision in product(bundles, PRECISIONS):
        line = [name, precision.upper()]
        for stills in tests:
            found, wanted = scores(bundles[name], stills, precision), scores(bundles["teacher"], stills, "fp32")
            line.append(" / ".join(f"{found[score]:.3f}" for score in LOST))
            lost = [wanted[score] - found[score] for score in LOST]
            within = all(one <= most for one, most in zip(lost, LOST.values(), strict=True))
            words = f"{name}, {precision.upper()}, {stills.parent.name}: WAR, UAR lost, at most {LOSSES}"
            checks.append(Check(words, ", ".join(f"{one:.3f}" for one in lost), within))
        read.append(line)
        spent = [times[f"{name} {provider} {precision}"] for provider in providers]
        cost.append([name, precision.upper(), *(f"{one:.2f} ms, {one / times[PEER]:.3f}" for one in spent)])
    flags = [f"--tower {tower}" for tower in options.towers or []] + ["--stills STILLS.csv"] * len(options.stills)
    flags += [f"--epochs {options.epochs} --learning-rate {options.learning_rate:g}"]
    parts = [
        f"    python benchmarks/distillation.py TEACHER.pt LABELS.csv WORK {' '.join(flags)} --write",
        f"Students were trained on the photographs of split train, without labels, for {options.epochs} epochs. WAR / "
        "UAR (over classes with ten or more photographs) on split val; columns are named after the table's folder:",
        table(("", "", *(stills.parent.name for stills in tests)), read),
        "Time of a prediction (one frame through the encoder, and the head), measured in turns, and its ratio to the "
        f"{times[PEER]:.1f} ms that {PEER} takes for one frame in FP32 on ONNX Runtime's CPU provider:",
        table(("", "", *providers), cost),
    ]
    publish("distillation.md", "Students", parts, checks, options.write)


if __name__ == "__main__":
    main()

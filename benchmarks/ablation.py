"""Ablation of MAT, JAS and BAP, on procedural clips of held-out people.

    python benchmarks/ablation.py faces.pt WORK_FOLDER [--identities 150] [--seeds 3] [--write benchmarks/ablation.md]

faces.pt: weights of `dfer-pretrain`. Every variant trains for the same number of epochs on the same stored features.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

VARIANTS = {
    "Align-DFER (MAT, JAS, BAP)": [],
    "without BAP (`--single-step`)": ["--single-step"],
    "without MAT (`--no-mat`: class descriptions)": ["--no-mat"],
    "without JAS (`--no-jas`: mean over time)": ["--no-jas"],
}
STEPS = ("1-text", "2-video", "3-joint")


def command(name: str, *arguments: object) -> None:
    """Run one of our commands; on failure, exit with its output."""
    program = f"from dfer.train.cli.{name} import main; main()"
    call = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"dfer-{name} {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")


def scores(model: Path, identities: int, *arguments: str) -> dict[str, float]:
    out = model.with_suffix(".json")
    command("eval", model, "--identities", identities, "--json", out, *arguments)
    result: dict[str, float] = json.loads(out.read_text())
    return result


def row(name: str, models: list[Path]) -> str:
    ordered = [scores(model, 40) for model in models]
    shuffled = [scores(model, 40, "--shuffle-frames") for model in models]
    wars = [one["war"] for one in ordered]
    spread = f" ({min(wars):.3f}–{max(wars):.3f})" if len(wars) > 1 else ""
    line = f"| {name} | {mean(wars):.3f}{spread} | {mean(one['uar'] for one in ordered):.3f} | "
    return line + f"{mean(one['war'] for one in shuffled):.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--identities", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    common = ["--pretrained", options.weights, "--identities", options.identities, "--precision", "bf16"]
    models: dict[str, list[Path]] = {name: [] for name in VARIANTS}
    for seed in range(options.seeds):
        for number, (name, flags) in enumerate(VARIANTS.items()):
            out = options.folder / f"variant{number}-seed{seed}.pt"
            if not out.exists():
                print(f"training {name}, seed {seed}", flush=True)
                command("train", out, *common, "--seed", seed, *flags)
            models[name].append(out)
    lines = ["| model | WAR, mean of seeds (lowest–highest) | UAR | WAR with frames shuffled |", "|---|---|---|---|"]
    full = next(iter(models))
    for step in STEPS:
        lines.append(row(f"BAP, after step {step}", [out.with_suffix(f".step-{step}.pt") for out in models[full]]))
        print(lines[-1], flush=True)
    for name, trained in models.items():
        lines.append(row(name, trained))
        print(lines[-1], flush=True)
    if options.write is not None:
        text = options.write.read_text(encoding="utf-8")
        begin, end = text.index("| model |"), text.rindex("|\n") + 2
        options.write.write_text(text[:begin] + "\n".join(lines) + "\n" + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()

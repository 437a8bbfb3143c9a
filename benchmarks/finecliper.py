"""Ablation of FineCLIPER's parts: on held-out procedural people, and on photographs as clips.

    python benchmarks/finecliper.py vit.pt WORK [--stills labels.csv] [--seeds 2]

vit.pt: weights of `dfer-pretrain --clip dfer-vit`. labels.csv: photographs with votes from `dfer-prepare --photos`;
each is a clip of one frame. Every variant trains for the same number of epochs on the same clips, with as many runs in
parallel as there are cores. Existing checkpoints are reused.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

import numpy as np
from ablation import command, scores

from dfer.runtime.labels import EXPRESSIONS
from dfer.train.data.procedural import ProceduralClips

NO_ADAPTERS = ["--option", "adapter=none", "--option", "no_text_adapters=true"]
PARTS = {
    "frozen CLIP, temporal layer alone": NO_ADAPTERS,
    "adapters for texts": ["--option", "adapter=none"],
    "adapters for images": ["--option", "no_text_adapters=true"],
    "**adapters for both** (the method)": [],
}
VARIANTS = {
    "LoRA for images": ["--option", "adapter=lora"],
    "adapters that fold into the MLP (`activation=tower`)": ["--option", "activation=tower"],
    "s = 0.3": ["--option", "adapter_scale=0.3"],
    "s = 0.7": ["--option", "adapter_scale=0.7"],
    "negatives with “less”": ["--descriptions", "less.json"],
    "without negatives": ["--option", "no_negatives=true"],
    "captions": ["--captions", "drawn"],
    "captions, shuffled between clips": ["--captions", "shuffled.jsonl"],
    "middle level, landmarks as drawn": ["--middle", "distil"],
}
SIZES = {
    "images of 112 px: 49 patches, not 16": ["--image-size", "112"],
    "images of 48 px: 9 patches": ["--image-size", "48"],
    "images of 64 px, 15 of 16 patches": ["--patches", "15"],
}
"""The transformer was pre-trained on images of 64 px, in patches of 16; its positional embedding is interpolated."""
PEOPLE = 40  # test people


def write_texts(folder: Path, identities: int) -> None:
    """Write descriptions with "less" for "no", and the captions of procedural people, shuffled between clips."""
    less = {name: [f"a person with an expression of {word}{name}" for word in ("", "less ")] for name in EXPRESSIONS}
    (folder / "less.json").write_text(json.dumps(less), encoding="utf-8")
    captions = ProceduralClips(range(identities)).captions
    order = np.random.default_rng(0).permutation(len(captions))
    texts = [list(captions.values())[index] for index in order]
    lines = [json.dumps({"clip": clip, "text": text}) for clip, text in zip(captions, texts, strict=True)]
    (folder / "shuffled.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_stills(table: Path, folder: Path, most: int) -> Path:
    """Write a CSV of clips, each the folder of a photograph, with at most `most` training clips per class."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = dict.fromkeys(EXPRESSIONS, 0)
    out = folder / "stills.csv"
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "label", "split"])
        for index in np.random.default_rng(0).permutation(len(rows)):
            row = rows[index]
            votes = {name: float(row[name] or 0) for name in EXPRESSIONS}
            label, split = max(votes, key=votes.__getitem__), {"train": "train", "val": "test"}.get(row["split"])
            if split is None or not votes[label] or (split == "train" and counts[label] >= most):
                continue
            counts[label] += split == "train"
            clip = folder / "stills" / Path(row["image"]).stem
            clip.mkdir(parents=True, exist_ok=True)
            picture = clip / Path(row["image"]).name
            if not picture.is_symlink():
                picture.symlink_to((table.parent / "images" / row["image"]).resolve())
            writer.writerow([clip.resolve(), label, split])
    return out


def train(out: Path, flags: list[str], common: list[object]) -> None:
    if not out.exists():
        print(f"training {out.stem}", flush=True)
        inside = [out.parent / flag if (out.parent / flag).is_file() else flag for flag in flags]
        command("train", out, "--method", "finecliper", *common, *inside)


def row(name: str, wars: list[float], uars: list[float]) -> str:
    spread = f" ({min(wars):.3f}–{max(wars):.3f})" if len(wars) > 1 else ""
    return f"| {name} | {mean(wars):.3f}{spread} | {mean(uars):.3f} |"


def compare(options: argparse.Namespace, variants: dict[str, list[str]], label: str, data: list[object]) -> None:
    """Print a table with a row for each variant, trained and tested on `data`."""
    print(f"| {label} | WAR, mean of seeds (lowest–highest) | UAR |\n|---|---|---|", flush=True)
    common = ["--clip", "dfer-vit", "--pretrained", options.weights, "--precision", "bf16", *data]
    common += ["--epochs", options.epochs, "--batch", options.batch, "--learning-rate", options.learning_rate]
    tested = ["--data", "csv", "--root", str(data[-1])] if "csv" in data else []

    def score(name: str, seed: int) -> dict[str, float]:
        number = [*PARTS, *VARIANTS, *SIZES].index(name)
        out = options.folder / f"{label.split()[0]}-{number}-seed{seed}.pt"
        train(out, variants[name], [*common, "--seed", seed])
        told = out.with_suffix(".json")
        return json.loads(told.read_text(encoding="utf-8")) if told.exists() else scores(out, PEOPLE, *tested)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {name: [pool.submit(score, name, seed) for seed in range(options.seeds)] for name in variants}
        for name, runs in futures.items():
            found = [run.result() for run in runs]
            print(row(name, [one["war"] for one in found], [one["uar"] for one in found]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stills", type=Path)
    parser.add_argument("--stills-most", type=int, default=200)
    parser.add_argument("--identities", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # there are as many parallel runs as cores
    write_texts(options.folder, options.identities)
    compare(options, PARTS | VARIANTS | SIZES, "drawn people", ["--identities", options.identities])
    if options.stills is not None:
        table = write_stills(options.stills, options.folder, options.stills_most)
        compare(options, PARTS | SIZES, "photographs", ["--data", "csv", "--root", table])


if __name__ == "__main__":
    main()

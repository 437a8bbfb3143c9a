"""A training run killed (SIGKILL) during extraction and in each step, and resumed, compared with an undisturbed run.

python benchmarks/interruptions.py [--pretrained faces.pt --clip dfer-nano] [--identities 24]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

COMMAND = "from dfer.train.cli.{} import main; main()"


def start(name: str, *arguments: object) -> subprocess.Popen[bytes]:
    call = [sys.executable, "-c", COMMAND.format(name), *map(str, arguments)]
    return subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    errors = process.communicate()[1]
    if process.returncode:
        sys.exit(errors.decode())


def kill_when(process: subprocess.Popen[bytes], ripe: Callable[[], bool]) -> bool:
    """Kill the process as soon as `ripe()` is true; return False if it ended before."""
    while process.poll() is None:
        if ripe():
            process.kill()
            process.wait()
            return True
        time.sleep(0.005)
    return False


def half_encoded(features: Path) -> bool:
    stores = list(features.glob("*/features.npy"))
    if not stores:
        return False
    done = np.load(stores[0].with_name("done.npy"))
    return bool(done.any() and not done.all())


def in_step(epoch_log: Path, step: str) -> bool:
    lines = epoch_log.read_text().splitlines() if epoch_log.is_file() else []
    if not lines:
        return False
    try:
        last = json.loads(lines[-1])
    except ValueError:
        return False
    return bool(last["step"] == step and 2 <= last["number"] < last["epochs"])


def war(model: Path) -> float:
    out = model.with_suffix(".json")
    finish(start("eval", model, "--identities", 20, "--json", out))
    return float(json.loads(out.read_text())["war"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="dfer-nano")
    parser.add_argument("--pretrained", required=True)
    parser.add_argument("--identities", type=int, default=24)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder, "whole"), Path(folder, "cut")
        same = ["--clip", options.clip, "--pretrained", options.pretrained, "--identities", options.identities]
        same += ["--epochs", "8,8,8", "--views", 8]
        for place in (whole, cut):
            place.mkdir()
        finish(start("train", whole / "run.pt", *same))
        moments: dict[str, Callable[[], bool]] = {"extraction": lambda: half_encoded(cut / "features")}
        for step in ("1-text", "2-video", "3-joint"):
            moments[f"step {step}"] = lambda step=step: in_step(cut / "run.jsonl", step)  # type: ignore[misc]
        for name, ripe in moments.items():
            killed = kill_when(start("train", cut / "run.pt", *same, "--resume"), ripe)
            print(f"{name}: {'killed' if killed else 'NOT killed, it ended before'}", flush=True)
        finish(start("train", cut / "run.pt", *same, "--resume"))
        print(f"WAR undisturbed {war(whole / 'run.pt'):.4f}, after four kills {war(cut / 'run.pt'):.4f}")


if __name__ == "__main__":
    main()

"""Time and peak memory of a training step of BAP's third step with a full text tower (random weights).

python benchmarks/step_memory.py [--clip ViT-B-32] [--tokens 64] [--steps 3]
"""

from __future__ import annotations

import argparse
import resource
from time import perf_counter

import torch

from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.models.clip import load_clip
from dfer.train.precision import mixed_precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="ViT-B-32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--fp32", action="store_true", help="Without mixed precision.")
    options = parser.parse_args()
    method = AlignDfer(load_clip(options.clip), tokens=options.tokens, video_layers=3).train()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 1e-3, momentum=0.9)
    seconds = []
    for _ in range(options.steps):
        features, labels = torch.randn(64, 16, method.width), torch.randint(7, (64,))
        begin = perf_counter()
        with torch.autocast("cpu", enabled=False) if options.fp32 else mixed_precision():
            logits = method(features)
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    shown = ", ".join(f"{second:.1f}" for second in seconds)
    print(f"{options.clip}, 7×16 sentences of {options.tokens} tokens: steps of {shown} s, peak memory {peak:.1f} GiB")


if __name__ == "__main__":
    main()

"""Time and peak memory of a training step with full-size towers (random weights).

    python benchmarks/step_memory.py [--clip ViT-B-32] [--tokens 64] [--steps 3]
    python benchmarks/step_memory.py --finecliper --clip ViT-B-16 [--captions]

Without --finecliper: BAP's third step, 64 clips of stored features. With it: FineCLIPER, 8 clips of 16 frames as
pixels, with gradient checkpointing (`--option checkpointing=true`).
"""

from __future__ import annotations

import argparse
import resource
from time import perf_counter

import numpy as np
import torch

from dfer.runtime.labels import EXPRESSIONS
from dfer.train.captions.contrast import CaptionTokens
from dfer.train.data import Batch
from dfer.train.methods import Method
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.methods.finecliper import FineCliper
from dfer.train.methods.phases import Plan
from dfer.train.models.clip import load_clip
from dfer.train.precision import mixed_precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="ViT-B-32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--fp32", action="store_true", help="Without mixed precision.")
    parser.add_argument("--finecliper", action="store_true")
    parser.add_argument("--captions", action="store_true", help="FineCLIPER with the loss of captions.")
    options = parser.parse_args()
    clip = load_clip(options.clip)
    method: Method
    if options.finecliper:
        names = [str(number) for number in range(8)]
        captions = CaptionTokens(clip, dict.fromkeys(names, ("the brows rise, then the mouth opens",)))
        method = FineCliper.from_options(
            clip,
            EXPRESSIONS,
            Plan((1,), (3e-4,), (1,)),
            checkpointing=True,
            captions=captions if options.captions else None,
        )
        side = clip.preprocessing.size
        inputs = torch.randint(0, 256, (8, 16, side, side, 3), dtype=torch.uint8)
        told = f"FineCLIPER on {options.clip}, 8 clips of 16 frames of {side} px{' and captions' * options.captions}"
    else:
        method, names = AlignDfer(clip, tokens=options.tokens, video_layers=3), [str(number) for number in range(64)]
        inputs = torch.randn(64, 16, method.width)
        told = f"{options.clip}, 7×16 sentences of {options.tokens} tokens"
    method.train()
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-3, momentum=0.9)
    batch = Batch(inputs, torch.from_numpy(np.arange(len(names)) % len(EXPRESSIONS)), names=names)
    seconds = []
    for _ in range(options.steps):
        begin = perf_counter()
        with torch.autocast("cpu", enabled=False) if options.fp32 else mixed_precision():
            loss = method.loss(batch, None, None)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    shown = ", ".join(f"{second:.1f}" for second in seconds)
    millions = sum(one.numel() for one in trained) / 1e6
    print(f"{told}: {millions:.1f} M trained, steps of {shown} s, peak memory {peak:.1f} GiB")


if __name__ == "__main__":
    main()

"""How long an epoch takes on stored features and on pixels: same method, data and machine, turn by turn.

python benchmarks/epochs.py [--clip ViT-B-32] [--identities 10] [--rounds 3]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from dfer.train.batches import Batches, FeatureBatches, PixelBatches, Sampling
from dfer.train.clip import load_clip
from dfer.train.data.procedural import ProceduralClips
from dfer.train.features import Extraction, stored_features
from dfer.train.methods import Method
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.precision import mixed_precision


def epoch(method: Method, batches: Batches, phase: int) -> float:
    """Seconds of one epoch of forward, backward and step."""
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, 1e-3)
    start = perf_counter()
    for inputs, labels in batches.random(np.random.default_rng(phase)):
        with mixed_precision():
            logits = method(inputs)
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="ViT-B-32")
    parser.add_argument("--identities", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    method = AlignDfer(load_clip(options.clip), tokens=options.tokens).train()
    clips = ProceduralClips(range(options.identities), workers=2)
    sampling = Sampling(batch=64)
    with tempfile.TemporaryDirectory() as folder:
        begin = perf_counter()
        features = stored_features(Path(folder), method.eval(), clips, Extraction(views=0))
        print(f"extraction, once: {perf_counter() - begin:.1f} s for {len(clips)} clips")
        method.train()
        on_features = FeatureBatches([(features, 1.0)], sampling)
        on_pixels = PixelBatches([(clips, clips.labels, 1.0)], 112, "paper", sampling=sampling)
        times = [(epoch(method, on_features, n), epoch(method, on_pixels, n)) for n in range(options.rounds)]
    fast, slow = (median(column) for column in zip(*times, strict=True))
    print(
        f"{options.clip}, {len(clips)} clips, batch 64: features {fast:.2f} s, pixels {slow:.2f} s, {slow / fast:.1f} ×"
    )


if __name__ == "__main__":
    main()

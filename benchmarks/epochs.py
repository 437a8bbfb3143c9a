"""Duration of an epoch on stored features and on pixels: same method, data and machine, in turns.

Each in the precision that is faster for it on a CPU: features in float32, pixels in bfloat16 if the CPU supports it.

python benchmarks/epochs.py [--clip ViT-B-32] [--identities 10] [--batch 64] [--rounds 3]
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from time import perf_counter

import cv2
import numpy as np
import torch

from dfer.runtime.labels import EXPRESSIONS
from dfer.train.data import ClipSet
from dfer.train.data.batches import FeatureBatches, PixelBatches, Sampling
from dfer.train.data.benchmarks import load_clips
from dfer.train.data.features import Extraction, stored_features
from dfer.train.data.procedural import ProceduralClips
from dfer.train.methods import Method
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.methods.dfer_clip import DferClip
from dfer.train.models.clip import load_clip
from dfer.train.models.descriptions import DESCRIPTIONS
from dfer.train.models.prompts import DescribedPrompts
from dfer.train.precision import mixed_precision


def epoch(method: Method, batches: FeatureBatches | PixelBatches, seed: int, text: bool) -> float:
    """Return the seconds of one epoch (forward, backward, step); without `text`, the class matrix is computed once."""
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, 1e-3)
    start = perf_counter()
    matrix = None if text else method.class_matrix().detach()
    for batch in batches.random(np.random.default_rng(seed)):
        with mixed_precision() if isinstance(batches, PixelBatches) else nullcontext():
            logits = method(batch.inputs, matrix)
        torch.nn.functional.cross_entropy(logits, batch.labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return perf_counter() - start


def write_clips(folder: Path, identities: int) -> ClipSet:
    """Write procedural clips as folders of frames, as `dfer-prepare` does, and load them."""
    drawn = ProceduralClips(range(identities), workers=2)
    for index, label in enumerate(drawn.labels):
        place = folder / drawn.classes[label] / f"{index:05d}"
        place.mkdir(parents=True)
        for number, frame in enumerate(drawn.frames(index)):
            cv2.imwrite(str(place / f"{number:05d}.jpg"), frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return load_clips("folder", folder, "train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="ViT-B-32")
    parser.add_argument("--identities", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sampling = Sampling(batch=options.batch)
    clip = load_clip(options.clip)
    names = [DESCRIPTIONS[name][0] for name in EXPRESSIONS]

    def dfer_clip(frozen: bool) -> DferClip:
        prompts = DescribedPrompts.from_sentences(clip, names)
        return DferClip(clip, prompts, freeze_image_encoder=frozen)

    align = AlignDfer(clip, tokens=options.tokens, video_layers=3)
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder, "clips"), options.identities)
        print(
            f"{options.clip}, {len(clips)} clips of 16 frames (JPEG), batch {options.batch}; "
            f"median of {options.rounds} epochs"
        )
        begin = perf_counter()
        features = stored_features(Path(folder), align.eval(), clips, Extraction(views=0))
        print(f"extraction of one view, once: {perf_counter() - begin:.1f} s")
        on_features = FeatureBatches([(features, 1.0)], sampling)
        on_pixels = PixelBatches([(clips, 1.0)], clips.classes, 112, "paper", sampling=sampling)
        medians = []
        for name, method, slow_method, text in (
            ("Align-DFER, steps 1 and 3 (text is trained)", align, align, True),
            ("Align-DFER, step 2 (text is frozen)", align, align, False),
            ("DFER-CLIP, encoder frozen / fine-tuned", dfer_clip(True), None, True),
        ):
            times = []
            for n in range(options.rounds):
                if slow_method is None:
                    dfer_clip(True)  # freezes the shared tower again
                fast = epoch(method.train(), on_features, n, text)
                slow = epoch((slow_method or dfer_clip(False)).train(), on_pixels, n, text)
                times.append((fast, slow))
            fast, slow = (median(column) for column in zip(*times, strict=True))
            medians.append((fast, slow))
            print(f"{name}: features {fast:.2f} s, pixels {slow:.2f} s, {slow / fast:.1f} ×")
    # BAP's 40, 30 and 30 epochs, of which the middle ones do not train the text side.
    fast, slow = (0.7 * trained + 0.3 * frozen for trained, frozen in zip(medians[0], medians[1], strict=True))
    print(f"Align-DFER, mean over BAP's epochs: features {fast:.2f} s, pixels {slow:.2f} s, {slow / fast:.1f} ×")


if __name__ == "__main__":
    main()

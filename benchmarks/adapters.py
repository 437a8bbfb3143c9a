"""FineCLIPER at full size with random weights: parameters, exports, and the cost of adapters relative to plain CLIP.

    python benchmarks/adapters.py WORK [--clip ViT-B-32 --clip ViT-B-16] [--engines] [--seconds 30] [--write]

Adapters get weights of the magnitude that training gives them. INT8's ranges are measured on procedural faces. WORK
keeps the exported bundles. --engines also builds TensorRT-RTX engines, without a GPU. --write writes adapters.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from pages import Check, publish, table, take_turns
from precision import drawn_faces
from windows import ours

from dfer.export.engine import build_engines
from dfer.export.exporting import export_method
from dfer.export.options import ExportOptions
from dfer.runtime.bundle import MANIFEST, Bundle
from dfer.runtime.engines import present_providers
from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.recognizer import Recognizer
from dfer.train.methods.finecliper import FineCliper
from dfer.train.methods.phases import Plan
from dfer.train.models.clip import load_clip

VARIANTS: dict[str, dict[str, str]] = {
    "plain CLIP": {"adapter": "none"},
    "adapters": {"activation": "tower"},
    "LoRA": {"adapter": "lora"},
}
MOST = 1.10
"""Maximum cost in INT8 relative to plain CLIP: adapters parallel to MLPs are folded into them, LoRA is merged."""
TRAINED = 0.02
"""Standard deviation of the weights that are initialised to zero."""


def make(clip: str, options: dict[str, str]) -> FineCliper:
    torch.manual_seed(0)
    method = FineCliper.from_options(load_clip(clip), EXPRESSIONS, Plan((1,), (3e-4,), (1,)), **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if ".up." in name or name.endswith(".out"):
                parameter.normal_(0, TRAINED)
    return method.eval()


def parameters(method: FineCliper) -> str:
    """Return millions of trained parameters: in the image tower, the text tower and the temporal part."""
    parts = (method.image_adapters, method.text_adapters, method.temporal)
    counts = [sum(one.numel() for one in part.parameters()) / 1e6 for part in parts]
    return " + ".join(f"{count:.2f}" for count in counts) + f" = {sum(counts):.2f}"


def export(work: Path, clip: str, name: str) -> tuple[Bundle, dict[str, str]]:
    """Return the bundle and its figures: parameters, and each precision's parity."""
    path = work / f"{clip}-{list(VARIANTS).index(name)}.dfer"
    told = path.with_suffix(".json")
    if not (path / MANIFEST).is_file() or not told.is_file():
        method = make(clip, VARIANTS[name])
        size = method.preprocessing.size
        options = ExportOptions(fp16=True, int8=True, faces=drawn_faces(work, size))
        print(f"exporting {clip}, {name}", file=sys.stderr)
        exported = export_method(method, path, {}, options, lambda step: print(f"  {step}", file=sys.stderr))
        lines = {}
        for precision, parity in exported.parity.items():
            gate = "passed" if parity.passes(precision) else "failed"
            lines[precision] = f"{parity.cosine:.6f}, {parity.max_delta:.2g}, {gate}"
        told.write_text(json.dumps({"parameters": parameters(method), **lines}), encoding="utf-8")
    return Bundle.open(path), json.loads(told.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--clip", action="append", dest="clips")
    parser.add_argument("--engines", action="store_true")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(exist_ok=True)
    clips = options.clips or ["ViT-B-32", "ViT-B-16"]
    parities, costs, built, checks = [], [], [], []
    providers = [name for name in ("cpu", "openvino") if name in present_providers()]
    for clip in clips:
        works = {}
        for name in VARIANTS:
            bundle, told = export(options.work, clip, name)
            parities.append([clip, name, told["parameters"], *(told.get(one, "") for one in ("fp32", "fp16", "int8"))])
            passed = all(told.get(one, "").endswith("passed") for one in ("fp32", "fp16", "int8"))
            checks.append(Check(f"{clip}, {name}: FP32, FP16 and INT8 pass their gates", "see above", passed))
            for provider in providers:
                works[name, provider] = ours(Recognizer(bundle.path, provider=provider, precision="int8"))
            if options.engines:
                files = sorted(file.name for file in bundle.path.glob("*.onnx") if ".cpu." not in file.name)
                for row in build_engines(bundle, files, "tensorrt-rtx", ["sm86"]):
                    built.append([clip, name, row.graph, f"{row.size / 1e6:.0f} MB", row.refused or "built"])
        times = take_turns(
            {str(key): work for key, work in works.items()}, options.seconds, {str(key): 20 for key in works}
        )
        for name in VARIANTS:
            line = [clip, name]
            for provider in providers:
                plain, own = (times[str((one, provider))] for one in ("plain CLIP", name))
                line.append(f"{own:.2f} ms, {own / plain:.3f}")
                if name in list(VARIANTS)[1:]:
                    words = f"{clip}, {name}, {provider}: at most {MOST} of plain CLIP"
                    checks.append(Check(words, f"{own / plain:.3f}", own <= MOST * plain))
            costs.append(line)
    parts = [
        f"    python benchmarks/adapters.py WORK --clip {' --clip '.join(clips)}{' --engines' * options.engines}",
        "FineCLIPER with random weights and `--option activation=tower`, which lets export fold the adapters beside "
        "MLPs into these. (These towers use GELU, the default, anyway.) Parameters: millions trained, for images + "
        "texts + temporal layer. Precisions: cosine of the features with PyTorch's, largest difference of a "
        "probability, gate.",
        table(("CLIP", "", "parameters", "FP32", "FP16", "INT8"), parities),
        "Time of a prediction in INT8 (one frame through the encoder, and the head), measured in turns, and its ratio "
        "to plain CLIP's:",
        table(("CLIP", "", *providers), costs),
    ]
    if built:
        parts += ["TensorRT-RTX engines for sm86, built and not run:", table(("CLIP", "", "graph", "size", ""), built)]
    publish("adapters.md", "What FineCLIPER's adapters cost", parts, checks, options.write)


if __name__ == "__main__":
    main()

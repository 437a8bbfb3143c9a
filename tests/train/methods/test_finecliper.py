"""FineCLIPER: adapters that begin as nothing, classes as differences, and that all of it exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from clip_sets import NoiseClips
from networks import SIZE, random_crops

from dfer.export import command as export_command
from dfer.export.exporting import export_checkpoint
from dfer.export.graphs import trace_method
from dfer.runtime.bundle import Bundle
from dfer.runtime.engines import open_engine, open_graph
from dfer.runtime.errors import DferError, ParameterError
from dfer.runtime.labels import EXPRESSIONS
from dfer.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dfer.train.confidence import Confidence
from dfer.train.data.batches import PixelBatches, Sampling
from dfer.train.evaluation import open_model
from dfer.train.fabric import start_fabric
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.methods.dfer_clip import DferClip
from dfer.train.methods.finecliper import NEGATIVE, POSITIVE, FineCliper
from dfer.train.methods.phases import Plan
from dfer.train.models.clip import Clip, ClipSizes, build_clip, load_clip
from dfer.train.models.descriptions import Sides, Texts, load_descriptions
from dfer.train.models.prompts import DescribedPrompts
from dfer.train.training import Trainer, TrainSettings

PLAN = Plan((1,), (1e-3,), (1,))


def small_clip() -> Clip:
    torch.manual_seed(0)
    return build_clip(ClipSizes(64, SIZE, 8, 128, 2, 77, 49408, 64, 1))


def make(**options: Any) -> FineCliper:
    return FineCliper.from_options(small_clip(), EXPRESSIONS, PLAN, **options).eval()


def disturb(method: FineCliper) -> FineCliper:
    """Adapters as after training: no longer zero."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if ".up." in name or name.endswith(".out"):
                parameter.normal_(0, 0.05)
    return method


def products(graph: bytes) -> int:
    return sum(node.op_type in ("MatMul", "Gemm") for node in onnx.load_from_string(graph).graph.node)


def crops(count: int) -> torch.Tensor:
    return torch.from_numpy(random_crops(count))


@pytest.mark.parametrize("adapter", ["bottleneck", "lora", "none"])
def test_at_first_features_are_plain_clips(adapter: str) -> None:
    method, plain = make(adapter=adapter), small_clip()
    with torch.no_grad():
        pixels = torch.randn(3, 3, SIZE, SIZE)
        wanted = torch.nn.functional.normalize(plain.model.encode_image(pixels), dim=-1)  # type: ignore[operator]
        assert (method.encode_pixels(pixels) - wanted).abs().max() <= 1e-6
        sentences = [f"a person with an expression of {word}{name}" for word in ("", "no ") for name in EXPRESSIONS]
        texts = plain.model.encode_text(plain.tokenize(sentences))  # type: ignore[operator]
        positive, negative = torch.nn.functional.normalize(texts, dim=-1).chunk(2)
        torch.testing.assert_close(method.class_matrix(), positive - negative, atol=1e-5, rtol=0)


def test_probabilities_are_of_positive_minus_negative_similarity() -> None:
    method = disturb(make())
    with torch.no_grad():
        features = method.encode_frames(crops(16))[None]
        video = method.pool(features)
        sides = [
            torch.nn.functional.normalize(method._encode(s, e, a), dim=-1)
            for s, e, a in zip(method.sentences, method.ends, method.text_adapters, strict=True)
        ]
        wanted = ((video @ sides[0].T - video @ sides[1].T) / 0.01).softmax(dim=-1)
        torch.testing.assert_close(method(features).softmax(dim=-1), wanted, atol=1e-5, rtol=0)
        assert (make(no_negatives=True).class_matrix().norm(dim=-1) - 1).abs().max() < 1e-5


def test_training_moves_the_adapters_and_leaves_clip_alone(tmp_path: Path) -> None:
    method = make().train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    clips = NoiseClips(14)
    training = PixelBatches([(clips, 1.0)], clips.classes, SIZE, "paper", sampling=Sampling(batch=7))
    state, fabric = tmp_path / "s", start_fabric("fp32")
    Trainer(method, method.phases(PLAN), training, training, TrainSettings(), fabric, state, {}).run(False)
    changed = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("adapter" in name or name.startswith("temporal.") for name in changed)
    for part in (
        "image_adapters.1.serial.up",
        "image_adapters.0.parallel.up",
        "text_adapters.0.0",
        "text_adapters.1.0",
    ):
        assert any(name.startswith(part) for name in changed), part
    assert method.trains_encoder(method.phases(PLAN))
    assert not make(adapter="none").trains_encoder(method.phases(PLAN))


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    for options in ({}, {"no_negatives": True, "no_temporal": True}, {"adapter": "none"}, {"adapter": "lora"}):
        method = disturb(make(**options))
        save_checkpoint(method, tmp_path / "fine.pt", {})
        again, _ = load_checkpoint(tmp_path / "fine.pt")
        with torch.no_grad():
            torch.testing.assert_close(again.class_matrix(), method.class_matrix())
            torch.testing.assert_close(again.encode_frames(crops(2)), method.encode_frames(crops(2)))


@pytest.fixture(scope="module")
def plain_products() -> int:
    return products(trace_method(make(adapter="none")).encoder.onnx)


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, 8),
        ({"activation": "tower", "ratio": 0.5}, 4),
        ({"activation": "tower", "adapter_scale": 0.3}, 4),
        ({"adapter": "lora"}, 0),
    ],
)
def test_it_exports_with_every_rewrite(plain_products: int, options: dict[str, Any], more: int) -> None:
    """Of two layers' adapters eight products are left, four where those beside the MLP fold into it, none of LoRA."""
    method = disturb(make(**options))
    traced = trace_method(method)
    assert traced.encoder.missed == ()
    assert products(traced.encoder.onnx) == plain_products + more
    frames = random_crops(5)
    with torch.inference_mode(), open_engine(traced.encoder.onnx, "cpu") as engine:
        wanted = method.encode_frames(torch.from_numpy(frames)).numpy()
        np.testing.assert_allclose(engine.run({"frames": frames})["features"], wanted, atol=1e-5)
    with torch.inference_mode(), open_engine(traced.head, "cpu") as head:
        features = torch.nn.functional.normalize(torch.randn(2, 16, 64), dim=-1)
        found = head.run({"features": features.numpy()})["probabilities"]
        np.testing.assert_allclose(found, method(features).softmax(dim=-1).numpy(), atol=1e-5)


@pytest.mark.long
def test_classes_can_be_described_before_training_and_after(tmp_path: Path) -> None:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps({name: [POSITIVE.format(name), NEGATIVE.format(name)] for name in EXPRESSIONS}))
    method = disturb(make())
    before = method.class_matrix()
    method.describe_classes(load_descriptions(path))
    torch.testing.assert_close(method.class_matrix(), before, atol=1e-6, rtol=0)  # the training's own words
    torch.testing.assert_close(make(descriptions=path).class_matrix(), make().class_matrix())

    save_checkpoint(method, tmp_path / "fine.pt", {})
    path.write_text(json.dumps({"pain": ["a face in pain", "a face without pain"], "calm": ["a calm face", "unrest"]}))
    bundle = export_checkpoint(tmp_path / "fine.pt", tmp_path / "pain.dfer", described=path).bundle
    assert bundle.manifest.classes == ("pain", "calm")
    with open_model(tmp_path / "fine.pt", described=path) as model:
        assert model.classify(random_crops(16)).shape == (2,)
    for texts in ("a face in pain", ["one", "two", "three"]):
        path.write_text(json.dumps({"pain": texts, "calm": ["a calm face", "unrest"]}))
        with pytest.raises(DferError, match="wants two texts for pain"):
            method.describe_classes(load_descriptions(path))
        make(no_negatives=True).describe_classes(load_descriptions(path))


def test_of_several_texts_a_side_takes_the_mean_of_their_unit_vectors(tmp_path: Path) -> None:
    def row(positive: str, negative: str) -> np.ndarray:
        texts: dict[str, Texts] = dict.fromkeys(("pain", "calm"), (positive, negative))
        method.describe_classes(texts)
        parts = zip(method.sentences, method.ends, method.text_adapters, strict=True)
        sides = [method._encode(sentences, ends, adapters)[0] for sentences, ends, adapters in parts]  # type: ignore[arg-type]
        return np.stack([(one / one.norm()).numpy() for one in sides])

    method = disturb(make())
    with torch.no_grad():
        one, two = row("a face in pain", "a face without pain"), row("a person who hurts", "a person at ease")
    path = tmp_path / "texts.json"
    several = {"positive": ["a face in pain", "a person who hurts"], "negative": "a face without pain"}
    path.write_text(json.dumps({"calm": ["a calm face", "unrest"], "pain": several}))
    method.describe_classes(load_descriptions(path))
    with torch.no_grad():
        matrix = method.class_matrix().numpy()
    wanted = (one[0] + two[0]) / 2 - one[1]
    np.testing.assert_allclose(matrix[1], wanted, atol=1e-6)
    assert abs(np.linalg.norm((one[0] + two[0]) / 2) - 1) > 1e-4  # which the mean's length tells from the unit vector

    save_checkpoint(method, tmp_path / "fine.pt", {})
    again, _ = load_checkpoint(tmp_path / "fine.pt")
    with torch.no_grad():
        np.testing.assert_allclose(again.class_matrix().numpy(), matrix, atol=1e-6)
    path.write_text(json.dumps({"pain": several, "calm": {"positive": "a calm face"}}))
    with pytest.raises(DferError, match='calm must have "positive" and "negative", and nothing else'):
        load_descriptions(path)


@pytest.mark.long
def test_a_bundle_is_given_other_classes_and_keeps_its_encoder(tmp_path: Path) -> None:
    method = disturb(make())
    method.confidence = Confidence(0.5, 0.4)
    checkpoint, texts, other = tmp_path / "fine.pt", tmp_path / "texts.json", tmp_path / "other.pt"
    save_checkpoint(method, checkpoint, {})
    save_checkpoint(make(), other, {})
    (tmp_path / "elsewhere").mkdir()
    bundle = export_checkpoint(checkpoint, tmp_path / "elsewhere" / "fine.dfer").bundle
    texts.write_text(json.dumps({"pain": ["a face in pain", "a face without pain"], "calm": ["a calm face", "unrest"]}))
    arguments = ["--bundle", bundle.path, "--describe", texts, "--out", tmp_path / "pain.dfer"]

    def run(*more: object) -> str:
        result = CliRunner().invoke(export_command.main, [str(one) for one in (*arguments, *more)])
        assert result.exit_code == (0 if "wrote" in result.output else 1)
        return result.output

    assert "no text side; name the checkpoint it was exported from, fine.pt (--ckpt)" in run().replace("\n", " ")
    assert "was not exported from" in run("--ckpt", other)
    assert not (tmp_path / "pain.dfer").exists()
    assert "with the classes pain, calm" in run("--ckpt", checkpoint)
    found = Bundle.open(tmp_path / "pain.dfer")
    whole = export_checkpoint(checkpoint, tmp_path / "whole.dfer", described=texts).bundle
    assert found.read("encoder.fp32.onnx") == bundle.read("encoder.fp32.onnx")
    np.testing.assert_allclose(found.class_matrix(), whole.class_matrix(), atol=1e-6)
    windows = np.random.default_rng(0).normal(size=(3, 16, 64)).astype(np.float32)
    with open_graph(found, "head.fp32.onnx", "cpu") as one, open_graph(whole, "head.fp32.onnx", "cpu") as two:
        np.testing.assert_allclose(
            *(head.run({"features": windows})["probabilities"] for head in (one, two)), atol=1e-5
        )
    assert (found.manifest.temperature, found.manifest.unsure_below) == (1.0, 0.0)  # calibrated for other classes
    assert set(found.manifest.precisions["fp32"]["parity"]) == {"cosine", "frames"}
    assert found.manifest.provenance["encoders_of"] == bundle.digest
    copied = tmp_path / "elsewhere" / "fine.pt"
    copied.write_bytes(checkpoint.read_bytes())  # beside the bundle it is found
    assert "with the classes pain, calm" in run()
    with open_model(bundle.path, described=texts) as one, open_model(found.path) as two:  # evaluation, the same way
        assert (one.classes, one.temperature) == (("pain", "calm"), 1.0)
        for seed in range(3):
            frames = random_crops(16, seed=seed)
            np.testing.assert_allclose(one.classify(frames), two.classify(frames), atol=1e-5)
    copied.write_bytes(other.read_bytes())
    with pytest.raises(DferError, match="was not exported from"):
        open_model(bundle.path, described=texts)
    with pytest.raises(ParameterError, match="reads the texts of a bundle's other classes"):
        open_model(bundle.path, checkpoint=checkpoint)


def test_methods_that_learn_a_text_per_class_say_so(tmp_path: Path) -> None:
    texts = {"pain": ("a face in pain",), "calm": ("a calm face",)}
    with pytest.raises(DferError, match="tokens are wordless"):
        AlignDfer(small_clip(), tokens=2).describe_classes(texts)
    with pytest.raises(DferError, match="this dfer-clip learned a text for each class"):
        DferClip.from_options(small_clip(), EXPRESSIONS, PLAN).describe_classes(texts)
    shared = DferClip(small_clip(), DescribedPrompts.from_sentences(small_clip(), ["a", "b"], 4, False), ("a", "b"))
    for method in (AlignDfer(small_clip(), tokens=0), shared):
        with pytest.raises(DferError, match="has no negatives, but pain is given some"):
            method.describe_classes({"pain": Sides(("a face in pain",), ("no pain",)), "calm": ("a calm face",)})
    worded = AlignDfer(small_clip(), tokens=0)
    worded.describe_classes(texts)
    assert (worded.classes, worded.class_matrix().shape) == (("pain", "calm"), (2, 64))


def test_towers_without_layers_to_adapt_are_refused_by_name() -> None:
    with pytest.raises(ParameterError, match="clip: dfer-nano has no transformer for images"):
        FineCliper.from_options(load_clip("dfer-nano"), EXPRESSIONS, PLAN)
    frozen = FineCliper.from_options(load_clip("dfer-nano"), EXPRESSIONS, PLAN, adapter="none")
    assert not frozen.trains_encoder(frozen.phases(PLAN))

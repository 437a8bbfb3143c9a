"""DFER-CLIP: what is learned, what is frozen, what its prompts are, and that it exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dfer.export.graphs import trace_method
from dfer.export.parity import reference_outputs
from dfer.runtime.engines import open_engine
from dfer.runtime.errors import DferError
from dfer.runtime.labels import EXPRESSIONS
from dfer.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dfer.train.methods.dfer_clip import DferClip
from dfer.train.models.clip import Clip, ClipSizes, build_clip, load_clip, rebuild_clip
from dfer.train.models.descriptions import DESCRIPTIONS
from dfer.train.models.prompts import DescribedPrompts

SENTENCES = [DESCRIPTIONS[name][0] for name in EXPRESSIONS]


@pytest.fixture
def clip() -> Clip:
    torch.manual_seed(0)
    return load_clip("dfer-nano", crop_size=48)


def make(clip: Clip, **options: bool) -> DferClip:
    torch.manual_seed(1)
    return DferClip(clip, DescribedPrompts.from_sentences(clip, SENTENCES), **options)


def crops(count: int, size: int = 48) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def test_a_prompt_is_start_contexts_description_end(clip: Clip) -> None:
    """Put the embeddings of words where the contexts are: the sentence made of those words must come out."""
    words = "in this clip we see the following"
    tokens = clip.tokenize([words])
    contexts = int(tokens.argmax()) - 1
    for class_specific in (True, False):
        prompts = DescribedPrompts.from_sentences(clip, SENTENCES, contexts, class_specific)
        assert prompts.context.shape == ((7, contexts, 64) if class_specific else (contexts, 64))
        with torch.no_grad():
            prompts.context.copy_(clip.text.embed(tokens[0, 1 : 1 + contexts]))
            wanted = clip.model.encode_text(clip.tokenize([f"{words} {text}" for text in SENTENCES]))  # type: ignore[operator]
            torch.testing.assert_close(prompts(clip), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_reach_what_is_learned_and_nothing_else(clip: Clip, frozen: bool) -> None:
    method = make(clip, freeze_image_encoder=frozen).train()
    features = method.encode_frames(crops(16)).view(1, 16, -1)
    torch.nn.functional.cross_entropy(method.logits(features), torch.tensor([3])).backward()
    reached = {name for name, parameter in method.named_parameters() if parameter.grad is not None}
    visual = {f"clip_model.visual.{name}" for name, _ in method.image_encoder.named_parameters()}
    light = {name for name, _ in method.named_parameters() if name.startswith(("prompts.", "temporal."))}
    assert reached == (light if frozen else light | visual)
    assert method.prompts.context.grad is not None
    assert method.prompts.context.grad.abs().sum(dim=(1, 2)).min() > 0  # every class's
    assert method.image_encoder.training != frozen
    assert not method.clip_model.transformer.training  # type: ignore[union-attr]
    assert not method.eval().image_encoder.training


def test_pixels_are_only_divided_by_255_and_features_keep_their_length(clip: Clip) -> None:
    method = make(load_clip("dfer-nano")).eval()
    frames = crops(2, 64)
    with torch.inference_mode():
        wanted = method.clip_model.visual(frames.permute(0, 3, 1, 2) / 255)  # type: ignore[operator]
        found = method.encode_frames(frames)
    torch.testing.assert_close(found, wanted)
    assert (found.norm(dim=-1) - 1).abs().min() > 0.01


def test_the_order_of_frames_matters_and_outputs_have_unit_length(clip: Clip) -> None:
    method = make(clip).eval()
    features = torch.randn(3, 16, 64)
    with torch.inference_mode():
        pooled, matrix = method.pool(features), method.class_matrix()
        assert (method.pool(features.flip(1)) - pooled).abs().max() > 1e-4
    torch.testing.assert_close(pooled.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(matrix.norm(dim=-1), torch.ones(7))


def test_it_comes_back_without_tokenizer_or_descriptions(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = make(clip, freeze_image_encoder=True).eval()
    save_checkpoint(method, tmp_path / "ours.pt", {"epochs": 3})
    monkeypatch.setattr(Clip, "tokenize", None)
    again, training = load_checkpoint(tmp_path / "ours.pt")
    assert isinstance(again, DferClip)
    assert again.config() == method.config()
    assert again.preprocessing == method.preprocessing
    assert training == {"epochs": 3}
    assert not any(parameter.requires_grad for parameter in again.clip_model.parameters())
    with torch.inference_mode():
        torch.testing.assert_close(again.class_matrix(), method.class_matrix())
        torch.testing.assert_close(again.encode_frames(crops(2)), method.encode_frames(crops(2)))


@pytest.mark.long
def test_it_exports(clip: Clip) -> None:
    method = make(clip).eval()
    traced = trace_method(method)
    for graph, norms in ((traced.encoder.onnx, 0), (traced.head, 2)):
        model = onnx.load_from_string(graph)
        onnx.checker.check_model(model)
        assert [node.op_type for node in model.graph.node].count("LayerNormalization") == norms
    reference = reference_outputs(method, crops(48).numpy(), np.arange(48).reshape(3, 16))
    with open_engine(traced.encoder.onnx, "cpu") as encoder, open_engine(traced.head, "cpu") as head:
        reference.compare(encoder, head).check("fp32")


def test_what_does_not_fit_is_refused(clip: Clip) -> None:
    with pytest.raises(DferError, match="at least one"):
        DescribedPrompts.from_sentences(clip, SENTENCES, contexts=0)
    with pytest.raises(DferError, match=r"description 'very very .* has 62 tokens; beside 20 .* room for 56"):
        DescribedPrompts.from_sentences(clip, ["short", "very " * 61], contexts=20)
    with pytest.raises(DferError, match="2 prompts for 7 classes"):
        DferClip(clip, DescribedPrompts.from_sentences(clip, ["one", "two"]))


def test_clips_of_openais_layout_are_built_from_sizes() -> None:
    sizes = ClipSizes(32, 32, 16, 128, 2, 20, 40, 64, 3)
    clip = build_clip(sizes)
    assert (clip.width, clip.text.width, clip.preprocessing.size) == (32, 64, 32)
    again = rebuild_clip(clip.identity, clip.preprocessing)
    again.model.load_state_dict(clip.model.state_dict())
    assert again.sizes == sizes
    assert rebuild_clip("dfer-nano", clip.preprocessing).identity == "dfer-nano"
    for wrong in ({"image_width": 100}, {"text_layers": 0}, {"patch": 15}, {"joint": "x"}):
        with pytest.raises(DferError, match="is not a CLIP"):
            ClipSizes(**{**vars(sizes), **wrong})


def test_behind_a_shared_context_classes_may_be_described_anew_by_several_texts(clip: Clip, tmp_path: Path) -> None:
    def unit(text: str) -> torch.Tensor:
        prompts = DescribedPrompts.from_sentences(clip, [text], 4, class_specific=False)
        prompts.context = method.prompts.context
        return torch.nn.functional.normalize(prompts(clip), dim=-1)[0]

    torch.manual_seed(1)
    method = DferClip(clip, DescribedPrompts.from_sentences(clip, SENTENCES, 4, class_specific=False)).eval()
    with torch.no_grad():
        before = method.class_matrix()
        method.describe_classes({name: (text,) for name, text in zip(EXPRESSIONS, SENTENCES, strict=True)})
        torch.testing.assert_close(method.class_matrix(), before, atol=1e-6, rtol=0)  # the training's own words
        method.describe_classes({"pain": ("a face in pain", "a person who hurts"), "calm": ("a calm face",)})
        matrix = method.class_matrix()
        wanted = (unit("a face in pain") + unit("a person who hurts")) / 2
        torch.testing.assert_close(matrix, torch.stack([wanted, unit("a calm face")]), atol=1e-6, rtol=0)
    save_checkpoint(method, tmp_path / "clip.pt", {})
    again, _ = load_checkpoint(tmp_path / "clip.pt")
    with torch.no_grad():
        torch.testing.assert_close(again.class_matrix(), matrix, atol=1e-6, rtol=0)

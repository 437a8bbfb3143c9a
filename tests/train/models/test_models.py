"""Align-DFER: what is learned, what is frozen, and that leaving out the padding changes nothing."""

from __future__ import annotations

import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from dfer.runtime.errors import DferError, ParameterError
from dfer.runtime.labels import EXPRESSIONS
from dfer.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.models.clip import Clip, ClipSizes, build_clip, load_clip, save_weights
from dfer.train.models.synchronizer import Synchronizer, TemporalLayer
from dfer.train.pretraining import description_tokens


@pytest.fixture(scope="module")
def clip() -> Clip:
    torch.manual_seed(0)
    return load_clip("dfer-nano")


@pytest.fixture
def method(clip: Clip) -> AlignDfer:
    torch.manual_seed(1)
    return AlignDfer(clip, tokens=5, video_layers=1).eval()


def test_text_without_padding_equals_clips_own_text_encoder(clip: Clip) -> None:
    tokens = clip.tokenize(["a happy face.", "a person close to tears, with drooping lids"])
    end = tokens.argmax(dim=-1)
    short = clip.text.encode(clip.text.embed(tokens[:, : int(end.max()) + 1]), end)
    torch.testing.assert_close(short, clip.model.encode_text(tokens), atol=1e-5, rtol=1e-4)  # type: ignore[operator]


def test_a_wordless_sentence_is_start_tokens_period_end(clip: Clip, method: AlignDfer) -> None:
    """Put the embeddings of words where the learned tokens are: the sentence made of those words must come out."""
    sentence = clip.tokenize(["angry man frowns at his soup."])
    length = int(sentence.argmax(dim=-1)[0]) + 1
    with torch.no_grad():
        words = clip.text.embed(sentence[:, 1 : length - 2])[0]
        tokens = AlignDfer(clip, classes=("anger",), window=1, tokens=len(words), video_layers=1).sentences
        tokens.tokens[0, 0] = words
        found = tokens(clip)[0, 0]
        torch.testing.assert_close(found, clip.model.encode_text(sentence)[0], atol=1e-5, rtol=1e-4)  # type: ignore[operator]


def test_gradients_reach_tokens_and_synchronizer_and_nothing_of_clip(method: AlignDfer) -> None:
    method.train()
    labels = torch.tensor([0, 3])
    loss = torch.nn.functional.cross_entropy(method.logits(torch.randn(2, 16, 64)), labels)
    loss.backward()
    assert method.sentences.tokens.grad is not None
    assert method.sentences.tokens.grad.abs().sum(dim=(1, 2, 3)).min() > 0  # every class's tokens
    assert all(p.grad is not None for p in method.video_side.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.clip_model.parameters())
    assert not method.clip_model.training


def test_outputs_have_unit_length_and_the_order_of_frames_matters(method: AlignDfer) -> None:
    features = torch.randn(3, 16, 64)
    pooled, matrix = method.pool(features), method.class_matrix()
    assert matrix.shape == (len(EXPRESSIONS), 64)
    torch.testing.assert_close(pooled.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(matrix.norm(dim=-1), torch.ones(len(EXPRESSIONS)))
    assert (method.pool(features.flip(1)) - pooled).abs().max() > 1e-4


def test_temporal_layer_equals_torchs_own() -> None:
    torch.manual_seed(0)
    ours = TemporalLayer(32, 4, 0.0).eval()
    theirs = torch.nn.TransformerEncoderLayer(32, 4, 128, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    state = ours.state_dict()
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": state["to_queries_keys_values.weight"],
            "self_attn.in_proj_bias": state["to_queries_keys_values.bias"],
            "self_attn.out_proj.weight": state["from_heads.weight"],
            "self_attn.out_proj.bias": state["from_heads.bias"],
            "linear1.weight": state["mlp.0.weight"],
            "linear1.bias": state["mlp.0.bias"],
            "linear2.weight": state["mlp.2.weight"],
            "linear2.bias": state["mlp.2.bias"],
            "norm1.weight": state["norm_attention.weight"],
            "norm1.bias": state["norm_attention.bias"],
            "norm2.weight": state["norm_mlp.weight"],
            "norm2.bias": state["norm_mlp.bias"],
        }
    )
    x = torch.randn(2, 7, 32)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-4)


def test_synchronizer_without_layers_is_the_normalised_mean() -> None:
    empty = Synchronizer(4, 8, layers=0)
    torch.nn.init.zeros_(empty.position)
    x = torch.randn(2, 4, 8)
    torch.testing.assert_close(empty(x), torch.nn.functional.normalize(x.mean(1), dim=-1))


def test_a_synchronizer_grows_without_forgetting() -> None:
    torch.manual_seed(0)
    grown = Synchronizer(4, 16, layers=1).eval()
    x = torch.randn(2, 4, 16)
    before = grown(x)
    grown.grow()
    torch.testing.assert_close(grown(x), before)
    assert len(grown.layers) == 2
    part = grown.first_layers(1)
    torch.testing.assert_close(part(x), before)
    torch.nn.init.ones_(part.position)
    torch.testing.assert_close(grown(x), before)  # a copy


def test_descriptions_stand_in_for_tokens(clip: Clip) -> None:
    method = AlignDfer(clip, classes=("a", "b"), window=4, tokens=0, video_layers=None)
    method.describe_classes({"a": ("a happy face",), "b": ("a sad face", "a person close to tears")})
    wanted = torch.nn.functional.normalize(
        clip.model.encode_text(clip.tokenize(["a happy face"])),  # type: ignore[operator]
        dim=-1,
    )
    torch.testing.assert_close(method.class_matrix()[:1], wanted, atol=1e-5, rtol=1e-4)
    assert (method.class_matrix()[0] - method.class_matrix()[1]).abs().max() > 1e-3
    with pytest.raises(DferError, match="class 2 has 5 texts; this model reads at most 4 of each"):
        method.describe_classes({"a": ("a happy face",), "b": ("a sad face",) * 5})
    with pytest.raises(DferError, match="wordless"):
        AlignDfer(clip, tokens=2).describe_classes({})


def test_grey_preprocessing_ignores_colour() -> None:
    clip = load_clip("dfer-nano", grey=True)
    method = AlignDfer(clip, tokens=2, video_layers=1).eval()
    red, same_luma = torch.zeros(1, 64, 64, 3), torch.zeros(1, 64, 64, 3)
    red[..., 0] = 200
    same_luma[...] = 200 * 0.299
    difference = method.encode_frames(red.byte()) - method.encode_frames(same_luma.round().byte())
    assert difference.abs().max() < 0.02


def test_tokens_that_do_not_fit_are_refused(clip: Clip) -> None:
    with pytest.raises(DferError, match="room for 1 to 74 tokens"):
        AlignDfer(clip, tokens=75)


def test_unknown_clips_and_weights_are_refused() -> None:
    with pytest.raises(DferError, match="unknown CLIP 'ViT-Z'"):
        load_clip("ViT-Z")
    with pytest.raises(DferError, match=r"nothing.pt: no such file"):
        load_clip("dfer-nano", "nothing.pt")


def test_weights_come_back_and_must_fit(clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    save_weights(clip, path)
    again = load_clip("dfer-nano", str(path), grey=True)
    assert not again.preprocessing.grey  # the file says what its model was taught on
    for name, value in clip.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    with pytest.raises(DferError, match=r"cannot load CLIP 'dfer-small' .*missing visual.trunk.layer2.1") as caught:
        load_clip("dfer-small", str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_small_files_keep_what_was_taught(clip: Clip, tmp_path: Path) -> None:
    """Half precision and the known words only: images and known sentences have the same features."""
    known = ["a happy face", "a sad face"]
    full, small = tmp_path / "w.pt", tmp_path / "w.safetensors"
    save_weights(clip, full)
    save_weights(clip, small, clip.tokenize(known))
    assert small.stat().st_size < 0.2 * full.stat().st_size
    again = load_clip("dfer-nano", str(small))
    assert again.preprocessing == clip.preprocessing
    tokens, pixels = clip.tokenize(known), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for one, other in (
            (clip.model.encode_text(tokens), again.model.encode_text(tokens)),  # type: ignore[operator]
            (clip.model.encode_image(pixels), again.model.encode_image(pixels)),  # type: ignore[operator]
        ):
            assert torch.nn.functional.cosine_similarity(one, other).min() > 0.999


def test_our_towers_do_not_read_the_border_of_crops(clip: Clip) -> None:
    frames = torch.rand(1, 3, 64, 64)
    other = torch.rand(1, 3, 64, 64)
    other[..., 8:-8, 8:-8] = frames[..., 8:-8, 8:-8]
    with torch.no_grad():
        torch.testing.assert_close(clip.model.encode_image(frames), clip.model.encode_image(other))  # type: ignore[operator]
    assert clip.resizable
    assert not build_clip(ClipSizes(64, 64, 16, 64, 1, 77, 49408, 64, 1)).resizable


def test_the_demo_model_s_weights_have_a_name() -> None:
    clip = load_clip("dfer-small", "demo")
    assert clip.preprocessing.grey
    assert clip.preprocessing.size == 80


def test_a_vision_transformer_sees_smaller_images(tmp_path: Path) -> None:
    """Its positional embedding is interpolated, all else is as it was, and a checkpoint remembers the size."""
    whole = load_clip("dfer-vit")
    path = tmp_path / "w.pt"
    save_weights(whole, path)
    small = load_clip("dfer-vit", str(path), image_size=32)
    assert (small.preprocessing.size, small.preprocessing.encoder_size) == (32, 32)
    before, after = whole.model.state_dict(), small.model.state_dict()
    name = "visual.positional_embedding"
    assert all(torch.equal(value, after[other]) for other, value in before.items() if other != name)
    torch.testing.assert_close(after[name][0], before[name][0])  # of the class token
    grid = before[name][1:].T.reshape(1, -1, 4, 4)
    wanted = torch.nn.functional.interpolate(grid, size=(2, 2), mode="bicubic", antialias=True)
    torch.testing.assert_close(after[name][1:].T.reshape(1, -1, 2, 2), wanted)

    method = AlignDfer(small, tokens=2, video_layers=1).eval()
    save_checkpoint(method, tmp_path / "c.pt", {})
    again, _ = load_checkpoint(tmp_path / "c.pt")
    frames = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(again.encode_frames(frames), method.encode_frames(frames))


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("ViT-B-32", 100, "100 does not divide into the patches of 32 of ViT-B-32; 96 and 128 do"),
        ("ViT-B-16", 8, "8 does not divide into the patches of 16 of ViT-B-16; 16 does"),
        ("RN50", 128, "RN50 keeps its own size; only vision transformers of open_clip, not of timm, take another"),
        ("dfer-small", 64, "dfer-small keeps its own size"),
        ("EVA02-B-16", 112, "EVA02-B-16 keeps its own size"),  # a vision transformer of timm
    ],
)
def test_image_sizes_that_a_tower_cannot_have_are_refused(name: str, size: int, reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        load_clip(name, image_size=size)


def test_a_vision_transformer_reads_the_patches_around_the_face(tmp_path: Path) -> None:
    """Of 4×4 patches all but an upper corner: that is farthest from the landmarks. A checkpoint remembers it."""
    torch.manual_seed(0)
    clip = load_clip("dfer-vit", patches=15)
    assert clip.preprocessing.patches == 15
    method = AlignDfer(clip, tokens=2, video_layers=1).eval()
    save_checkpoint(method, tmp_path / "c.pt", {})
    again, _ = load_checkpoint(tmp_path / "c.pt")
    frame = torch.randint(256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        before = method.encode_frames(frame)
        torch.testing.assert_close(again.encode_frames(frame), before)
        unread = []
        for row in range(4):
            for column in range(4):
                other = frame.clone()
                other[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] ^= 255
                if torch.equal(method.encode_frames(other), before):
                    unread.append((row, column))
    assert len(unread) == 1
    assert unread[0] in ((0, 0), (0, 3))


def test_patches_that_a_tower_does_not_have_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"^patches: dfer-vit has 16 patches at this image size, not 17"):
        load_clip("dfer-vit", patches=17)
    with pytest.raises(ParameterError, match=r"^patches: dfer-vit has 16 patches at this image size, not 0"):
        load_clip("dfer-vit", patches=0)
    with pytest.raises(ParameterError, match=r"^patches: dfer-small cannot leave any out; only vision transformers"):
        load_clip("dfer-small", patches=15)


def test_weights_of_another_activation_are_refused_by_name() -> None:
    with pytest.raises(ParameterError, match="trained with QuickGELU, ViT-B-32 has GELU; use ViT-B-32-quickgelu"):
        load_clip("ViT-B-32", "openai")


def test_without_a_network_a_tag_fails_in_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.create_connection", unreachable)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    began = time.monotonic()
    with pytest.raises(DferError, match="cannot load CLIP 'ViT-B-32' with weights 'laion2b_s34b_b79k': Failed to"):
        load_clip("ViT-B-32", "laion2b_s34b_b79k")
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    "name", ["numbers.pt", "shadowed.pt", "damaged.safetensors", pytest.param("many.pt", marks=pytest.mark.long)]
)
def test_odd_files_of_weights_end_in_one_line_and_soon(clip: Clip, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "damaged.safetensors":
        save_weights(clip, path, description_tokens(clip))
        path.write_bytes(path.read_bytes()[:1000])
    else:
        state: OrderedDict[object, object] = OrderedDict(clip.model.state_dict())
        if name == "numbers.pt":
            state |= {0: torch.zeros(1), (1, 2): torch.zeros(1)}
        elif name == "shadowed.pt":
            vars(state).update({"get": torch.zeros(1), "_metadata": torch.zeros(1)})
            state["more"] = torch.zeros(1)
        else:
            state |= {f"visual.unknown.{number}": torch.zeros(1) for number in range(40_000)}
        torch.save(state, path)
    begun = time.monotonic()
    with pytest.raises(DferError) as caught:
        load_clip("dfer-nano", str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert time.monotonic() - begun < 120  # on a busy machine, too


def test_openai_s_own_files_are_explained_and_their_tensors_read(clip: Clip, tmp_path: Path) -> None:
    program = tmp_path / "ViT-B-32.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(program))
    with pytest.raises(DferError, match=r"TorchScript.*--pretrained openai.*torch\.jit\.load\('ViT-B-32\.pt'"):
        load_clip("dfer-nano", str(program))
    numbers = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save({**clip.model.state_dict(), **numbers}, tmp_path / "clip.pt")
    again = load_clip("dfer-nano", str(tmp_path / "clip.pt")).model
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in clip.model.state_dict().items())
    with pytest.raises(ParameterError, match="use ViT-B-32-quickgelu"):
        load_clip("ViT-B-32", str(tmp_path / "clip.pt"))


def test_compressed_weights_are_refused(tmp_path: Path) -> None:
    """PyTorch stores records plain; 1 GB of zeros would be 1 MB compressed."""
    save_weights(load_clip("dfer-nano"), tmp_path / "w.pt")
    with (
        zipfile.ZipFile(tmp_path / "w.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for record in plain.infolist():
            packed.writestr(record.filename, plain.read(record))
    for load in (lambda path: load_clip("dfer-nano", str(path)), load_checkpoint):
        with pytest.raises(DferError, match=r"bomb.pt: its records are compressed"):
            load(tmp_path / "bomb.pt")

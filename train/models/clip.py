"""CLIP models from open_clip: published ones, or the small towers in `configs/`. Only this module imports open_clip."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...runtime.bundle import Preprocessing
from ...runtime.errors import DferError, ParameterError, require
from ...runtime.faces.alignment import TEMPLATE, TEMPLATE_SIZE
from ...runtime.storage import atomic_write
from .archives import check_archive, check_names, plain_values, why_unfit
from .tags import check_activation, go_offline_without_network

CONFIGS = Path(__file__).parent / "configs"
DEMO_WEIGHTS = Path(__file__).parent / "weights" / "demo.safetensors"
"""The demo model's CLIP, a "dfer-small" trained on faces, which `pretrained="demo"` loads."""

CROP = 112
"""Default side of the input crops, pixels, unless a tower's own size is smaller."""

_OPENAI_NUMBERS = ("input_resolution", "context_length", "vocab_size")  # besides the tensors in OpenAI's own files
_WORDS = "dfer.words"  # ids of the words whose embeddings are in a compact file

_torchvision_schemas: list[torch.library.Library] = []
_tokenizer = cache(lambda name: _open_clip().get_tokenizer(name))  # building one takes 0.1 s


def _open_clip() -> Any:
    """Return open_clip, with our configs and towers added.

    With a CPU build of torch, the package index's torchvision (a CUDA build) cannot load its operators and fails
    at import with "operator torchvision::nms does not exist". open_clip needs only its Python part, which can be
    imported once the operators' schemas are declared.
    """
    require("open_clip", "train")
    if not _torchvision_schemas:
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _torchvision_schemas.append(library)  # the schemas live as long as this object
    import open_clip

    from . import face_resnet  # noqa: F401  (registers the towers with timm)

    if "dfer-small" not in open_clip.list_models():
        open_clip.add_model_config(CONFIGS)
    return open_clip


def load_timm() -> Any:
    """Return timm, with our towers among its models; see `_open_clip` about its import."""
    _open_clip()
    import timm

    return timm


RunBlocks = Callable[[nn.ModuleList, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ClipSizes:
    """Sizes of a CLIP in OpenAI's layout: ViT image tower, causal text tower, QuickGELU, heads of width 64.

    image_size and patch in pixels; context in tokens; vocabulary in token ids; joint is D.
    Raises DferError for invalid sizes.
    """

    joint: int
    image_size: int
    patch: int
    image_width: int
    image_layers: int
    context: int
    vocabulary: int
    text_width: int
    text_layers: int

    def __post_init__(self) -> None:
        whole = all(isinstance(value, int) and value > 0 for value in asdict(self).values())
        if not whole or self.image_size % self.patch or self.image_width % 64 or self.text_width % 64:
            raise DferError(f"{self} is not a CLIP: sizes must be positive, widths multiples of 64, patches whole")


@dataclass(frozen=True)
class Clip:
    """An open_clip model with its preprocessing.

    name: open_clip's model name.
    model: the module; image tower `encode_image`, text tower through `TextTower`.
    preprocessing: of frames for the image tower.
    sizes: of a model that was built from them and has no name in open_clip.
    taught: whether its weights are from `dfer-pretrain`, which trains on expression labels.
    """

    name: str
    model: nn.Module
    preprocessing: Preprocessing
    sizes: ClipSizes | None = None
    taught: bool = False

    @property
    def identity(self) -> str | dict[str, int]:
        """Open_clip's name, or sizes, from which `rebuild_clip` builds the same towers."""
        return self.name if self.sizes is None else asdict(self.sizes)

    @property
    def width(self) -> int:
        """D, the joint embedding's width."""
        projection = self.text.model.text_projection
        if isinstance(projection, nn.Linear):
            return int(projection.out_features)
        return int(projection.shape[1])

    @property
    def resizable(self) -> bool:
        """Whether the image tower accepts other sizes than its own, as our convolutional ones do."""
        from .face_resnet import FaceResNet

        return isinstance(getattr(self.model.visual, "trunk", None), FaceResNet)

    @property
    def text(self) -> TextTower:
        return TextTower(self.model)

    def tokenize(self, sentences: list[str]) -> Tensor:
        """Return token ids int64 [N, 77] of sentences; longer ones are truncated."""
        named = self.name if self.sizes is None else "ViT-B-32"  # OpenAI's layout has this tokenizer
        tokens: Tensor = _tokenizer(named)(sentences)
        return tokens


class TextTower:
    """Open_clip's text transformer, split so that embeddings can be given instead of words.

    Only the causal CLIP layout is supported, in which tokens after end-of-text cannot influence it, so padding need
    not be computed. Raises ParameterError for any other text tower.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = getattr(model, "text", model)
        if getattr(self.model, "attn_mask", None) is None or not hasattr(self.model, "token_embedding"):
            raise ParameterError("clip", "its text tower is not a causal transformer over tokens; choose another model")

    @property
    def width(self) -> int:
        """E, the width of token embeddings."""
        return int(self.model.token_embedding.embedding_dim)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return embeddings float32 [N, L, E] of token ids int64 [N, L]."""
        embedded: Tensor = self.model.token_embedding(tokens)
        return embedded

    def encode(self, embeddings: Tensor, end: Tensor | int, run: RunBlocks | None = None) -> Tensor:
        """Return text features float32 [N, D] of embedded sentences [N, L, E], at position(s) `end`; not normalised.

        run: runs the transformer's blocks on [N, L, E] with a mask [L, L]; None: the transformer's own forward.
        """
        length = embeddings.shape[1]
        text = self.model
        x = embeddings + text.positional_embedding[:length]
        mask = text.attn_mask[:length, :length]
        x = text.transformer(x, attn_mask=mask) if run is None else run(text.transformer.resblocks, x, mask)
        x = text.ln_final(x)
        rows = torch.arange(x.shape[0], device=x.device)
        x = x[rows, end] if isinstance(end, Tensor) else x[:, end]
        projection = text.text_projection
        if isinstance(projection, nn.Linear):
            features: Tensor = projection(x)
        else:
            features = x @ projection
        return features


def load_clip(
    name: str,
    pretrained: str | None = None,
    grey: bool = False,
    crop_size: int | None = None,
    image_size: int | None = None,
    patches: int | None = None,
) -> Clip:
    """Build an open_clip model and load weights, if any.

    name: a model of open_clip ("ViT-B-32") or of ours ("dfer-small", "dfer-large", "dfer-vit", "dfer-nano").
    pretrained: None for random weights, "demo" for those of the demo model (a dfer-small), a file of weights (from
        `dfer-pretrain` or in open_clip's format), or one of open_clip's tags ("openai"), which open_clip downloads.
    grey: let the model see luma only; a file from `dfer-pretrain` overrides this.
    crop_size: side of the input crops; upsampled to the tower's size inside the graph. Default: `image_size` if given,
        else the smaller of `CROP` and the tower's size.
    image_size: side of a vision transformer's images, pixels; its positional embedding is interpolated
        (Dosovitskiy et al. 2021, §3.2). Fewer pixels are fewer tokens, so the tower is faster. None: its own size.
    patches: how many patches of its images a vision transformer reads (`MiddlePatches`), None for all.
    Raises DferError for an unknown model or weights that are unavailable or do not fit, ParameterError for a size or a
    number of patches that the tower cannot have.
    """
    open_clip = _open_clip()
    if name not in open_clip.list_models():
        raise DferError(f"unknown CLIP {name!r}; ours are dfer-small, -large, -vit and -nano, the rest open_clip's")
    if image_size is not None:
        _check_image_size(name, open_clip.get_model_config(name)["vision_cfg"], image_size)
    weights: dict[str, Tensor] | None = None
    tag, taught = pretrained, False
    path = DEMO_WEIGHTS if pretrained == "demo" else Path(pretrained or "")
    if path.suffix:
        weights, tag = _read_weights(path), None
        if None not in [weights.pop(key, None) for key in _OPENAI_NUMBERS]:
            check_activation(open_clip, name, "openai")
        described = weights.pop("dfer.grey", None)
        taught = described is not None
        grey = bool(described) if taught else grey
    if tag is not None:
        check_activation(open_clip, name, tag)
        go_offline_without_network()
    quiet = logging.root.manager.disable
    # open_clip warns that weights are random, which is intended, and logs the errors that it raises.
    logging.disable(logging.ERROR)
    try:
        model = open_clip.create_model(name, pretrained=tag, force_image_size=image_size)
        if weights is not None:
            _fill_words(model, weights)
            open_clip.model.resize_pos_embed(weights, model)
            own = model.state_dict()
            check_names([one for one in own if one not in weights], [one for one in weights if one not in own])
            model.load_state_dict(weights)
    except (RuntimeError, OSError, ValueError, KeyError, AttributeError) as error:
        raise DferError(f"cannot load CLIP {name!r} with weights {pretrained!r}: {why_unfit(error)}") from error
    finally:
        logging.disable(quiet)
    model.float().eval()
    size = model.visual.image_size
    side = int(size[0] if isinstance(size, (tuple, list)) else size)
    mean = getattr(model.visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    std = getattr(model.visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
    crop = crop_size or image_size or min(CROP, side)
    if patches is not None:
        _leave_out_patches(name, model, patches)
    return Clip(name, model, Preprocessing(crop, side, tuple(mean), tuple(std), grey, patches), taught=taught)


class MiddlePatches(nn.Module):
    """Selects the class token and the `count` patches nearest the face's middle from a ViT's tokens [N,1+P,D].

    A fixed PatchDropout (Liu et al. 2023). Corners of an aligned crop show hair and background, and processors compute
    tokens in groups of 16: 15 of the 16 patches of a ViT-B/32 at 128 px are faster, since with the class token they are
    16 tokens, not 17.
    """

    def __init__(self, side: int, count: int) -> None:
        super().__init__()
        places = (torch.arange(side) + 0.5) / side
        middle = torch.from_numpy(TEMPLATE).mean(dim=0) / TEMPLATE_SIZE  # of the landmarks: x, y
        distance = torch.hypot(places[None] - middle[0], places[:, None] - middle[1]).flatten()
        kept = distance.argsort(stable=True)[:count].sort().values
        self.register_buffer("kept", torch.cat([torch.zeros(1, dtype=torch.int64), kept + 1]), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        kept: Any = self.kept
        return tokens[:, kept]


def _leave_out_patches(name: str, model: nn.Module, count: int) -> None:
    """Make the image tower read only `count` patches. Raises ParameterError if it has fewer, or none."""
    grid = getattr(model.visual, "grid_size", None)
    if grid is None or not hasattr(model.visual, "patch_dropout"):
        problem = f"{name} cannot leave any out; only vision transformers of open_clip, not of timm, can"
        raise ParameterError("patches", problem)
    if not 1 <= count <= grid[0] ** 2:
        raise ParameterError("patches", f"{name} has {grid[0] ** 2} patches at this image size, not {count}")
    model.visual.patch_dropout = MiddlePatches(grid[0], count)


def _check_image_size(name: str, tower: dict[str, Any], size: int) -> None:
    """Raise ParameterError if the tower of open_clip's config `tower` cannot read images of this size."""
    patch = tower.get("patch_size")
    if patch is None or "timm_model_name" in tower or not isinstance(tower.get("layers"), int):
        problem = f"{name} keeps its own size; only vision transformers of open_clip, not of timm, take another"
        raise ParameterError("image_size", problem)
    check_patches(name, patch, size)


def check_patches(name: str, patch: int, size: int) -> None:
    """Raise ParameterError if images of this size do not divide into patches, since their edge would not be read."""
    if size % patch:
        below, above = size // patch * patch, (size // patch + 1) * patch
        nearest = f"{below} and {above} do" if below else f"{above} does"
        raise ParameterError("image_size", f"{size} does not divide into the patches of {patch} of {name}; {nearest}")


def build_clip(sizes: ClipSizes, crop_size: int | None = None, grey: bool = False) -> Clip:
    """Build a CLIP in OpenAI's layout with random weights; `crop_size` defaults to the tower's image size."""
    open_clip = _open_clip()
    model = open_clip.CLIP(
        sizes.joint,
        open_clip.CLIPVisionCfg(
            layers=sizes.image_layers, width=sizes.image_width, patch_size=sizes.patch, image_size=sizes.image_size
        ),
        open_clip.CLIPTextCfg(
            context_length=sizes.context,
            vocab_size=sizes.vocabulary,
            width=sizes.text_width,
            heads=sizes.text_width // 64,
            layers=sizes.text_layers,
        ),
        quick_gelu=True,
    )
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    preprocessing = Preprocessing(crop_size or sizes.image_size, sizes.image_size, tuple(mean), tuple(std), grey)
    return Clip("OpenAI's layout", model.eval(), preprocessing, sizes)


def rebuild_clip(identity: str | dict[str, int], preprocessing: Preprocessing) -> Clip:
    """Rebuild the towers of a clip's `identity` with random weights, for crops with this `preprocessing`."""
    if isinstance(identity, str):
        clip = load_clip(identity)
        resized = clip.preprocessing.encoder_size != preprocessing.encoder_size
        if (resized or preprocessing.patches) and hasattr(clip.model.visual, "positional_embedding"):
            clip = load_clip(identity, image_size=preprocessing.encoder_size, patches=preprocessing.patches)
    else:
        clip = build_clip(ClipSizes(**identity))
    return replace(clip, preprocessing=preprocessing)  # mean and std too, even if open_clip's have changed


def save_weights(clip: Clip, path: Path, words: Tensor | None = None) -> None:
    """Write a CLIP's weights so that `load_clip(name, path)` reads them back.

    If the path ends in .safetensors and `words` is given, the file is small: half precision, and only the word
    embeddings of `words`, token ids int64 of any shape; the others, which are untrained, are random when it is read.
    """
    state = dict(clip.model.state_dict())
    state["dfer.grey"] = torch.tensor(clip.preprocessing.grey)
    if path.suffix == ".safetensors" and words is not None:
        from safetensors.torch import save

        known = words.unique()
        state[_WORDS] = known.to(torch.int32)
        state[_words_name(clip.model)] = state[_words_name(clip.model)][known]
        halves = {
            name: value.half().contiguous() if value.is_floating_point() else value for name, value in state.items()
        }
        with atomic_write(path, durable=True) as aside:
            aside.write_bytes(save(halves))
        return
    with atomic_write(path, durable=True) as aside:
        torch.save(state, aside)


def _words_name(model: nn.Module) -> str:
    """Return the name of the word embeddings in the model's state."""
    return next(name for name in model.state_dict() if name.endswith("token_embedding.weight"))


def _fill_words(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Complete compact weights with the model's own embeddings of all other words."""
    known = weights.pop(_WORDS, None)
    if known is not None:
        name = _words_name(model)
        everything = model.state_dict()[name].clone()
        everything[known.long()] = weights[name].to(everything.dtype)
        weights[name] = everything


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DferError(f"CLIP weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            check_archive(path)
            state = plain_values(torch.load(path, map_location="cpu", weights_only=True))
    except DferError:
        raise
    except Exception as error:  # the readers raise many types; all mean the same to the user
        raise DferError(f"CLIP weights {path}: not a plain file of tensors") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    tensors = isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())
    if not tensors or not all(isinstance(name, str) for name in state):
        raise DferError(f"CLIP weights {path}: not a plain file of tensors by their names")
    return {name.removeprefix("module."): value for name, value in state.items()}

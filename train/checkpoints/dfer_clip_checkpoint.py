"""Read DFER-CLIP's published checkpoints as our `DferClip`; names and sizes come from the file's tensors alone.

In the published code (github.com/zengqunzhao/DFER-CLIP), the forward pass uses `image_encoder.*`,
CLIP's image tower after fine-tuning, and `text_encoder.*`, its frozen text transformer. `clip_model_.*` holds the same
tensors again, and the token embeddings. The CLIP is OpenAI's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from ...runtime.errors import DferError
from ...runtime.labels import EXPRESSIONS, MAFW_EXPRESSIONS
from ..models.archives import check_names
from ..models.clip import ClipSizes, build_clip
from ..models.prompts import DescribedPrompts
from .untrusted_checkpoint import read_untrusted

M = TypeVar("M", bound=nn.Module)
CLASSES = {len(names): names for names in (EXPRESSIONS, MAFW_EXPRESSIONS)}
SHAPED = (  # the tensors whose shapes give all sizes of the model
    "prompt_learner.ctx",
    "prompt_learner.token_suffix",
    "image_encoder.conv1.weight",
    "image_encoder.positional_embedding",
    "image_encoder.proj",
    "text_encoder.positional_embedding",
    "clip_model_.token_embedding.weight",
    "temporal_net.pos_embedding",
    "temporal_net.temporal_transformer.layers.0.0.fn.norm.weight",
)
NAMES = {  # our prefixes → theirs; the first match counts
    "clip_model.visual.": "image_encoder.",
    "clip_model.transformer.": "text_encoder.transformer.",
    "clip_model.ln_final.": "text_encoder.ln_final.",
    "clip_model.positional_embedding": "text_encoder.positional_embedding",
    "clip_model.text_projection": "text_encoder.text_projection",
    "clip_model.": "clip_model_.",
    "prompts.context": "prompt_learner.ctx",
    "prompts.start": "prompt_learner.token_prefix",
    "prompts.description": "prompt_learner.token_suffix",
    "temporal.class_token": "temporal_net.cls_token",
    "temporal.position": "temporal_net.pos_embedding",
    "temporal.layers.": "temporal_net.temporal_transformer.layers.",
}
PARTS = {  # of a layer of the temporal net
    ".norm_attention.": ".0.fn.norm.",
    ".to_queries_keys_values.": ".0.fn.fn.to_qkv.",
    ".from_heads.": ".0.fn.fn.to_out.0.",
    ".norm_mlp.": ".1.fn.norm.",
    ".mlp.0.": ".1.fn.fn.net.0.",
    ".mlp.2.": ".1.fn.fn.net.3.",
}


def load_dfer_clip_checkpoint(path: Path, build: Callable[..., M]) -> tuple[M, dict[str, Any]]:
    """Read a checkpoint of DFER-CLIP's own training: the model in evaluation mode, its epoch and best accuracy.

    build: the class `DferClip`, which imports this module.
    Supports 7 or 11 classes, class-specific or shared contexts, names with or without `module.`, and any sizes.
    Descriptions must follow the contexts, as in all published settings (`--class-token-position end`).
    Raises DferError for anything else, naming the keys that are missing or unexpected.
    """
    content = read_untrusted(path)
    try:
        state, training = _state_of(content)
        method = _empty_model(state, build)
        method.load_state_dict(_renamed(state, method))
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise DferError(f"checkpoint {path}: not a checkpoint of DFER-CLIP's authors: {lines[-1].strip()}") from error
    except (DferError, ValueError) as error:
        raise DferError(f"checkpoint {path}: not a checkpoint of DFER-CLIP's authors: {error}") from error
    return method.eval(), training


def _state_of(content: object) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dict without `module.`, and what else the file says about its training."""
    content = content if isinstance(content, dict) else {}
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DferError("it holds no state dict of tensors")
    training = {}
    if isinstance(content.get("epoch"), int):
        training["epoch"] = content["epoch"]
    best = content.get("best_acc")
    if isinstance(best, (int, float)) or (isinstance(best, Tensor) and best.numel() == 1):
        training["best_accuracy"] = float(best)
    return {str(key).removeprefix("module."): value for key, value in state.items()}, training


def _empty_model(state: Mapping[str, Tensor], build: Callable[..., M]) -> M:
    """Build a model whose sizes are those of the tensors in `state`."""
    check_names(missing=[name for name in SHAPED if name not in state], unexpected=[])
    shape = {name: tuple(state[name].shape) for name in SHAPED}
    try:
        image_width, _, _, patch = shape["image_encoder.conv1.weight"]
        context, text_width = shape["text_encoder.positional_embedding"]
        vocabulary, _ = shape["clip_model_.token_embedding.weight"]
        patches, _ = shape["image_encoder.positional_embedding"]
        _, joint = shape["image_encoder.proj"]
        _, positions, _ = shape["temporal_net.pos_embedding"]
        classes, _, _ = shape["prompt_learner.token_suffix"]
        *specific, contexts, _ = shape["prompt_learner.ctx"]
    except ValueError as error:
        raise DferError(f"unexpected shapes among {shape}") from error
    if classes not in CLASSES:
        raise DferError(f"it has {classes} classes, not {' or '.join(map(str, CLASSES))}")
    sizes = ClipSizes(
        joint=joint,
        image_size=patch * math.isqrt(max(patches - 1, 0)),
        patch=patch,
        image_width=image_width,
        image_layers=_layers(state, "image_encoder.transformer.resblocks."),
        context=context,
        vocabulary=vocabulary,
        text_width=text_width,
        text_layers=_layers(state, "text_encoder.transformer.resblocks."),
    )
    length = int(_ends(state).max()) + 1
    return build(
        build_clip(sizes),
        DescribedPrompts(classes, length, text_width, contexts, class_specific=bool(specific)),
        CLASSES[classes],
        window=positions - 1,
        layers=_layers(state, "temporal_net.temporal_transformer.layers."),
    )


def _layers(state: Iterable[str], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _ends(state: Mapping[str, Tensor]) -> Tensor:
    """Return int64 [C]: where each prompt ends in `token_suffix` [C,L,E].

    The file does not say. It is where the suffix has the embedding of end-of-text, the last id of the vocabulary.
    """
    suffix = state["prompt_learner.token_suffix"]
    is_end = (suffix == state["clip_model_.token_embedding.weight"][-1]).all(dim=-1)
    if not is_end.any(dim=1).all():
        raise DferError("prompt_learner.token_suffix has no end-of-text token of clip_model_.token_embedding.weight")
    return is_end.int().argmax(dim=1)


def _renamed(state: Mapping[str, Tensor], method: nn.Module) -> dict[str, Tensor]:
    """Return the state under our names; raise DferError if tensors are missing or are not DFER-CLIP's."""
    theirs = {ours: _published_name(ours) for ours in method.state_dict() if ours != "prompts.end"}
    copies = {f"clip_model_.{name}" for name in method.get_submodule("clip_model").state_dict()}
    check_names(
        missing=[name for name in theirs.values() if name not in state],
        unexpected=sorted(state.keys() - copies - set(theirs.values())),
    )
    renamed = {ours: state[name] for ours, name in theirs.items()}
    ends = _ends(state)
    renamed["prompts.description"] = renamed["prompts.description"][:, : int(ends.max()) + 1]
    renamed["prompts.end"] = 1 + method.get_parameter("prompts.context").shape[-2] + ends
    return renamed


def _published_name(ours: str) -> str:
    begin = next(begin for begin in NAMES if ours.startswith(begin))
    name = NAMES[begin] + ours.removeprefix(begin)
    if begin == "temporal.layers.":
        for part, published in PARTS.items():
            name = name.replace(part, published)
    return name

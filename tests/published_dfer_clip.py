"""The published DFER-CLIP in plain torch, for tests: random weights under its names, its forward pass, its file.

Written from the paper and the published code's behaviour and independent of dfer.train: functions over a state dict.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

IMAGE, PATCH, IMAGE_WIDTH, TEXT_WIDTH, JOINT = 32, 16, 128, 64, 32
LAYERS, VOCABULARY, CONTEXT, WINDOW, CONTEXTS = 2, 40, 20, 16, 8
State = dict[str, Tensor]


def random_state(classes: int, class_specific: bool, temporal_layers: int = 1, seed: int = 0) -> State:
    """A state dict with every key of the published model, for a tiny CLIP."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float | None = None) -> Tensor:
        return torch.randn(*shape, generator=draw) * (std or shape[-1] ** -0.5)

    def norm(name: str, width: int) -> State:
        return {f"{name}.weight": 1 + normal(width, std=0.1), f"{name}.bias": normal(width, std=0.1)}

    def linear(name: str, out: int, width: int) -> State:
        return {f"{name}.weight": normal(out, width), f"{name}.bias": normal(out, std=0.1)}

    def blocks(width: int) -> State:
        state: State = {}
        for layer in range(LAYERS):
            block = f"transformer.resblocks.{layer}"
            state[f"{block}.attn.in_proj_weight"] = normal(3 * width, width)
            state[f"{block}.attn.in_proj_bias"] = normal(3 * width, std=0.1)
            state |= linear(f"{block}.attn.out_proj", width, width) | norm(f"{block}.ln_1", width)
            state |= linear(f"{block}.mlp.c_fc", 4 * width, width) | linear(f"{block}.mlp.c_proj", width, 4 * width)
            state |= norm(f"{block}.ln_2", width)
        return state

    visual = {
        "class_embedding": normal(IMAGE_WIDTH),
        "positional_embedding": normal((IMAGE // PATCH) ** 2 + 1, IMAGE_WIDTH),
        "proj": normal(IMAGE_WIDTH, JOINT, std=IMAGE_WIDTH**-0.5),
        "conv1.weight": normal(IMAGE_WIDTH, 3, PATCH, PATCH, std=0.1),
        **norm("ln_pre", IMAGE_WIDTH),
        **norm("ln_post", IMAGE_WIDTH),
        **blocks(IMAGE_WIDTH),
    }
    text = {
        "positional_embedding": normal(CONTEXT, TEXT_WIDTH, std=0.1),
        "text_projection": normal(TEXT_WIDTH, JOINT, std=TEXT_WIDTH**-0.5),
        **norm("ln_final", TEXT_WIDTH),
        **blocks(TEXT_WIDTH),
    }
    embedding = normal(VOCABULARY, TEXT_WIDTH, std=0.5)
    tokens = torch.zeros(classes, CONTEXT, dtype=torch.int64)
    tokens[:, 0] = VOCABULARY - 2
    for row, length in zip(tokens, torch.randint(1, 8, (classes,), generator=draw).tolist(), strict=True):
        end = 1 + CONTEXTS + length
        row[1:end] = torch.randint(1, VOCABULARY - 2, (end - 1,), generator=draw)
        row[end] = VOCABULARY - 1
    context = (classes, CONTEXTS, TEXT_WIDTH) if class_specific else (CONTEXTS, TEXT_WIDTH)
    temporal = {"cls_token": normal(1, 1, JOINT, std=1), "pos_embedding": normal(1, WINDOW + 1, JOINT, std=1)}
    for layer in range(temporal_layers):
        attention, mlp = (f"temporal_transformer.layers.{layer}.{part}.fn" for part in (0, 1))
        temporal |= norm(f"{attention}.norm", JOINT) | norm(f"{mlp}.norm", JOINT)
        temporal |= {f"{attention}.fn.to_qkv.weight": normal(3 * 512, JOINT)}
        temporal |= linear(f"{attention}.fn.to_out.0", JOINT, 512)
        temporal |= linear(f"{mlp}.fn.net.0", 1024, JOINT) | linear(f"{mlp}.fn.net.3", JOINT, 1024)
    clip = {
        **text,
        "logit_scale": torch.tensor(4.6),
        "token_embedding.weight": embedding,
        **{f"visual.{name}": value for name, value in visual.items()},
    }
    return {
        "prompt_learner.ctx": normal(*context, std=0.5),
        "prompt_learner.token_prefix": embedding[tokens[:, :1]],
        "prompt_learner.token_suffix": embedding[tokens[:, 1 + CONTEXTS :]],
        **{f"text_encoder.{name}": value for name, value in text.items()},
        **{f"image_encoder.{name}": value for name, value in visual.items()},
        **{f"temporal_net.{name}": value for name, value in temporal.items()},
        **{f"clip_model_.{name}": value for name, value in clip.items()},
    }


def published_logits(state: State, frames: Tensor) -> Tensor:
    """Logits [N,C] of clips uint8 [N,T,H,W,3], step by step as DFER-CLIP computes them."""
    pixels = frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    features = _image_features(_under(state, "image_encoder."), pixels).view(*frames.shape[:2], -1)
    video = _video_features(_under(state, "temporal_net."), features)
    prompts = _under(state, "prompt_learner.")
    context = prompts["ctx"].expand(len(prompts["token_prefix"]), -1, -1)
    embedded = torch.cat([prompts["token_prefix"], context, prompts["token_suffix"]], dim=1)
    end_of_text = state["clip_model_.token_embedding.weight"][VOCABULARY - 1]
    ends = [next(i for i, row in enumerate(rows) if torch.equal(row, end_of_text)) for rows in embedded]
    words = _text_features(_under(state, "text_encoder."), embedded, torch.tensor(ends))
    cosines = (video / video.norm(dim=-1, keepdim=True)) @ (words / words.norm(dim=-1, keepdim=True)).T
    return cosines / 0.01


def save_published(state: State, path: Path, prefix: str = "module.") -> None:
    """Write the file that the published training writes: tensors, an optimizer, an object of its script's own class."""
    recorder = type("RecorderMeter", (), {"__module__": "__main__"})
    recorded = recorder()
    recorded.epoch_losses = np.zeros((50, 2), dtype=np.float32)
    momentum = {"momentum_buffer": torch.ones(3)}
    content = {
        "epoch": 37,
        "state_dict": {prefix + name: value for name, value in state.items()},
        "best_acc": torch.tensor(71.25),
        "optimizer": {"state": {0: momentum}, "param_groups": [{"lr": 0.01, "params": [0]}]},
        "recorder": recorded,
    }
    with mock.patch.object(sys.modules["__main__"], "RecorderMeter", recorder, create=True):
        torch.save(content, path)


def _under(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def _attend(mixed: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Heads' outputs [N,L,W] of queries, keys and values side by side [N,L,3W]."""
    count, length, _ = mixed.shape
    queries, keys, values = (part.view(count, length, heads, -1).transpose(1, 2) for part in mixed.chunk(3, dim=-1))
    scores = torch.einsum("nhid,nhjd->nhij", queries, keys) / queries.shape[-1] ** 0.5
    scores = scores if mask is None else scores + mask
    return torch.einsum("nhij,nhjd->nhid", scores.softmax(dim=-1), values).transpose(1, 2).reshape(count, length, -1)


def _transformer(state: State, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """OpenAI's residual attention blocks; heads are 64 wide, the activation is x · sigmoid(1.702 x)."""
    for layer in range(LAYERS):
        block = f"transformer.resblocks.{layer}"
        normed = _norm(state, f"{block}.ln_1", x)
        mixed = normed @ state[f"{block}.attn.in_proj_weight"].T + state[f"{block}.attn.in_proj_bias"]
        x = x + _linear(state, f"{block}.attn.out_proj", _attend(mixed, x.shape[-1] // 64, mask))
        hidden = _linear(state, f"{block}.mlp.c_fc", _norm(state, f"{block}.ln_2", x))
        x = x + _linear(state, f"{block}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))
    return x


def _image_features(state: State, pixels: Tensor) -> Tensor:
    patches = functional.conv2d(pixels, state["conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    first = state["class_embedding"].expand(len(patches), 1, -1)
    x = torch.cat([first, patches], dim=1) + state["positional_embedding"]
    x = _transformer(state, _norm(state, "ln_pre", x))
    return _norm(state, "ln_post", x[:, 0]) @ state["proj"]


def _text_features(state: State, embedded: Tensor, ends: Tensor) -> Tensor:
    mask = torch.full((CONTEXT, CONTEXT), float("-inf")).triu(1)
    x = _transformer(state, embedded + state["positional_embedding"], mask)
    return _norm(state, "ln_final", x)[torch.arange(len(x)), ends] @ state["text_projection"]


def _video_features(state: State, features: Tensor) -> Tensor:
    x = torch.cat([state["cls_token"].expand(len(features), -1, -1), features], dim=1) + state["pos_embedding"]
    layer = 0
    while f"temporal_transformer.layers.{layer}.0.fn.norm.weight" in state:
        attention, mlp = (f"temporal_transformer.layers.{layer}.{part}.fn" for part in (0, 1))
        mixed = _linear(state, f"{attention}.fn.to_qkv", _norm(state, f"{attention}.norm", x))
        x = x + _linear(state, f"{attention}.fn.to_out.0", _attend(mixed, 8))
        hidden = _linear(state, f"{mlp}.fn.net.0", _norm(state, f"{mlp}.norm", x))
        tanh = torch.tanh((2 / torch.pi) ** 0.5 * (hidden + 0.044715 * hidden**3))
        x = x + _linear(state, f"{mlp}.fn.net.3", 0.5 * hidden * (1 + tanh))
        layer += 1
    return x[:, 0]

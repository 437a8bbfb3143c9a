"""Mixed precision for the forward passes that can bear it."""

from __future__ import annotations

import torch


def mixed_precision(device: str = "cpu") -> torch.autocast:
    """A context in which matrix products run in half the bits where `device` computes them natively, else in float32.

    bfloat16 where there is one, float16 on older GPUs (for inference: no gradient needs scaling).
    """
    if device == "cuda":
        return torch.autocast("cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)
    native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast(device, torch.bfloat16, enabled=native)

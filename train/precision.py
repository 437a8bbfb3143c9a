"""Mixed precision for forward passes that tolerate it."""

from __future__ import annotations

import torch


def mixed_precision(device: str = "cpu") -> torch.autocast:
    """Return a context in which matrix products run in 16 bits if `device` supports that natively, else in float32.

    bfloat16 if supported, float16 on older GPUs (for inference only: there is no gradient scaling).
    """
    if device == "cuda":
        return torch.autocast("cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)
    native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast(device, torch.bfloat16, enabled=native)

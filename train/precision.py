"""Mixed precision for the forward passes that can bear it."""

from __future__ import annotations

import torch


def mixed_precision() -> torch.autocast:
    """A context in which matrix products run in bfloat16 where this CPU computes it natively, else in float32."""
    native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast("cpu", torch.bfloat16, enabled=native)

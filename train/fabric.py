"""The devices of a training run: one device, or as many processes as torchrun started."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..runtime.errors import ParameterError, require

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def resolve_precision(precision: str) -> str:
    """Return "fp32", "bf16" or "fp16": as given, or for "auto" what suits the device (see `start_fabric`).

    Raises ParameterError for fp16 on a CPU.
    """
    import torch

    gpu = torch.cuda.is_available()
    if precision == "auto":
        return ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if gpu else "fp32"
    if precision == "fp16" and not gpu:
        raise ParameterError("precision", "fp16 needs a GPU; use bf16 or fp32 here")
    return precision


def start_fabric(precision: str) -> Fabric:
    """Start Fabric on the GPU if there is one, else on the CPU; over all processes if started by torchrun.

    precision: "fp32", "bf16", "fp16", or "auto": half on a GPU, fp32 on a CPU, where the small text and temporal parts
    take 1.5 times as long to train in bf16 (measured).
    Raises ParameterError for fp16 on a CPU.
    """
    require("lightning_fabric", "train")
    import logging

    import torch
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // processes
    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=processes,
        num_nodes=nodes,
        strategy="ddp" if "LOCAL_WORLD_SIZE" in os.environ else "auto",
        precision=PRECISIONS[resolve_precision(precision)],  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric

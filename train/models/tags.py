"""open_clip's tags of weights: whether they fit the model, and whether they can be had without a network."""

from __future__ import annotations

import os
import socket
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from ...runtime.errors import ParameterError

_PATIENCE = 5.0  # seconds for the hub to answer


def check_activation(open_clip: Any, name: str, tag: str) -> None:
    """Raise ParameterError where weights were trained with another activation than the model computes.

    OpenAI's and some others' have QuickGELU; with GELU in its place they load, and are silently worse.
    """
    described = open_clip.get_pretrained_cfg(name, tag)
    if not described:
        return  # open_clip says which tags there are
    trained, computed = (bool(one.get("quick_gelu")) for one in (described, open_clip.get_model_config(name)))
    if trained != computed:
        other = f"{name}-quickgelu" if trained else name.removesuffix("-quickgelu")
        words = ("QuickGELU", "GELU") if trained else ("GELU", "QuickGELU")
        raise ParameterError(
            "clip", f"weights {tag!r} were trained with {words[0]}, {name} has {words[1]}; use {other}"
        )


def go_offline_without_network() -> None:
    """Where the hub cannot be reached, take weights from its cache or fail at once, in place of trying for a minute."""
    hub = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if urllib.request.getproxies():  # which may reach what we cannot
        return
    try:
        socket.create_connection((hub.hostname or "", hub.port or 443), _PATIENCE).close()
    except OSError:
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = True

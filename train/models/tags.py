"""open_clip's weight tags: whether they fit the model, and how to load them without a network."""

from __future__ import annotations

import os
import socket
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from ...runtime.errors import ParameterError

_PATIENCE = 5.0  # seconds for the hub to answer


def check_activation(open_clip: Any, name: str, tag: str) -> None:
    """Raise ParameterError if weights were trained with another activation than the model's.

    OpenAI's and some others' use QuickGELU; with GELU instead they load, but are silently worse.
    """
    described = open_clip.get_pretrained_cfg(name, tag)
    if not described:
        return  # unknown tag: open_clip's own error lists the known ones
    trained, computed = (bool(one.get("quick_gelu")) for one in (described, open_clip.get_model_config(name)))
    if trained != computed:
        other = f"{name}-quickgelu" if trained else name.removesuffix("-quickgelu")
        words = ("QuickGELU", "GELU") if trained else ("GELU", "QuickGELU")
        raise ParameterError(
            "clip", f"weights {tag!r} were trained with {words[0]}, {name} has {words[1]}; use {other}"
        )


def go_offline_without_network() -> None:
    """If the hub cannot be reached, use its cache or fail at once, instead of retrying for a minute."""
    hub = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if urllib.request.getproxies():  # a proxy may reach it
        return
    try:
        socket.create_connection((hub.hostname or "", hub.port or 443), _PATIENCE).close()
    except OSError:
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = True

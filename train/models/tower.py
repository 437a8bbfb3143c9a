"""Image towers of timm by name: the small encoders for distillation."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, cast

import torch
from torch import nn

from ...runtime.errors import ParameterError, first_line
from .clip import check_patches, load_timm

NEAR = 4
"""Number of names that an error suggests."""


def build_tower(name: str, width: int, image_size: int) -> nn.Module:
    """Build a tower of timm, or of ours (dfer_resnet_large, -small, -tiny, -nano), with random weights, in evaluation
    mode: normalised pixels float32 [N,3,image_size,image_size] → features [N,width].

    Raises ParameterError for a name that timm does not know, or a size that the tower does not support.
    """
    timm = load_timm()
    if not timm.is_model(name):  # timm would treat some other names as addresses
        near = get_close_matches(name, timm.list_models(), NEAR, cutoff=0.5)
        hint = f"; near names are {', '.join(near)}" if near else "; timm.list_models() has them all"
        raise ParameterError("tower", f"timm has no model {name!r}{hint}")
    published = timm.get_pretrained_cfg(name)
    sized = published is not None and published.fixed_input_size  # built for one size
    options: dict[str, Any] = {"img_size": image_size} if sized else {}
    try:
        tower: nn.Module = timm.create_model(name, num_classes=width, **options).eval()
        with torch.no_grad():
            shape = tuple(tower(torch.zeros(2, 3, image_size, image_size)).shape)
    except (TypeError, ValueError, AssertionError, RuntimeError, IndexError) as error:  # types vary by model
        why = f"{name} cannot read images of {image_size} px ({first_line(error)})"
        raise ParameterError("image_size", why) from error
    if shape != (2, width):
        raise ParameterError("tower", f"{name} gives {shape} for two images, not one feature for each; take another")
    patches = getattr(tower, "patch_embed", None) or getattr(tower, "stem", None)  # stem: of MLP-Mixers
    if isinstance(patches, timm.layers.PatchEmbed) and not patches.dynamic_img_pad:
        check_patches(name, patches.patch_size[0], image_size)
    return tower


@torch.no_grad()
def inherit(tower: nn.Module, encoder: nn.Module) -> None:
    """Copy weights from an encoder of the same type that contains all of its layers.

    A shallower tower then starts with some of its teacher's layers (Sanh et al. 2019, §3), which is far better than
    random weights. The last layer is copied if it fits. encoder: a tower, or open_clip's wrapper of a timm model
    (`trunk`, and a linear `head.proj` as the last layer).
    """
    trunk = getattr(encoder, "trunk", encoder)
    if type(trunk) is not type(tower):
        return  # layers of the same name may differ in function
    known, own = trunk.state_dict(), tower.state_dict()
    classifier = cast(Any, tower).get_classifier()
    last = next((f"{name}." for name, part in tower.named_modules() if part is classifier), "")
    projection = getattr(getattr(encoder, "head", None), "proj", None)
    if last and isinstance(projection, nn.Linear) and trunk is not encoder:
        width = projection.out_features
        known |= {f"{last}bias": torch.zeros(width)} | {f"{last}{k}": v for k, v in projection.state_dict().items()}
    fits = {name: name in known and known[name].shape == tensor.shape for name, tensor in own.items()}
    if all(fit for name, fit in fits.items() if not (last and name.startswith(last))):
        whole = all(fits.values())
        taken = {name: known[name] for name in own if whole or not name.startswith(last)}
        tower.load_state_dict({**own, **taken})

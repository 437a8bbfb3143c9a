"""The methods by name. A method's own file is loaded when it is first used, so that knowing the names costs nothing.

A package of one's own adds a method by an entry point of the group "dfer.methods", in its pyproject.toml:

    [project.entry-points."dfer.methods"]
    mean-pool = "their_package.mean_pool:MeanPool"
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from ...runtime.errors import DferError, ParameterError

if TYPE_CHECKING:
    from .method import Method as Method
    from .method import lay_out as lay_out
    from .method import normalise_pixels as normalise_pixels

GROUP = "dfer.methods"
"""The entry points by which other packages add their methods."""
OURS = {
    "align-dfer": EntryPoint("align-dfer", "dfer.train.methods.align_dfer:AlignDfer", GROUP),
    "dfer-clip": EntryPoint("dfer-clip", "dfer.train.methods.dfer_clip:DferClip", GROUP),
}


def method_names() -> list[str]:
    """All names that `method_class` knows: ours, then those of other packages, which cannot take the place of ours."""
    return [*OURS, *sorted(entry_points(group=GROUP).names - OURS.keys())]


def method_class(name: str) -> type[Method]:
    """The method of this name. Raises ParameterError for an unknown one, DferError for one that does not load."""
    found = OURS.get(name) or next(iter(entry_points(group=GROUP, name=name)), None)
    if found is None:
        raise ParameterError("method", f"{name!r} is not one of {', '.join(method_names())}")
    try:
        loaded: type[Method] = found.load()
    except (ImportError, AttributeError) as error:
        raise DferError(f"method {name}: cannot load {found.value} ({error})") from error
    return loaded


def __getattr__(name: str) -> Any:
    if name not in ("Method", "lay_out", "normalise_pixels"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".method", __name__), name)

"""The registry of methods. A method's module is loaded when it is first used, so that listing names costs nothing.

Another package can add a method through an entry point of the group "dfer.methods", in its pyproject.toml:

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
    from .method import give_classes as give_classes
    from .method import lay_out as lay_out
    from .method import normalise_pixels as normalise_pixels

METHODS = {
    "align-dfer": "dfer.train.methods.align_dfer:AlignDfer",
    "dfer-clip": "dfer.train.methods.dfer_clip:DferClip",
    "finecliper": "dfer.train.methods.finecliper:FineCliper",
    "zero-shot": "dfer.train.methods.zero_shot:ZeroShot",
}
"""Name → module:class. Scripts may add entries."""

TAUGHT = {"student": "dfer.train.methods.student:Student"}
"""Methods that dfer-train cannot build."""

GROUP = "dfer.methods"
"""The entry points through which installed packages add methods; they cannot override a name in `METHODS`."""


def method_names() -> list[str]:
    """Return the names of all methods that dfer-train can build."""
    return [*METHODS, *sorted(entry_points(group=GROUP).names - METHODS.keys())]


def method_class(name: str) -> type[Method]:
    """Return the method's class. Raises ParameterError for an unknown name, DferError if it cannot be loaded."""
    others = {entry.name: entry for entry in entry_points(group=GROUP)}
    ours = METHODS | TAUGHT
    found = EntryPoint(name, ours[name], GROUP) if name in ours else others.get(name)
    if found is None:
        raise ParameterError("method", f"{name!r} is not one of {', '.join(method_names())}")
    try:
        loaded: type[Method] = found.load()
    except (ImportError, AttributeError) as error:
        raise DferError(f"method {name}: cannot load {found.value} ({error})") from error
    return loaded


def __getattr__(name: str) -> Any:
    if name not in ("Method", "give_classes", "lay_out", "normalise_pixels"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".method", __name__), name)

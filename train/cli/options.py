"""Options shared by several commands."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from ..data.choice import DATA, DataChoice
from ..methods import method_names

C = TypeVar("C", bound=Callable[..., Any])


class MethodName(click.ParamType):  # type: ignore[type-arg]  # generic in click's later versions only
    """A method's name. The registry is read only when needed, so that methods of other packages are included."""

    name = "method"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(method_names())}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in method_names():
            self.fail(f"{value!r} is not one of {', '.join(method_names())}", param, ctx)
        return value


def published_option() -> Callable[[C], C]:
    """`--method` of a command that reads a checkpoint: the method whose authors published it."""
    return click.option(
        "--method",
        "published_by",
        type=MethodName(),
        help="The checkpoint was published by this method's authors (dfer-clip): only its tensors are read, nothing in "
        "it can run.",
    )


def clip_option(help: str) -> Callable[[C], C]:
    """`--clip`: the name of a CLIP model."""
    return click.option("--clip", "clip", default="dfer-small", show_default=True, metavar="NAME", help=help)


def stills_option(help: str) -> Callable[[C], C]:
    """`--stills`: a table of photographs."""
    return click.option("--stills", type=click.Path(path_type=Path), metavar="CSV", help=help)


def stills_share_option(default: float) -> Callable[[C], C]:
    """`--stills-share`: the share of photographs in a batch."""
    return click.option(
        "--stills-share",
        type=click.FloatRange(0, 1),
        default=default,
        show_default=True,
        help="Share of each batch that is drawn from --stills.",
    )


def identities_option(default: int) -> Callable[[C], C]:
    """`--identities`: how many procedural people."""
    return click.option(
        "--identities",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="How many procedural people to draw; each shows all 7 expressions, a clip of each.",
    )


def workers_option(help: str, default: int = 2, show_default: bool | str = True) -> Callable[[C], C]:
    """`--workers`: how many processes or threads."""
    return click.option("--workers", type=click.IntRange(min=1), default=default, show_default=show_default, help=help)


def batch_option(help: str, default: int = 64) -> Callable[[C], C]:
    """`--batch`: the batch size."""
    return click.option("--batch", type=click.IntRange(min=2), default=default, show_default=True, help=help)


def balance_option(default: float) -> Callable[[C], C]:
    """`--balance`: how often rare classes are drawn."""
    return click.option(
        "--balance",
        type=click.FloatRange(0, 1),
        default=default,
        show_default=True,
        help="How often rare classes are drawn: 0 as often as they come, 1 as often as common ones.",
    )


def seed_option() -> Callable[[C], C]:
    """`--seed`: the seed of all random numbers."""
    return click.option(
        "--seed",
        type=click.IntRange(0, 2**63 - 1),  # what both NumPy and PyTorch take
        default=0,
        show_default=True,
        help="Seed of all random numbers; another one gives another model.",
    )


def data_options(identities: int, optional: bool = False) -> Callable[[C], C]:
    """The options that make a `DataChoice`, which is passed to the command as `data`.

    identities: the default of --identities. optional: allow --data none (no clips) and make it the default.
    """
    options: list[Any] = [
        click.option(
            "--data",
            type=click.Choice([*DATA, "none"] if optional else DATA),
            default="none" if optional else "procedural",
            show_default=True,
            help="Which clips: people drawn here, a benchmark, one's own in folders (CLASS/clip or SPLIT/CLASS/clip) "
            "or listed in a CSV (clip,label,split[,fold][,person]).",
        ),
        click.option(
            "--root", type=click.Path(path_type=Path), help="Folder of --data's clips; for csv also the CSV itself."
        ),
        click.option(
            "--fold",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Which fold of DFEW or MAFW (1 to 5), or of a CSV with a column fold.",
        ),
        click.option(
            "--lists",
            type=click.Path(path_type=Path),
            help="Folder of the annotation lists, or the list itself, where they are not in --root.",
        ),
        click.option(
            "--max-missing",
            type=click.FloatRange(0, 1),
            default=0.01,
            show_default=True,
            help="Share of the listed clips that may be missing, and of their pictures that may be damaged; "
            "with more the command ends.",
        ),
        identities_option(identities),
        workers_option("Processes that draw procedural people, and threads that read clips."),
    ]

    def decorate(command: C) -> C:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            chosen = DataChoice(**{field.name: kwargs.pop(field.name) for field in fields(DataChoice)})
            return command(*args, data=chosen, **kwargs)

        decorated: Any = functools.update_wrapper(wrapper, command)
        for option in reversed(options):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate

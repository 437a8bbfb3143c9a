"""The log of a run: a line of JSON per epoch, optional TensorBoard curves, and the lines that are printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TextColumn

from ..runtime.cli.progress import LongProgress
from ..runtime.errors import require
from .training import Epoch


class EpochLog:
    """Writes one JSON line per epoch to `path`, and curves of its values to the folder `tensorboard`, if given.

    append: keep the resumed run's lines; epochs already logged are skipped.
    `write` takes further values, which are logged with the epoch's own.

    Raises DferError if `tensorboard` is given and TensorBoard is not installed.
    """

    def __init__(self, path: Path, tensorboard: Path | None = None, append: bool = False) -> None:
        written = path.read_bytes() if append and path.is_file() else b""
        whole = written[: written.rfind(b"\n") + 1]  # the last line may have been cut short
        self._told = {(line["step"], line["number"]) for line in map(json.loads, whole.splitlines())}
        self._file = path.open("a" if append else "w", encoding="utf-8", buffering=1)
        self._file.truncate(len(whole))
        self._curves: Any = None
        if tensorboard is not None:
            require("tensorboard", "train")
            from torch.utils.tensorboard import SummaryWriter

            self._curves = SummaryWriter(str(tensorboard))

    def write(self, epoch: Epoch, **others: float) -> None:
        if (epoch.step, epoch.number) in self._told:
            return
        values = {**epoch.to_json(), **others}
        self._file.write(json.dumps(values) + "\n")
        if self._curves is not None:
            for name in values.keys() - {"step", "number", "epochs"}:
                self._curves.add_scalar(f"{epoch.step}/{name}", values[name], epoch.number)

    def close(self) -> None:
        self._file.close()
        if self._curves is not None:
            self._curves.close()


def progress_bars(console: Console) -> Progress:
    """Return progress bars with the time left and a note behind each."""
    return LongProgress(*Progress.get_default_columns(), TextColumn("{task.fields[note]}"), console=console)


def add_bar(progress: Progress, description: str) -> Callable[[int, int], object]:
    """Add a bar of unknown length; call the returned function with the amount done and the total."""
    task = progress.add_task(description, total=None, note="")
    return lambda done, total: progress.update(task, completed=done, total=total)


def tell_warning(console: Console, message: str) -> None:
    """Print a warning."""
    console.print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True)


def tell_anew(console: Console, out: Path) -> None:
    """Print that a new run replaces an interrupted one, or the finished file `out`."""
    state = out.with_suffix(".state")
    if state.is_file():
        told = f"{escape(str(state))}: an interrupted run; starting anew, --resume would go on with it"
        console.print(told, soft_wrap=True)
    elif out.is_file():
        tell_warning(console, f"{out} is there from an earlier run and will be replaced")


def tell_epoch(console: Console, epoch: Epoch, note: str) -> None:
    """Print a finished epoch where bars are drawn only at the end: in log files and dumb terminals."""
    if not console.is_terminal or console.is_dumb_terminal:
        console.print(f"epoch {epoch.number} of {epoch.epochs}: {note}", soft_wrap=True, markup=False)


def tell_step(console: Console, best: Epoch, split: str | None) -> None:
    """Print the results of a step's best epoch on `split`, or on validation clips if that is None."""
    told = f"step {best.step}: best epoch {best.number} of {best.epochs}, {best.told()}"
    on = "validation clips" if split is None else f"the {split} split"
    console.print(f"{told} on {on}", soft_wrap=True, markup=False)

"""The log of a run: a line of JSON per epoch, and TensorBoard's curves when asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..runtime.errors import require
from .training import Epoch


class EpochLog:
    """A line of `path` per epoch; with `tensorboard` a folder, curves of loss, learning rate and what was measured.

    append: keep the lines of the run that this goes on with; an epoch that it told and did not end is not told again.
    Names that are not `Epoch`'s may come with an epoch, and are written with it.

    Raises DferError when TensorBoard is asked for and absent.
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

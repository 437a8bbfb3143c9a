"""Options of an export."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..calibration.faces import MINIMUM
from ..runtime.bundle import MANIFEST
from ..runtime.cli.options import given_options
from ..runtime.errors import DferError, ParameterError
from ..runtime.pipeline.feature_window import check_sampling
from ..train.data import CLIP_SECONDS

if TYPE_CHECKING:
    from ..train.data.choice import DataChoice

STRICTNESS = ("default", "strict", "off")
INT8_FOR = ("all", "cpu")


ASSUMED_WINDOW = 2.0  # seconds, if the training clips' length is unknown


@dataclass(frozen=True)
class ExportOptions:
    """The precisions to export besides FP32, the faces to calibrate and test them on, and the gate they must pass.

    fp16: an encoder in half precision. int8: an encoder in INT8; needs `faces`.
    bf16: the FP32 encoder computed in BF16 by OpenVINO, on a CPU that supports it.
    int8_for: "all" providers, or only ONNX Runtime's "cpu", which has its own INT8 graph: the bundle is then smaller.
    faces: a folder or CSV of faces, or a data set, for `read_faces`. Held-out ones test every precision.
    window, fps: seconds of video per prediction and frames sampled per second, which the runtime takes from the
        bundle. window=None: `trained_window`, or 2 s if that is unknown.
    minimum: the fewest frames that `faces` must have. gate: one of `STRICTNESS`; "off" lets every graph pass.
    Raises ParameterError for INT8 without faces and an unknown gate.
    """

    fp16: bool = False
    bf16: bool = False
    int8: bool = False
    int8_for: str = "all"
    faces: Path | DataChoice | None = None
    minimum: int = MINIMUM
    gate: str = "default"
    window: float | None = None
    fps: float = 8.0

    def __post_init__(self) -> None:
        if self.int8 and self.faces is None:
            raise ParameterError("faces", "INT8 needs videos or face crops to measure ranges on")
        if self.int8_for not in INT8_FOR:
            raise ParameterError("int8_for", f"{self.int8_for!r} is none of {', '.join(INT8_FOR)}")
        check_sampling(self.window, self.fps)
        if self.gate not in STRICTNESS:
            raise ParameterError("gate", f"{self.gate!r} is none of {', '.join(STRICTNESS)}")


def trained_window(training: object) -> float | None:
    """Return the seconds of video in a training window, from a checkpoint's training record; None if unknown.

    The mean of `span` and 1, times the median clip length; to 0.05 s, from 0.5 to 4.
    """
    told = training if isinstance(training, Mapping) else {}
    length, span = told.get(CLIP_SECONDS), told.get("span", 1.0)
    if not isinstance(length, float) or not isinstance(span, (int, float)) or not math.isfinite(length * span):
        return None
    return min(max(round(20 * length * (1 + span) / 2) / 20, 0.5), 4.0)


_OF_TRITON = {"triton_precision", "triton_tensorrt"}
_OF_OTHERS = {"int8_for": ("int8", "--int8"), "minimum": ("faces", "--calib FACES")}


def check_given(exported: bool, describes: bool, triton: bool) -> None:
    """Raise DferError for options of the running command that would have no effect.

    exported: whether --bundle is given. describes, triton: whether --describe and --triton are.
    """
    given = given_options()
    idle = [] if triton else [spelled for name, spelled in given.items() if name in _OF_TRITON]
    if idle:
        raise DferError(f"{', '.join(idle)}: is for --triton FOLDER; name that, or go without")
    heeded = {"exported", "checkpoint", "described", "repository", *_OF_TRITON, *(["out"] if describes else [])}
    idle = [spelled for name, spelled in given.items() if exported and name not in heeded]
    if idle:
        raise DferError(f"{', '.join(idle)}: --bundle is exported already; export its checkpoint anew, or go without")
    for name, (needed, spelled) in _OF_OTHERS.items():
        if name in given and needed not in given:
            raise DferError(f"{given[name]}: is for {spelled}; name that, or go without")


def check_precision(options: ExportOptions, precision: str) -> None:
    """Raise ParameterError if the export will have no encoder in `precision` for a Triton server."""
    if precision == "fp16" and not options.fp16:
        raise ParameterError("triton_precision", "fp16 is not exported; add --fp16")
    if precision == "int8" and not (options.int8 and options.int8_for == "all"):
        raise ParameterError("triton_precision", "int8 is not exported for a server; add --int8 --int8-for all")


def check_out(out: Path) -> None:
    """Raise ParameterError for a name at which no bundle can be written, before minutes of exporting."""
    if not out.name:
        raise ParameterError("out", f"{out} is no name; name the bundle, such as align.dfer")
    if not out.parent.is_dir():
        raise ParameterError("out", f"folder {out.parent} does not exist")
    if out.exists() and not (out / MANIFEST).is_file():
        raise ParameterError("out", f"{out} exists and is not a bundle; name another output")

"""Result files with one row per prediction: CSV and JSONL. They hold complete rows however a run ends."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import DferError
from ..labels import COLUMNS
from ..predictions import Prediction, Step

if TYPE_CHECKING:
    import pandas

    from ..recognizer import Recognizer

JSONL_SCHEMA = 2
"""Incremented when a field of the JSONL changes its name or meaning, but not for new fields."""


_SETTINGS = "smooth", "unsure", "neutral_prior", "max_faces", "min_face", "detect_every"

STDOUT = Path("-")
"""Stands for standard output instead of a file."""


class Lines:
    """A text file that begins with `head` and grows by whole lines, each written at once.

    path: of the file, or `STDOUT`. row: returns the line of a prediction, with its line end.
    Raises DferError, naming the file, when it cannot be created or a line cannot be written (a full disk). Earlier
    lines stay; a partly written line is removed, except from standard output, where others may write, too.
    """

    def __init__(self, path: Path, head: str, row: Callable[[Prediction], str]) -> None:
        self._path, self._size, self._head, self._row = path, 0, 0, row
        if path == STDOUT and sys.stdout is None:
            raise DferError("standard output is closed; name a file in place of -")
        try:
            self._file: IO[bytes] = sys.stdout.buffer if path == STDOUT else path.open("wb", buffering=0)
        except OSError as error:
            raise DferError(f"{path}: cannot be written: {error.strerror or error}") from error
        try:
            self._append(head)
        except BaseException:
            self.discard()
            raise
        self._head = self._size

    def write(self, step: Step) -> None:
        """Add a line for each prediction of a step."""
        for prediction in step.predictions:
            self._append(self._row(prediction))

    def _append(self, line: str) -> None:
        left = memoryview(line.encode("utf-8"))
        whole = self._size + len(left)
        try:
            while left:
                left = left[self._file.write(left) :]
            self._file.flush()
        except BrokenPipeError:
            raise  # the reader has closed the pipe
        except OSError as error:
            if self._path != STDOUT:
                with suppress(OSError):  # a pipe or device has no length
                    self._file.truncate(self._size)
            raise DferError(f"{self._path}: {error.strerror}; the rows before are in it") from error
        self._size = whole

    def close(self) -> None:
        """Close the file. Raises DferError if it was deleted in the meantime, with all its rows."""
        if self._path == STDOUT or self._file.closed:
            return
        links = os.fstat(self._file.fileno()).st_nlink
        self._file.close()
        if not links:
            raise DferError(f"{self._path}: was deleted while it was written; its {self._size} bytes are lost")

    def discard(self) -> None:
        """Close, and delete a plain file unless a row follows its head."""
        if self._path != STDOUT:
            self._file.close()
        if self._path != STDOUT and self._size == self._head and self._path.is_file():
            self._path.unlink()


def columns(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the CSV's columns for these classes.

    >>> ",".join(columns(("joy", "fear")))
    'source,frame,time_s,track,x,y,w,h,label,confidence,entropy,joy,fear,state,quality,file'
    """
    return (*COLUMNS[0], *classes, *COLUMNS[1])


def row_values(one: Prediction) -> tuple[object, ...]:
    """Return a prediction's values of `columns`, not rounded."""
    return (
        *(one.source, one.frame, one.time, one.track_id, *one.box, one.label, one.confidence, one.entropy),
        *one.probabilities.tolist(),
        *(one.state, one.quality, one.file),
    )


def csv_head(classes: tuple[str, ...]) -> str:
    """Return the CSV's first line."""
    return _csv_line(columns(classes))


def csv_row(prediction: Prediction) -> str:
    """Return a prediction's line of the CSV."""
    return _csv_line(
        [
            prediction.source,
            prediction.frame,
            f"{prediction.time:.4f}",
            prediction.track_id,
            *(f"{value:.1f}" for value in prediction.box),
            prediction.label,
            f"{prediction.confidence:.4f}",
            f"{prediction.entropy:.4f}",
            *(f"{value:.4f}" for value in prediction.probabilities),
            prediction.state,
            "" if prediction.quality is None else f"{prediction.quality:.2f}",
            prediction.file,
        ]
    )


def jsonl_row(prediction: Prediction) -> str:
    """Return a prediction's line of the JSONL."""
    shares = zip(prediction.classes, prediction.probabilities, strict=True)
    return _json_line(
        {
            "source": prediction.source,
            "frame": prediction.frame,
            "time_s": round(prediction.time, 4),
            "track": prediction.track_id,
            "box": [round(value, 1) for value in prediction.box],
            "label": prediction.label,
            "confidence": round(prediction.confidence, 4),
            "entropy": round(prediction.entropy, 4),
            "probabilities": {name: round(float(share), 4) for name, share in shares},
            "state": prediction.state,
            "quality": prediction.quality if prediction.quality is None else round(prediction.quality, 2),
            "file": prediction.file or None,
        }
    )


class CsvSink(Lines):
    """One line per prediction of any source.

    For the columns see `columns`: box in pixels of the picture as it is read (with --rotate: rotated), time in media
    seconds, entropy in nats; file, the image's file name, is empty unless the source is a folder or sequence of images.
    """

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        super().__init__(path, csv_head(classes), csv_row)


class JsonlSink(Lines):
    """JSON lines: first an object about the run, then one per prediction of any source, in the order they were made.

    The first line holds "schema": 2 and the fields of `header` (see `run_header`). The others hold

    | key | value |
    |---|---|
    | source | name of the source, one of the header's sources |
    | frame | its index in the source, from 0 |
    | time_s | media time, seconds from the source's first frame |
    | track | number of the face, unique within its source or photograph |
    | box | [x, y, width, height], pixels of the picture as it is read (with --rotate: rotated) |
    | label | the predicted class, or "unsure" if its probability is too low |
    | confidence | the label's probability; if unsure, the highest probability |
    | entropy | of the probabilities, nats |
    | probabilities | {class: probability}, in the header's order; they sum to 1 |
    | state | "warmup" while the first window fills, then "ready"; for photographs "ready" |
    | quality | how well the face can be seen, 0 to 1: worst of score, size, sharpness, pose; poor below 0.25 |
    | file | the image's file name, if the source is a folder or sequence of images; else null |
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        super().__init__(path, _json_line({"schema": JSONL_SCHEMA, **header}), jsonl_row)


def to_dataframe(predictions: Iterable[Prediction]) -> pandas.DataFrame:
    """Return predictions of one recogniser as a pandas DataFrame with the CSV's columns, not rounded.

    Raises DferError if pandas is not installed.

    >>> from dfer.runtime import Recognizer, to_dataframe
    >>> with Recognizer() as recognizer:
    ...     rows = to_dataframe(recognizer.stream("clip.mp4"))
    >>> sorted(set(rows["track"])), list(rows.columns[:4])
    ([1, 2], ['source', 'frame', 'time_s', 'track'])
    """
    if importlib.util.find_spec("pandas") is None:
        raise DferError("pandas is not installed; run: pip install pandas")
    import pandas

    known = list(predictions)
    rows = [row_values(one) for one in known]
    return pandas.DataFrame(rows, columns=columns(known[0].classes if known else ()))


def _csv_line(fields: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(fields)
    return line.getvalue()


def _json_line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"


def run_header(recognizer: Recognizer, sources: Iterable[str], rotate: int | str | None = None) -> dict[str, Any]:
    """Return what the rows of a run starting now depend on, for the first line of its JSONL.

    started: wall-clock time, ISO 8601 in UTC; media times of live sources count from about then.
    bundle: sha256 of its manifest, which lists those of its files. bundle_name: of its folder. model: its method.
    provider: what actually ran the encoder. precision: of its graph. versions: of the software.
    classes: names in the order of the probabilities.
    window_s: seconds behind each prediction. fps: frames sampled per second. sources: names without credentials.
    smooth, unsure, neutral_prior, max_faces, min_face, detect_every, rotate: as requested, null if not; unsure 0 for
    never.
    """
    import cv2
    import numpy
    import onnxruntime

    bundle = recognizer.bundle
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "bundle": bundle.digest,
        "bundle_name": bundle.name,
        "model": bundle.manifest.method,
        "provider": recognizer.provider,
        "precision": recognizer.precision,
        "versions": {
            "dfer-edge": own_version(),
            "python": platform.python_version(),
            "numpy": numpy.__version__,
            "onnxruntime": onnxruntime.__version__,
            "opencv": cv2.__version__,
        },
        "classes": list(recognizer.classes),
        "window_s": recognizer.window,
        "fps": recognizer.fps,
        **{name: getattr(recognizer, name) for name in _SETTINGS},
        "rotate": rotate,
        "sources": list(sources),
    }


def own_version() -> str | None:
    """Return the package version; None in a working copy that is not installed."""
    try:
        return metadata.version("dfer-edge")
    except metadata.PackageNotFoundError:
        return None

"""What several tests use."""

from __future__ import annotations

import csv
import hashlib
import json
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from dfer.runtime.cli.run import main
from dfer.runtime.predictions import Prediction, Step
from dfer.runtime.sources import Frame


@dataclass(frozen=True)
class Pipeline:
    """What `dfer-train` and `dfer-export` wrote for a small model on `weights`, and what they printed."""

    weights: Path
    checkpoint: Path
    bundle: Path
    printed: str


def run_command(*arguments: object, **environment: str) -> Result:
    """`dfer-run` with these arguments."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)


def assert_same_rows(found: Sequence[Prediction], wanted: Sequence[Prediction], atol: float = 1e-5) -> None:
    """The same predictions; probabilities may differ as they do where more faces or fewer are encoded together."""
    assert [(row.frame, row.time, row.track_id, row.box, row.label, row.state) for row in found] == [
        (row.frame, row.time, row.track_id, row.box, row.label, row.state) for row in wanted
    ]
    for row, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(row.probabilities, other.probabilities, atol=atol)


def flat(text: str) -> str:
    """Without the lines' ends."""
    return " ".join(text.split())


@contextmanager
def ctrl_c_as_on_windows() -> Iterator[None]:
    """Ctrl-C in a tenth of a second, which ends no wait: Python hears of it between two. The body must end of it within
    half a minute."""
    heard, late = threading.Event(), []
    main = threading.main_thread().ident or 0

    def press() -> None:
        heard.wait(0.1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # a wait ends where the main thread gets it
        if not heard.wait(30):
            late.append("it waits")
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGUSR1, lambda *_: None)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    pressing = threading.Thread(target=press)
    pressing.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
        assert late == []
    finally:
        heard.set()
        pressing.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGUSR1, before[1])


def rows_of(path: Path) -> list[dict[str, str]]:
    """Of a CSV."""
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def edit_manifest(bundle: Path, **changes: object) -> None:
    """Overwrite fields of a bundle's manifest, as an exporter that writes such values would: with a fitting digest."""
    path = bundle / "manifest.json"
    content = {**json.loads(path.read_text()), **changes}
    content.pop("sha256", None)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**content, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}))


def reseal(bundle: Path, name: str, data: bytes) -> None:
    """Replace a file of a bundle, as an exporter that writes such files would."""
    (bundle / name).write_bytes(data)
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    files[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_manifest(bundle, files=files)


def graph_bytes(
    source: str = "frames",
    kind: int = 2,
    shape: tuple[int | str, ...] = ("n", 16, 16, 3),
    result: int = 8,
    **fields: object,
) -> bytes:
    """An ONNX graph from one input to zeros, float32 [1,result]. kind: of the input's numbers, 2 uint8, 1 float32.

    fields: of `helper.make_graph` or, as model_…, of `helper.make_model`, in place of the usual ones.
    """
    from onnx import TensorProto, helper, numpy_helper

    given = {
        "nodes": [helper.make_node("Identity", ["zeros"], ["result"])],
        "name": "g",
        "inputs": [helper.make_tensor_value_info(source, kind, shape)],
        "outputs": [helper.make_tensor_value_info("result", TensorProto.FLOAT, ["n", result])],
        "initializer": [numpy_helper.from_array(np.zeros((1, result), np.float32), "zeros")],
    } | {field: value for field, value in fields.items() if not field.startswith("model_")}
    model = {field.removeprefix("model_"): value for field, value in fields.items() if field.startswith("model_")}
    model = {"opset_imports": [helper.make_opsetid("", 20)], "ir_version": 10, **model}
    graph = helper.make_graph(**given)
    return bytes(helper.make_model(graph, **model).SerializeToString())


def step_of(*predictions: Prediction) -> Step:
    """A step that made these predictions, on a small black frame."""
    first = predictions[0]
    frame = Frame(np.zeros((8, 8, 3), np.uint8), first.frame, first.time)
    return Step(first.source, frame, predictions, ())


def write_video(path: Path, frames: list[np.ndarray], rate: float) -> Path:
    """An MP4 of RGB frames."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path

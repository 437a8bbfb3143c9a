"""What the tests of the web page share: steps to show, a run that shows them, `dfer-run` itself, and a viewer without a
browser."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.predictions import Prediction, Step, VisibleFace
from dfer.runtime.sources import Frame
from dfer.runtime.timing import StageTimes
from dfer.runtime.web import WebPage

BOX = (40.0, 30.0, 50.0, 60.0)


@dataclass
class State:
    """Stands for a source whose reader is elsewhere."""

    name: str = "a.mp4"
    state: str = "running"
    dropped: int = 0
    error: str | None = None


def make_step(
    moment: float,
    label: str = "happiness",
    source: str = "a.mp4",
    tracks: tuple[int, ...] = (1,),
    size: tuple[int, int] = (160, 120),
) -> Step:
    """A frame at `moment` seconds in which a white square wanders, and faces that show `label` at 88 %."""
    width, height = size
    image = np.full((height, width, 3), (30, 60, 90), np.uint8)
    at = int(40 * moment) % (width - 20)
    image[:20, at : at + 20] = 255
    shares = np.full(len(EXPRESSIONS), 0.02, np.float32)
    shares[EXPRESSIONS.index(label)] = 0.88
    index = round(20 * moment)
    predictions = tuple(
        Prediction(
            source=source,
            frame=index,
            time=moment,
            track_id=track,
            box=BOX,
            probabilities=shares,
            classes=EXPRESSIONS,
            state="ready",
        )
        for track in tracks
    )
    return Step(
        source=source,
        frame=Frame(image, index, moment),
        predictions=predictions,
        faces=tuple(VisibleFace(prediction.track_id, BOX, prediction) for prediction in predictions),
    )


def stages() -> list[StageTimes]:
    return [StageTimes("encode", n=10, mean=5.0, p50=4.5, p90=6.0, p95=6.5, p99=7.0, max=9.0)]


@dataclass
class Run:
    """Shows 20 steps a second, from `start` media seconds on, until left. Use as a context manager."""

    page: WebPage
    states: list[State] = field(default_factory=lambda: [State()])
    start: float = 0.0
    tracks: tuple[int, ...] = (1,)

    def __enter__(self) -> Run:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._play)
        self._thread.start()
        return self

    def _play(self) -> None:
        began = time.monotonic()
        while not self._over.wait(0.05):
            for state in self.states:
                step = make_step(self.start + time.monotonic() - began, "anger", state.name, self.tracks)
                self.page.show(step, stages, self.states)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Program:
    """`dfer-run` with these arguments, as a program of its own. A context manager, which ends it as Ctrl-C does."""

    def __init__(self, *arguments: object) -> None:
        program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        # Whoever is slow hears the end, too.
        program += "import dfer.runtime.web.server as server; server._FAREWELL = 20.0; "
        program += "from dfer.runtime.cli import dfer_run; dfer_run()"
        self._run = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)], stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )
        assert self._run.stderr is not None
        self._said = self._run.stderr

    def address(self, words: str) -> str:
        """The address in the next line that it prints with these words."""
        return next(re.findall(r"http://\S+", line)[0] for line in self._said if words in line)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._run.send_signal(signal.SIGINT)
        rest = self._run.communicate(timeout=240)[1]
        assert self._run.returncode == 0, rest


class Viewer:
    """A viewer that speaks the page's protocol. `round` acknowledges unless told not to."""

    def __init__(self, page: WebPage, **options: Any) -> None:
        from websockets.sync.client import connect

        address = page.url.partition("?")[0].replace("http", "ws", 1) + "watch"
        self._open = ExitStack()
        self.socket = self._open.enter_context(connect(address, max_size=None, **options))
        self.greeting = json.loads(self.socket.recv(timeout=60))

    def round(self, acknowledge: bool = True) -> dict[str, Any]:
        """The next round; each picture has its "image", RGB uint8 [H,W,3]."""
        data = self.socket.recv(timeout=60)
        assert isinstance(data, bytes)
        at = 4 + int.from_bytes(data[:4], "big")
        told: dict[str, Any] = json.loads(data[4:at])
        for source in told["sources"]:
            if source["picture"]:
                jpeg = data[at : at + source["picture"]["bytes"]]
                source["picture"]["image"] = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
                at += len(jpeg)
        assert at == len(data)
        if acknowledge:
            self.acknowledge()
        return told

    def acknowledge(self) -> None:
        self.socket.send("seen")

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

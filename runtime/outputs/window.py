"""The live window, if this OpenCV supports one: the annotated frames of all sources side by side."""

from __future__ import annotations

import math
import os
import re
import sys
from time import monotonic

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ParameterError, first_line
from ..predictions import Step
from .overlay import fit
from .writer import Drawing

_SIZE = (1280, 720)
_NAME = "dfer-run (q ends)"
_PERIOD = 1 / 60  # seconds; faster updates are not visible
_KEYS = {ord("q"), ord("Q"), 27}  # 27: Esc


class Window:
    """The live window. Use as a context manager.

    sources: their names; each has its own tile, in this order. drawing: annotates their frames.
    closed: whether the user has ended the show.
    Raises ParameterError, with advice, if no window can be opened.
    """

    def __init__(self, sources: list[str], drawing: Drawing) -> None:
        self.check()
        self._drawing = drawing
        columns = math.ceil(math.sqrt(len(sources)))
        rows = math.ceil(len(sources) / columns)
        self._tile = _SIZE[0] // columns, _SIZE[1] // rows
        self._canvas = np.zeros((rows * self._tile[1], columns * self._tile[0], 3), np.uint8)
        self._places = {source: divmod(number, columns) for number, source in enumerate(sources)}
        self._shown = -math.inf
        self.closed = False
        try:
            cv2.namedWindow(_NAME, cv2.WINDOW_NORMAL)
            cv2.resizeWindow(_NAME, *_SIZE)
        except cv2.error as error:
            raise ParameterError("show", f"no window opens here ({first_line(error)}); use the web page") from error

    @staticmethod
    def check() -> None:
        """Raise ParameterError if there can be no window, before any work is done.

        Qt ends the whole program if it finds no screen, so this must be checked first.
        """
        found = re.search(r"^\s*GUI:\s*(\S+)", cv2.getBuildInformation(), re.MULTILINE)
        if found is None or found.group(1).upper() == "NONE":
            raise ParameterError(
                "show",
                "this OpenCV has no windows; run: pip uninstall -y opencv-python-headless && "
                "pip install opencv-python; or use the web page, which needs none",
            )
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ParameterError("show", "there is no screen here (DISPLAY is not set); use the web page")

    def write(self, step: Step) -> None:
        """Show a step, annotated."""
        self.show(step.source, self._drawing.of(step))

    def show(self, source: str, picture: NDArray[np.uint8]) -> bool:
        """Show the image, RGB [H,W,3], in the source's tile; return False if the user has ended the show, by q, Esc or
        by closing the window."""
        row, column = self._places[source]
        width, height = self._tile
        tile = self._canvas[row * height : (row + 1) * height, column * width : (column + 1) * width]
        tile[:] = fit(picture, width, height)[..., ::-1]
        if monotonic() - self._shown >= _PERIOD:
            self._shown = monotonic()
            cv2.imshow(_NAME, self._canvas)
            key = cv2.waitKey(1) & 0xFF
            if key in _KEYS or cv2.getWindowProperty(_NAME, cv2.WND_PROP_VISIBLE) < 1:
                self.closed = True
        return not self.closed

    def close(self) -> None:
        cv2.destroyAllWindows()

    discard = close

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

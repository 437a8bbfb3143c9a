"""The live window: tiles, keys, and what is said where there is none. Only OpenCV's screen is a stand-in."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dfer.runtime.errors import DferError
from dfer.runtime.outputs import window
from dfer.runtime.outputs.window import Window
from dfer.runtime.outputs.writer import Drawing
from dfer.runtime.timing import Stopwatch

DRAWING = Drawing(Stopwatch())


class Screen:
    """What cv2's windows would show, and which key is pressed next."""

    def __init__(self) -> None:
        self.picture = np.zeros((0, 0, 3), np.uint8)
        self.key, self.visible, self.destroyed = -1, 1.0, False

    def imshow(self, name: str, picture: np.ndarray) -> None:
        self.picture = picture.copy()

    def destroy(self) -> None:
        self.destroyed = True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(window, "_PERIOD", 0)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "resizeWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", screen.imshow)
    monkeypatch.setattr(cv2, "waitKey", lambda _: screen.key)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: screen.visible)
    monkeypatch.setattr(cv2, "destroyAllWindows", screen.destroy)
    return screen


def test_every_source_has_its_tile_and_keeps_its_shape(screen: Screen) -> None:
    colours = {"a": (250, 0, 0), "b": (0, 250, 0), "c": (0, 0, 250)}
    shapes = {"a": (360, 640), "b": (1920, 1080), "c": (20, 30)}
    with Window(list(colours), DRAWING) as window:
        for source, colour in colours.items():
            assert window.show(source, np.full((*shapes[source], 3), colour, np.uint8))
    height, width = screen.picture.shape[:2]
    for place, source in (((0.25, 0.25), "a"), ((0.25, 0.75), "b"), ((0.75, 0.25), "c")):
        assert tuple(screen.picture[int(height * place[0]), int(width * place[1])][::-1]) == colours[source]
    upright = (screen.picture[: height // 2, width // 2 :, 1] > 200).sum(axis=1).max()
    assert upright == pytest.approx(height / 2 * 1080 / 1920, abs=2)
    assert screen.destroyed


@pytest.mark.parametrize("key", [ord("q"), ord("Q"), 27, 0x100000 + 27])
def test_q_and_esc_end_the_show(screen: Screen, key: int) -> None:
    window = Window(["a"], DRAWING)
    picture = np.zeros((90, 160, 3), np.uint8)
    assert window.show("a", picture)
    screen.key = key
    assert not window.show("a", picture)
    assert window.closed


def test_closing_the_window_ends_the_show(screen: Screen) -> None:
    window = Window(["a"], DRAWING)
    screen.visible = 0.0
    assert not window.show("a", np.zeros((90, 160, 3), np.uint8))


def test_an_opencv_without_windows_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    with pytest.raises(DferError, match=r"pip install opencv-python; or use the web page"):
        Window(["a"], DRAWING)


def test_a_machine_without_screen_is_an_error(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(DferError, match="no screen here"):
        Window(["a"], DRAWING)


def test_a_window_that_does_not_open_is_an_error_of_one_line(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise cv2.error("cannot open display\nmore")

    monkeypatch.setattr(cv2, "namedWindow", fail)
    with pytest.raises(DferError, match=r"cannot open display\)"):
        Window(["a"], DRAWING)

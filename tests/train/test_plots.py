"""The plot of the confusion matrix, where names of classes are not in ASCII."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dfer.train.metrics import Scores
from dfer.train.plots import plot_confusion


def drawn(classes: tuple[str, ...], path: Path, title: str = "m.pt") -> tuple[NDArray[np.uint8], list[str]]:
    told = list[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of matplotlib, which would reach the terminal as they are
        plot_confusion(Scores(classes, np.eye(len(classes), dtype=np.int64)), title, path, told.append)
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture.astype(np.uint8), told


def test_letters_that_no_font_has_are_question_marks_and_told_in_one_line(tmp_path: Path) -> None:
    picture, told = drawn(("ruhig", "w\U00012000t", "\U00012001?"), tmp_path / "a.png", "m\U00012000.pt")
    names = "w\U00012000t, \U00012001?, m\U00012000.pt"
    assert told == [f"{tmp_path / 'a.png'} has ? for letters of {names}, since no installed font has them"]
    assert (picture == drawn(("ruhig", "w?t", "??"), tmp_path / "b.png", "m?.pt")[0]).all()


def test_dollars_are_no_mathematics(tmp_path: Path) -> None:
    """Which would draw them otherwise, and fail at this."""
    assert not drawn(("wütend", "calm"), tmp_path / "a.png", "m$x^$.pt")[1]

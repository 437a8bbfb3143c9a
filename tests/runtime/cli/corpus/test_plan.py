"""What a corpus is made of: the videos that places name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dfer.runtime.cli.corpus.plan import find_videos
from dfer.runtime.errors import DferError


def test_a_pattern_of_pictures_is_told_from_a_missing_file(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(DferError, match=r"\*\.jpg: matches images, and this command reads videos"):
        find_videos([tmp_path / "*.jpg"])
    with pytest.raises(DferError, match=r"c\.jpg: no such file"):
        find_videos([tmp_path / "c.jpg"])


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "locked").mkdir(mode=0o000)
    with pytest.raises(DferError, match="locked: this folder cannot be read"):
        find_videos([tmp_path])

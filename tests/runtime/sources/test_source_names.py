"""What names a source, and what names none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dfer.runtime import DferError, Recognizer, RunOptions, run
from dfer.runtime.sources import expand, open_source, open_sources
from helpers import run_command


@pytest.mark.parametrize("nothing", ["", True, None, 0.5, ["clip.mp4"]])
def test_what_names_nothing_is_refused(nothing: object) -> None:
    for opening in (open_source, lambda spec: open_sources([spec]), lambda spec: expand([spec])):
        with pytest.raises(DferError, match="names no source; name a video, a folder") as error:
            opening(nothing)  # type: ignore[no-untyped-call, arg-type]
        assert str(error.value).startswith(repr(nothing)) and "\n" not in str(error.value)


def test_an_empty_name_does_not_read_the_current_folder(
    face_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip.mp4").write_bytes(face_video.read_bytes())
    monkeypatch.chdir(tmp_path)
    told = run_command("", "--csv", "x.csv", "--provider", "cpu")
    assert told.exit_code == 1 and told.stderr.startswith("Error: '' names no source")
    with Recognizer(provider="cpu") as recognizer, pytest.raises(DferError, match="'' names no source"):
        next(recognizer.stream(""))
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_one_source_needs_no_list(face_video: Path) -> None:
    for source in (str(face_video), face_video):
        assert list(run(RunOptions(source, provider="cpu")).summary.tracks) == [(str(face_video), 1)]


def test_a_number_of_numpys_is_a_camera() -> None:
    assert [type(one) for one in expand(np.arange(2))] == [int, int]  # type: ignore[arg-type]
    with pytest.raises(DferError, match=r"^camera 63 does not open"):
        open_source(np.int64(63))  # type: ignore[arg-type]

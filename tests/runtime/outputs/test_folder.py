"""Names of results: one for each source, the same each time, and fit for any file system."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dfer.runtime.outputs.folder import OutputFolder


def names_of(*sources: str) -> list[str]:
    return [one.csv.stem for one in OutputFolder(Path("out")).paths(sources) if one.csv is not None]


def test_results_are_called_after_their_sources() -> None:
    assert names_of("a/clip.mp4", "camera 0", "rtsp://host/gate", "frames/") == ["clip", "camera 0", "gate", "frames"]


def test_names_that_files_can_have_stay_as_they_are() -> None:
    assert names_of("✓.mp4", "😀.mp4", "a+b (1), ½.mp4", "日本語.mp4") == ["✓", "😀", "a+b (1), ½", "日本語"]
    assert names_of('a<b>:"c|d?*e\n.mp4') == ["a_b_c_d_e_.mp4"]  # with "?" it may be an address, which has no suffix


def test_later_ones_of_a_name_are_numbered() -> None:
    assert names_of("a/x.mp4", "b/x.mov", "x-2.mp4", "c/X.mp4") == ["x", "x-2", "x-2-2", "X-3"]


@given(st.lists(st.text(max_size=30), max_size=8))
def test_any_names_give_files_of_the_folder_and_no_two_the_same(sources: list[str]) -> None:
    paths = [path for one in OutputFolder(Path("out")).paths(sources) for path in one.wanted()]
    assert len({str(path).lower() for path in paths}) == 3 * len(sources)
    assert all(path.parent == Path("out") and not path.name.startswith(".") for path in paths)

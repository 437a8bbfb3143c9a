"""Labelling of unusual videos: the whole of them, and with the remarks that the reading of the uncut video gives."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from test_label import SETTINGS, lines_of, rows_in, rows_of_run, same

from dfer.runtime.cli.corpus.label import LabelOptions, label


@pytest.mark.parametrize(("kind", "codec"), [("avi", "mpeg4"), ("flv", "flv1")])
def test_a_long_video_that_cannot_be_rewound_is_read_whole(
    face_frames: list[np.ndarray], tmp_path: Path, kind: str, codec: str
) -> None:
    path = tmp_path / f"long.{kind}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for frame in face_frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    label(LabelOptions([path], tmp_path / "out", SETTINGS, workers=1, longest=1.0))
    same(rows_in(tmp_path / "out"), rows_of_run([path]))
    assert lines_of(tmp_path / "out")[0]["frames"] == "72"

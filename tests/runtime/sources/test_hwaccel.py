"""A device that decodes video gives the same pictures, or an error; never the CPU in its place."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from av.codec.hwaccel import hwdevices_available

from dfer.runtime.errors import DferError, ParameterError
from dfer.runtime.sources import open_source, open_sources


@pytest.mark.parametrize("device", hwdevices_available())
def test_pictures_of_a_device_are_the_cpus_or_it_says_what_it_lacks(device: str, face_video: Path) -> None:
    with open_source(face_video) as source:
        expected = [frame.image for frame in source]
    try:
        with open_source(face_video, hwaccel=device) as source:
            found = [frame.image for frame in source]
    except ParameterError as error:
        assert str(error).startswith(f"hwaccel: {face_video}: the device does not ")
    else:
        assert len(found) == len(expected)
        assert np.abs(np.int16(found) - np.int16(expected)).mean() < 2


def test_a_device_that_ffmpeg_does_not_know_is_refused(face_video: Path) -> None:
    with pytest.raises(ParameterError, match="does not know 'abacus'; it knows "):
        open_source(face_video, hwaccel="abacus")
    with pytest.raises(ParameterError, match="abacus"):
        open_sources([face_video, face_video], hwaccel="abacus")


@pytest.mark.skipif(not hwdevices_available(), reason="this FFmpeg knows no device")
def test_what_is_no_video_file_is_refused(tmp_path: Path) -> None:
    (device, *_) = hwdevices_available()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ParameterError, match=r"a.png is neither a video file nor a recording"):
        open_source(tmp_path / "a.png", hwaccel=device)
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(DferError, match="not a video that FFmpeg can read"):
        open_source(tmp_path / "a.mp4", hwaccel=device)


@pytest.mark.parametrize("device", hwdevices_available())
def test_a_recording_behind_http_tells_what_the_device_lacks_and_no_password(device: str, face_video: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(face_video.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            address = f"http://user:secret@127.0.0.1:{server.server_port}"
            with pytest.raises(DferError, match="does not open; ") as told:
                open_source(f"{address}/none.mp4", hwaccel=device)
            assert "secret" not in str(told.value)
            try:
                open_source(f"{address}/{face_video.name}", hwaccel=device).close()
            except ParameterError as error:
                assert "face.mp4: the device does not " in str(error)
                assert "secret" not in str(error)
        finally:
            server.shutdown()

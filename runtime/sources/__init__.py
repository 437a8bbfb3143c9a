"""Sources of frames: cameras, video files, images, network streams, GStreamer pipelines; one or several at once.

Recordings are read by PyAV; cameras, streams and pipelines by OpenCV.

Files deliver every frame and wait; live sources deliver the newest frame and drop the others. Times are media times: a
file's presentation time stamps, counted from its first frame; for live sources, the time of arrival.

    with SourceReaders(open_sources(["a.mp4", "rtsp://host/stream", 0])) as readers:
        for batch in readers.batches():
            for reader, frame in batch: ...
"""

from .addresses import without_credentials
from .files import VideoFile
from .frames import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Frame,
    Source,
    Warn,
    check_image,
    folders_below,
    natural_order,
    readable,
)
from .images import Animation, ImageFolder, is_photo, pictures_below, read_image
from .live import LiveSource
from .opening import IMAGE_RATE, SourceSpec, expand, files_of, open_source, open_sources
from .readers import SourceReader, SourceReaders, State, tell_apart
from .rotation import RotatedSource, Turn

__all__ = [
    "IMAGE_RATE",
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Animation",
    "Frame",
    "ImageFolder",
    "LiveSource",
    "RotatedSource",
    "Source",
    "SourceReader",
    "SourceReaders",
    "SourceSpec",
    "State",
    "Turn",
    "VideoFile",
    "Warn",
    "check_image",
    "expand",
    "files_of",
    "folders_below",
    "is_photo",
    "natural_order",
    "open_source",
    "open_sources",
    "pictures_below",
    "read_image",
    "readable",
    "tell_apart",
    "without_credentials",
]

"""What a run reads, how, and what it writes: the options of `dfer-run`, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ParameterError, check_least, check_unset
from ..outputs.timeline import Script
from ..pipeline.class_map import ClassMap
from ..pipeline.feature_window import check_sampling
from ..pipeline.smoothing import check_smoothing
from ..sources import IMAGE_SUFFIXES, SourceSpec, files_of


@dataclass(frozen=True)
class RunOptions:
    """What to read, how, and what to write; each field but script is an option of `dfer-run` (video: --save-video).

    sources: camera numbers, files, folders, patterns, URLs (see `open_source`); one, or several.
    bundle, provider, precision, threads, window, fps, max_faces, min_face, detect_every, smooth, classes,
    neutral_prior, unsure: as for `Recognizer`; threads None leaves some for the readers of live sources.
    rotate: degrees clockwise by which to rotate images (90, 180, 270), "auto" to make faces upright, None for none.
    csv, jsonl, video, plot: files to write, None for none; for several sources, videos are numbered. Rows can go to
    standard output, "-". out_dir: folder for a table, a video and a plot of each source, or, for photographs, a table
    and annotated images.
    jobs: files read at once, None for as many as there are cores, or half as many with out_dir.
    script: what the faces of a single source really show, drawn below the plot (see `outputs.timeline.Script`).
    boxes: CSV of face boxes that replaces the detector (`faces.boxes.read_boxes`); with rotate, in pixels of the
    rotated images, as the boxes of all results are.
    show: open a window with the annotated frames. web: port of the live page, None for none; host, token: of that page,
    which stays until Ctrl-C if files were read. metrics: port of this machine for Prometheus metrics, None for none.
    photos: whether images of a folder or pattern are photographs, None to decide by their names and sizes.
    hwaccel: device that decodes video files, None for the CPU (see `open_source`).
    realtime: play files in real time. size, camera_fps: requested from cameras. reconnect_tries: for live sources.
    """

    sources: Sequence[SourceSpec] | SourceSpec
    bundle: str | Path | None = None
    csv: str | Path | None = None
    jsonl: str | Path | None = None
    video: str | Path | None = None
    plot: str | Path | None = None
    out_dir: str | Path | None = None
    jobs: int | None = None
    script: Script = ()
    show: bool = False
    web: int | None = None
    host: str = "127.0.0.1"
    token: str | None = None
    metrics: int | None = None
    window: float | None = None
    fps: float | None = None
    smooth: float | None = None
    classes: str | Path | Mapping[str, str | None] | None = None
    neutral_prior: float | None = None
    unsure: float | None = None
    rotate: int | Literal["auto"] | None = None
    max_faces: int | None = None
    min_face: int = 40
    detect_every: int | None = None
    boxes: str | Path | None = None
    photos: bool | None = None
    hwaccel: str | None = None
    realtime: bool = False
    size: tuple[int, int] | None = None
    camera_fps: float | None = None
    reconnect_tries: int = 5
    provider: str = "auto"
    precision: str = "auto"
    threads: int | None = None


def check_options(options: RunOptions, specs: Sequence[SourceSpec]) -> None:
    """Raise DferError for invalid settings, as far as they can be checked before a source or model is open.

    specs: the sources, expanded.
    """
    check_sampling(options.window, options.fps)
    check_smoothing(options.smooth, options.unsure, options.neutral_prior)
    check_least(vars(options))
    if options.realtime and options.jobs:
        raise ParameterError("jobs", "files that play as if live are all read at once; leave out --jobs or --realtime")
    if isinstance(options.classes, str | Path):
        ClassMap.read_names(Path(options.classes))
    if options.show:
        from ..outputs.window import Window

        Window.check()
    if options.web is not None:
        from ..web import WebPage

        WebPage.check(options.web, options.host, options.token)
    if options.metrics is not None:
        from ..web.metrics import MetricsEndpoint

        if options.metrics and options.metrics == options.web:
            raise ParameterError("metrics", f"port {options.metrics} is the live page's; name another")
        MetricsEndpoint.check(options.metrics)
    _check_idle(options, specs)


def _check_idle(options: RunOptions, specs: Sequence[SourceSpec]) -> None:
    """Raise ParameterError for settings that would have no effect."""
    if options.web is None:
        check_unset(options, "is for the live page; name its port (web), or leave it out", "host", "token")
    if options.boxes is not None:
        check_unset(
            options, "is for the detector, which boxes replace; leave one of them out", "min_face", "detect_every"
        )
    if options.photos and not any(file.suffix.lower() in IMAGE_SUFFIXES for spec in specs for file in files_of(spec)):
        check_unset(options, "is for images, and no source is one; leave it out", "photos")

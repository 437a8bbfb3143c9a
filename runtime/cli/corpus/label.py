"""One run of `dfer-label`, from options to result."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...bundle import Bundle
from ...engines import present_providers
from ...errors import ParameterError, check_least, check_unset
from ...machine import default_workers, physical_cores
from ...pipeline.feature_window import check_sampling
from .folder import CorpusFolder
from .plan import LONGEST, Unit, find_videos, make_plan
from .pool import run_locally
from .settings import Job, LabelSettings

_SHORTEST_LEAD = 2.0
"""Minimum seconds read before a cut: with them, hardly any label differs from the uncut video's."""


@dataclass(frozen=True)
class LabelOptions:
    """What to label, how, where, and by whom; each field but settings and longest is an option of `dfer-label`.

    videos: files, patterns and folders. out: the folder of results. settings: how videos are read.
    workers: processes on this machine, None for one per core. cluster: HOST:PORT of a Ray cluster to use instead; cpus,
    gpus: of each of its tasks. shard: (k, n) for the k-th of n parts of the work, from 1; None for all of it.
    retry_failed: repeat the units in which a video could not be read.
    longest: seconds of video in a unit.
    """

    videos: Sequence[str | Path]
    out: Path
    settings: LabelSettings
    workers: int | None = None
    cluster: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    shard: tuple[int, int] | None = None
    retry_failed: bool = False
    longest: float = LONGEST


@dataclass(frozen=True)
class LabelResult:
    """videos: number in the whole plan. failed: names of (this shard's) units with videos that could not be read. left:
    units not done yet, which are left to other shards."""

    videos: int
    failed: tuple[str, ...]
    left: int


def label(
    options: LabelOptions,
    planning: Callable[[int, int], object] = lambda done, total: None,
    progress: Callable[[float, float], object] = lambda done, total: None,
    warn: Callable[[str], object] = lambda _: None,
) -> LabelResult:
    """Label all videos, skipping finished units, so that the same call resumes after an interruption.

    planning: called with the numbers of videos examined and in total. progress: with the seconds done and in total.
    warn: with one line about a problem of the model that is not an error.
    Raises DferError for invalid options, and if `out` belongs to a different run.
    """
    settings, shard = options.settings, options.shard
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise ParameterError("shard", f"{shard[0]}/{shard[1]} is none; 1/4 to 4/4 are the four of four")
    if shard is not None and options.cluster is not None:
        raise ParameterError("shard", "a Ray cluster divides the work itself; leave one of the two out")
    if options.cluster is None:
        check_unset(options, "is for a Ray cluster; name one (cluster), or leave it out", "cpus", "gpus")
    else:
        check_unset(options, "is for this machine, not a cluster; leave it out", "workers")
    check_least(vars(options) | vars(settings))
    bundle = Bundle.open(settings.bundle)
    window = bundle.manifest.seconds if settings.window is None else settings.window
    check_sampling(window, bundle.manifest.fps if settings.fps is None else settings.fps)
    videos = find_videos(options.videos)
    lead = max(_SHORTEST_LEAD, window)
    folder = CorpusFolder(options.out)
    settings = _resolve(options, folder, bundle, warn)

    def plan() -> list[Unit]:
        looked = 0

        def count() -> None:
            nonlocal looked
            looked += 1
            planning(looked, len(videos))

        return make_plan(videos, lead, count, options.longest)

    sizes = "\n".join(f"{video} {video.stat().st_size}" for video in videos)
    run = {
        "bundle": bundle.digest,
        "bundle_name": bundle.name,
        "classes": list(bundle.manifest.classes),
        **{name: value for name, value in vars(settings).items() if name not in ("bundle", "threads")},
        "longest_s": options.longest,
        "videos": hashlib.sha256(sizes.encode(errors="surrogateescape")).hexdigest(),
    }
    units = folder.begin(run, plan)
    own = units if shard is None else units[shard[0] - 1 :: shard[1]]
    names = {unit.name for unit in own}
    if options.retry_failed:
        for name in folder.failed() & names:
            folder.forget(name)
    done = folder.done()
    waiting = [unit for unit in own if unit.name not in done]
    total = sum(unit.seconds for unit in own)
    finished = total - sum(unit.seconds for unit in waiting)
    progress(finished, total)
    for unit, _ in _run(waiting, Job(settings, options.out.absolute(), uuid.uuid4().hex, run), options):
        finished += unit.seconds
        progress(finished, total)
    left = len({unit.name for unit in units} - folder.done())
    if not left:
        folder.finish()
    return LabelResult(len(videos), tuple(sorted(folder.failed() & names)), left)


def _resolve(
    options: LabelOptions, folder: CorpusFolder, bundle: Bundle, warn: Callable[[str], object]
) -> LabelSettings:
    """Return the settings with one provider and precision for all workers: those of the folder if they run here."""
    cpus = 1 if options.cluster is None else max(1, int(options.cpus))
    settings, known = replace(options.settings, threads=options.settings.threads or cpus), folder.read_run() or {}
    chosen = known.get("provider") if known.get("bundle") == bundle.digest else None
    if settings.provider == "auto" and chosen and (options.cluster or chosen in present_providers()):
        settings = replace(settings, provider=chosen)
    if options.cluster is None:
        return settings.resolved(warn)
    if settings.precision == "auto" and settings.provider == chosen:
        settings = replace(settings, precision=known["precision"])
    if "auto" not in (settings.provider, settings.precision):
        return settings
    from .cluster import resolve_on_cluster

    settings, warnings = resolve_on_cluster(settings, options.cluster, options.cpus, options.gpus)
    for warning in warnings:
        warn(warning)
    return settings


def _run(units: list[Unit], job: Job, options: LabelOptions) -> Iterator[tuple[Unit, int]]:
    if not units:
        return iter(())
    if options.cluster is None:
        return run_locally(units, job, options.workers or default_workers(physical_cores()))
    from .cluster import run_on_cluster

    return run_on_cluster(units, job, options.cluster, options.cpus, options.gpus)

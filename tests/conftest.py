"""Fixtures shared by the tests: a tiny model taken through the whole path once, drawn videos, real data if at hand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, settings

from dfer.runtime.bundle import DEMO
from dfer.runtime.faces.alignment import align
from dfer.runtime.faces.detection import FaceDetector
from dfer.runtime.procedural import Identity, draw_background, draw_face
from dfer.runtime.procedural.demo import film_demo
from dfer.runtime.procedural.expressions import ExpressionCurve
from helpers import Pipeline, write_video

if TYPE_CHECKING:
    from dfer.export.graphs import TracedMethod
    from dfer.train.methods.align_dfer import AlignDfer

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")  # it may stand still for seconds at any time

PROCESSES = 2
SHARED = Path(__file__).parents[2] / "shared" / "data"

if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each of the processes that share the tests
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Two processes, where pytest-xdist is there and nothing else was asked for (-n 0: one, as debuggers need)."""
    asked = getattr(config.option, "numprocesses", 0) is not None or config.option.usepdb
    if not asked and "PYTEST_XDIST_WORKER" not in os.environ:  # a worker has none of its own
        config.option.numprocesses = PROCESSES
        config.option.loadscopereorder = False  # see below


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What trains and exports comes first: it takes longest, and no process should be left alone with it at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(("tests/export/", "tests/train/", "tests/calibration/")))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """The tests of a file go to one process, and so do all files that share what takes long to make.

    Mutants need nothing that is made once, and take minutes: each kind goes where there is time.
    """
    from xdist.scheduler import LoadScopeScheduling

    class FileScheduling(LoadScopeScheduling):  # type: ignore[misc]  # untyped
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file.endswith("test_mutants.py"):
                return nodeid
            text = (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
            return next((one for one in ("pipeline: Pipeline", "traced: TracedMethod") if one in text), file)

    return FileScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered between runs goes to a folder of its own, here and in what tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user id that the system does not know, as containers are often run with."""
    pwd = pytest.importorskip("pwd")
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test alone, where it can see what is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dfer-edge"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real videos and labelled faces, kept beside the project where there are any."""
    if not SHARED.is_dir():
        pytest.skip("no real data beside the project (../shared/data)")
    return SHARED


@pytest.fixture(scope="session")
def drawn_people() -> Iterator[Any]:
    """Procedural people are drawn once, which takes a second each; after `cache_clear()`, again."""
    from dfer.train.data import procedural

    with pytest.MonkeyPatch.context() as patch:
        remembered = lru_cache(64)(procedural._perform)
        patch.setattr(procedural, "_perform", remembered)
        yield remembered


@pytest.fixture(scope="session")
def people(drawn_people: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two procedural people that `pipeline` never saw, as `dfer-prepare` leaves clips: CLASS/PERSON."""
    from dfer.train.data.procedural import HELD_OUT, ProceduralClips

    root = tmp_path_factory.mktemp("people")
    drawn = ProceduralClips([HELD_OUT, HELD_OUT + 1])
    for index, label in enumerate(drawn.labels):
        clip = root / drawn.classes[label] / str(index // len(drawn.classes))
        clip.mkdir(parents=True)
        for number, frame in enumerate(drawn.frames(index)):
            cv2.imwrite(str(clip / f"{number:02}.png"), frame[..., ::-1])
    return root


@pytest.fixture(scope="session")
def pipeline(drawn_people: Any, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A small Align-DFER on the demo model's tower, trained and exported through the commands, on procedural people."""
    from dfer.export.command import main as export
    from dfer.train.cli.train import main as train
    from dfer.train.models.clip import load_clip, save_weights

    folder = tmp_path_factory.mktemp("pipeline")
    weights, checkpoint, bundle = folder / "faces.pt", folder / "tiny.pt", folder / "tiny.dfer"
    save_weights(load_clip("dfer-small", "demo"), weights)  # words that "demo" lacks are random at every load
    small = ["--tokens", "4", "--depth", "1,1,1", "--views", "0", "--epochs", "6,6,6", "--batch", "32"]
    few = ["--identities", "10", "--validation", "0.5", "--workers", "1"]  # enough held back to calibrate on
    printed = ""
    for command, arguments in (
        (train, [checkpoint, "--clip", "dfer-small", "--pretrained", weights, *small, *few]),
        (export, ["--ckpt", checkpoint]),
    ):
        result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
        printed += result.output
        assert result.exit_code == 0, result.output
    return Pipeline(weights, checkpoint, bundle, printed)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may damage."""
    return Path(shutil.copytree(DEMO, tmp_path / "copy.dfer", ignore=shutil.ignore_patterns("engines")))


@pytest.fixture(scope="session")
def vit() -> AlignDfer:
    """An Align-DFER on a small random ViT whose LayerNorms have outlier channels. Leave it as it is."""
    from networks import add_outliers, small_vit

    method = small_vit()
    add_outliers(method)
    return method


@pytest.fixture(scope="session")
def traced(vit: AlignDfer) -> TracedMethod:
    """The graphs of `vit`."""
    from dfer.export.graphs import trace_method

    return trace_method(vit)


@pytest.fixture(scope="session")
def face_frames() -> list[np.ndarray]:
    """Three seconds of one smiling procedural face, 24 frames a second, RGB uint8 [240,320,3]."""
    rng = np.random.default_rng(3)
    identity = Identity.sample(rng)
    curve = ExpressionCurve.sample("happiness", 3.0, rng)
    scene = draw_background(identity, 240, 320)
    frames = []
    for index in range(72):
        frame = scene.copy()
        draw_face(frame, identity, *curve.at(index / 24), (150 + index / 3, 130), 120)
        frames.append(frame)
    return frames


@pytest.fixture(scope="session")
def face_video(face_frames: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`face_frames` as an MP4."""
    return write_video(tmp_path_factory.mktemp("video") / "face.mp4", face_frames, 24)


@pytest.fixture(scope="session")
def demo_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first four seconds of the demo's clip, of 96 frames: the second person has come."""
    path = tmp_path_factory.mktemp("demo") / "clip.mp4"
    film_demo(path, seconds=4)
    return path


@pytest.fixture(scope="session")
def face_photos() -> list[np.ndarray]:
    """Nine different procedural people, RGB uint8 [200,200,3]."""
    photos = []
    for number in range(9):
        identity = Identity.sample(np.random.default_rng([number, 5]))
        photo = draw_background(identity, 200, 200)
        units, pose = ExpressionCurve.sample("happiness", 2.0, np.random.default_rng(number)).at(1.0)
        draw_face(photo, identity, units, pose, (100, 104), 110)
        photos.append(photo)
    return photos


@pytest.fixture(scope="session")
def face_crops(face_photos: list[np.ndarray]) -> list[np.ndarray]:
    """Their faces, aligned, RGB uint8 [96,96,3]."""
    detector = FaceDetector()
    return [align(photo, detector.detect(photo)[0].landmarks, 96) for photo in face_photos]

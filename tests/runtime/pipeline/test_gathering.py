"""Faces of several frames of a file that are read at once: the same rows as one by one, sooner."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dfer.runtime import DferError, Frame, Recognizer, Step, open_source
from dfer.runtime.engines import LARGEST_BATCH
from dfer.runtime.faces.boxes import read_boxes
from dfer.runtime.pipeline import gathering
from dfer.runtime.pipeline.prefetching import prefetch
from dfer.runtime.pipeline.scheduler import Scheduler
from dfer.runtime.pipeline.stream import FollowedFrame, StreamState
from dfer.runtime.sources import Source, SourceReaders
from helpers import assert_same_rows, write_video


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing waits for the readers' threads, though this machine stands still for seconds."""
    monkeypatch.setattr("dfer.runtime.sources.readers._PATIENCE", 30.0)


class Frames(Source):
    """Frames of one's own, of which the last may be followed by an error."""

    def __init__(self, frames: Sequence[Frame], live: bool = False, error: str = "") -> None:
        self.name, self.rate, self.count, self.live = "frames", 24.0, len(frames), live
        self._frames, self._error = frames, error

    def __iter__(self) -> Iterator[Frame]:
        yield from self._frames
        if self._error:
            raise DferError(self._error)


class Silent(Frames):
    """One frame, and then none until it is closed."""

    def __init__(self) -> None:
        super().__init__([Frame(np.zeros((8, 8, 3), np.uint8), 0, 0.0)])
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        yield from super().__iter__()
        self.closed.wait(20)

    def close(self) -> None:
        self.closed.set()


@pytest.fixture(scope="module")
def recognizer() -> Iterator[Recognizer]:
    with Recognizer(provider="cpu", precision="fp32") as opened:
        yield opened


@pytest.fixture
def batches(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that are encoded."""
    seen: list[int] = []
    encode = recognizer.encode

    def counted(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.append(len(crops))
        return encode(crops)

    monkeypatch.setattr(recognizer, "encode", counted)
    return seen


def film(face_frames: list[np.ndarray], people: int = 1, **cuts: int) -> list[Frame]:
    """Two seconds and a half, in which somebody else takes over at `cut`."""
    wide = [np.hstack([picture if k % 2 else picture[:, ::-1] for k in range(people)]) for picture in face_frames]
    return [Frame(wide[index % 72], index, index / 24, cut=index == cuts.get("cut")) for index in range(60)]


def read(recognizer: Recognizer, source: Source, at_once: int) -> list[Step]:
    with SourceReaders([source]) as readers:
        return list(recognizer.follow(readers, at_once=at_once))


class Unconverted:
    """A picture as a film's decoder leaves it, which counts how many of its kind are converted."""

    converted = 0

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self._image = image
        self.shape = (image.shape[0], image.shape[1], 3)

    def convert(self) -> NDArray[np.uint8]:
        type(self).converted += 1
        return self._image


def test_pictures_that_nobody_looks_at_are_not_converted(recognizer: Recognizer, face_frames: list[np.ndarray]) -> None:
    ready = film(face_frames)
    frames = [Frame(Unconverted(frame.image), frame.index, frame.time) for frame in ready]
    steps = read(recognizer, Frames(frames), LARGEST_BATCH)
    assert len(steps) == 60
    assert sum(len(step.predictions) for step in steps) == 20  # samples: 2.5 s, 8 in each
    assert 20 <= Unconverted.converted < 30
    for step, other in zip(steps, read(recognizer, Frames(ready), LARGEST_BATCH), strict=True):
        assert_same_rows(step.predictions, other.predictions)
    shown = [step.frame.image for step in steps]  # as an output asks for them
    assert all(image is frame.image for image, frame in zip(shown, ready, strict=True))
    assert Unconverted.converted == 60


@pytest.mark.parametrize(("people", "cut"), [(1, None), (2, 31), (3, 7)])
def test_many_frames_at_once_give_what_each_gives_alone(
    recognizer: Recognizer, face_frames: list[np.ndarray], batches: list[int], people: int, cut: int | None
) -> None:
    frames = film(face_frames, people, **({} if cut is None else {"cut": cut}))
    alone = read(recognizer, Frames(frames), 1)
    assert set(batches) == {people}
    batches.clear()
    together = read(recognizer, Frames(frames), LARGEST_BATCH)
    assert batches[:2] == [people, LARGEST_BATCH] and sum(batches) == sum(len(step.predictions) for step in alone)
    assert len(alone) == len(together) == 60
    for one, other in zip(alone, together, strict=True):
        assert one.frame.image is other.frame.image and one.profiles == other.profiles
        assert_same_rows(other.predictions, one.predictions)
        assert [(face.track_id, face.box) for face in one.faces] == [(face.track_id, face.box) for face in other.faces]
        assert_same_rows(*([face.prediction for face in step.faces if face.prediction] for step in (other, one)))


def test_a_live_source_never_waits_for_more_faces(
    recognizer: Recognizer, face_frames: list[np.ndarray], batches: list[int]
) -> None:
    frames = film(face_frames)[:1]
    steps = read(recognizer, Frames(frames, live=True), LARGEST_BATCH)
    assert batches == [1] and len(steps[0].predictions) == 1


def test_the_last_frame_of_a_live_source_does_not_wait_for_a_file(
    recognizer: Recognizer, face_frames: list[np.ndarray]
) -> None:
    frames = film(face_frames)
    live, file = Frames(frames[:1], live=True), Frames(frames)
    asked = threading.Event()

    def slowly() -> Iterator[Frame]:
        yield frames[0]
        assert asked.wait(30), "the live source's frame was held back"
        yield frames[1]

    file.frames = slowly  # type: ignore[method-assign]
    with SourceReaders([live, file]) as readers:
        for step in recognizer.follow(readers):
            if step.source.endswith(live.name):
                asked.set()
    assert asked.is_set()


def test_beside_a_live_source_the_faces_of_files_are_not_gathered_in_front_of_its_own(
    recognizer: Recognizer, face_frames: list[np.ndarray], batches: list[int]
) -> None:
    camera = Silent()
    camera.live = True
    with SourceReaders([camera, Frames(film(face_frames))]) as readers:
        for step in recognizer.follow(readers, at_once=LARGEST_BATCH):
            if step.frame.index == 59:
                camera.close()
    assert batches == [1] * 20


def test_a_result_that_is_none_ends_the_run_after_the_frames_before(
    recognizer: Recognizer, face_frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, heads = recognizer.encode, recognizer.classify

    def broken(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        features = encode(crops)
        features[7:] = np.nan
        return features

    for name, function in (("encode", broken), ("classify", lambda windows: np.ones_like(heads(windows)))):
        monkeypatch.setattr(recognizer, name, function)
        seen: list[int] = []
        with (
            SourceReaders([Frames(film(face_frames))]) as readers,
            pytest.raises(DferError, match="which is no result"),
        ):
            seen.extend(step.frame.index for step in recognizer.follow(readers))
        assert seen == (list(range(24)) if name == "encode" else [])
        monkeypatch.undo()


def test_large_pictures_wait_for_few_others(
    recognizer: Recognizer, face_frames: list[np.ndarray], batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = film(face_frames)
    monkeypatch.setattr(gathering, "_HELD", 6 * frames[0].image.nbytes)  # of which two are sampled
    read(recognizer, Frames(frames), LARGEST_BATCH)
    assert batches[0] == 1 and set(batches[1:-1]) == {2}


def test_what_came_before_an_error_is_read_first(recognizer: Recognizer, face_frames: list[np.ndarray]) -> None:
    seen = []
    torn = Frames(film(face_frames)[:10], error="torn")
    with SourceReaders([torn]) as readers, pytest.raises(DferError, match="torn"):
        for step in recognizer.follow(readers):
            seen.append((step.frame.index, len(step.predictions)))
    assert seen == [(index, int(index % 3 == 0)) for index in range(10)]


def test_boxes_that_meet_no_frame_are_told_when_the_source_has_ended(
    recognizer: Recognizer, face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("source,frame,x,y,w,h\nframes,500,1,1,9,9\nframes #2,0,100,80,90,100\n")
    for sources in (1, 2):
        with SourceReaders([Frames(film(face_frames)[:4]) for _ in range(sources)]) as readers:
            boxes = read_boxes(path, [reader.name for reader in readers.readers])
            if sources == 1:
                with pytest.raises(DferError, match="no box is at a frame that was read"):
                    list(recognizer.follow(readers, boxes))
            else:
                assert sum(len(step.predictions) for step in recognizer.follow(readers, boxes)) == 2
                assert list(readers.failures) == ["frames"]


def test_a_file_gives_the_same_rows_each_time_in_int8_as_well(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", face_frames, 24)
    with Recognizer(provider="cpu", precision="int8") as quick:
        rows = [[row for step in quick.steps(open_source(video)) for row in step.predictions] for _ in range(2)]
    assert rows[0] == rows[1] and len(rows[0]) == 24


@pytest.mark.parametrize("people", [1, 2])
def test_faces_of_a_camera_are_followed_while_the_encoder_runs_and_encoded_once(
    recognizer: Recognizer, face_frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, people: int
) -> None:
    """An encoder that does not end before the next frame is followed, which comes no sooner."""
    encode, process = recognizer.encode, StreamState.process
    begun, followed = threading.Semaphore(0), threading.Semaphore(0)
    frames = film(face_frames, people)
    camera, done = Frames(frames, live=True), list[int]()

    def come() -> Iterator[Frame]:
        for frame in frames:
            yield frame
            if frame.index % 3 == 0:  # one that is sampled
                assert begun.acquire(timeout=60), "nothing is encoded"
            else:
                while done[-1:] != [frame.index]:
                    time.sleep(0.001)

    def counted(stream: StreamState, frame: Frame) -> FollowedFrame:
        found = process(stream, frame)
        done.append(frame.index)
        followed.release()
        return found

    def waiting(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        while followed.acquire(blocking=False):
            pass
        begun.release()
        assert followed.acquire(timeout=60), "no frame was followed meanwhile"
        return encode(crops)

    camera.frames = come  # type: ignore[method-assign]
    monkeypatch.setattr(StreamState, "process", counted)
    monkeypatch.setattr(recognizer, "encode", waiting)
    monkeypatch.setattr(recognizer, "scheduler", Scheduler(60.0))  # every face fits, however slow this machine is
    steps = read(recognizer, camera, LARGEST_BATCH)
    assert [step.frame.index for step in steps] == list(range(60))
    assert [len(step.predictions) for step in steps] == [people if index % 3 == 0 else 0 for index in range(60)]


def test_a_run_that_was_left_does_not_keep_the_next_from_ending(
    recognizer: Recognizer, face_frames: list[np.ndarray]
) -> None:
    camera, ending = Frames(film(face_frames)[:1], live=True), threading.Event()

    def come() -> Iterator[Frame]:
        yield camera._frames[0]
        ending.wait(20)

    camera.frames = come  # type: ignore[method-assign]
    with SourceReaders([camera]) as readers:
        left = recognizer.follow(readers)
        next(left)
        left.close()  # type: ignore[attr-defined]
        following = threading.Thread(target=list, args=(recognizer.follow(readers),))
        following.start()
        time.sleep(0.5)  # both wait for the next frame now
        ending.set()
        following.join(60)
        assert not following.is_alive()


def test_closing_the_readers_ends_what_is_followed_ahead() -> None:
    """Whether its results are still taken or not; a provider of one's own is not asked after that."""
    for stops in (True, False):
        source = Silent()
        readers, followed = SourceReaders([source]), []

        def lists(readers: SourceReaders = readers, followed: list[int] = followed) -> Iterator[int]:
            for batch in readers.batches():
                followed.append(batch[0][1].index)
                yield followed[-1]

        coming = prefetch(lists(), readers)
        assert next(coming) == 0
        if stops:
            coming.close()  # type: ignore[attr-defined]
        source.closed.wait(0.05)  # it waits for the next frame now
        readers.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "taker of frames"]
        assert list(coming) == []
        assert followed == [0]


@pytest.mark.parametrize(
    ("last", "printed"), [("threading.Thread(target=lambda: print(len(list(rows)))).start()", "2"), ("next(rows)", "")]
)
def test_a_program_ends_though_its_rows_are_not_all_taken(last: str, printed: str) -> None:
    """Nor is a thread of its own cut off that takes them when the main one has ended."""
    script = f"""
import threading
import cv2
from dfer.runtime import Frame, Recognizer
from dfer.runtime.bundle import DEMO
from dfer.runtime.sources import Source

face = cv2.cvtColor(cv2.imread(str(DEMO.parent / "demo.jpg")), cv2.COLOR_BGR2RGB)

class Slow(Source):
    name, rate, count = "slow", None, None
    def __iter__(self):
        for index in range(2):
            yield Frame(face, index, float(index))
        silent.wait({2 if printed else 600})

silent = threading.Event()
rows = Recognizer(provider="cpu", precision="fp32").steps(Slow())
{last}
"""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, printed, "")
    assert time.monotonic() - begun < 200


def test_every_face_is_read_though_the_next_frames_are_followed_meanwhile(
    recognizer: Recognizer, face_frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder that waits lets the other thread run as far ahead as it can."""
    encode, followed = recognizer.encode, threading.Semaphore(0)
    process = StreamState.process

    def counted(stream: StreamState, frame: Frame) -> FollowedFrame:
        found = process(stream, frame)
        followed.release()
        return found

    def waiting(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        while followed.acquire(timeout=0.2):
            pass
        return encode(crops)

    wanted = read(recognizer, Frames(film(face_frames, 2)), at_once=1)
    monkeypatch.setattr(StreamState, "process", counted)
    monkeypatch.setattr(recognizer, "encode", waiting)
    found = read(recognizer, Frames(film(face_frames, 2)), at_once=4)
    assert_same_rows(*([row for step in steps for row in step.predictions] for steps in (found, wanted)))

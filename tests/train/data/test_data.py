"""Data: stills from a table, procedural people, the views that training sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dfer.runtime.errors import DferError
from dfer.runtime.faces.alignment import TEMPLATE
from dfer.runtime.faces.detection import FaceDetector
from dfer.runtime.labels import EXPRESSIONS, MAFW_EXPRESSIONS
from dfer.runtime.procedural.expressions import REVERSED
from dfer.train.data.augmentation import AUGMENTATIONS, View, augmented_view, paper_view, plain_view, resized_crop_view
from dfer.train.data.images import Images
from dfer.train.data.procedural import ProceduralClips
from dfer.train.data.stills import StillClips, classes_of_stills


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    lines = ["image,label,person,split"]
    for number, label in enumerate(["happiness", "happiness", "happiness", "fear"]):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), np.full((128, 128), 40 * number, np.uint8))
        lines.append(f"{number}.png,{label},p{number},{'val' if number == 0 else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "labels.csv"


def test_stills_are_mapped_by_name_split_and_limited(table: Path) -> None:
    train = StillClips(table, "train")
    assert [EXPRESSIONS[label] for label in train.labels] == ["happiness", "happiness", "fear"]
    assert train.frames(1).shape == (16, 128, 128, 3)
    assert (train.frames(1) == 80).all()
    assert len(StillClips(table, "train", most=1)) == 2
    with pytest.raises(DferError, match="no rows with split 'test' to use; its splits are train, val"):
        StillClips(table, "test")


def test_photographs_are_found_by_paths_of_windows(table: Path) -> None:
    """As those of clips are."""
    whole, before = table.read_text(), StillClips(table, "train").fingerprint
    (table.parent / "images").rename(table.parent / "faces")
    table.write_text("\n".join(f"faces\\{row}" if "png" in row else row for row in whole.splitlines()))
    stills = StillClips(table, "train")
    assert stills.fingerprint == before and stills.image(0)[0, 0, 0] == 40


def test_an_unknown_label_is_named_with_its_line(table: Path) -> None:
    table.write_text(table.read_text() + "4.png,joy,p,train\n")
    with pytest.raises(DferError, match="line 6: unknown label 'joy'"):
        StillClips(table, "train")


def test_columns_of_photographs_are_found_in_any_case(table: Path) -> None:
    before = StillClips(table, "train")
    table.write_text(table.read_text().replace("image,label,person,split", "Image,LABEL,Person,Split"))
    stills = StillClips(table, "train")
    assert (stills.groups, stills.fingerprint) == (["p1", "p2", "p3"], before.fingerprint)
    assert classes_of_stills(table, ("calm", "pain")) == EXPRESSIONS


def test_a_photograph_is_in_one_row(table: Path) -> None:
    """As for dfer-prepare: half of the rows may have another label, or another split."""
    whole = table.read_text()
    for name, split in (("1.png", "train"), ("./1.png", "val"), (".\\1.png", "test")):
        table.write_text(f"{whole}{name},fear,p,{split}\n")
        with pytest.raises(
            DferError, match=r"labels\.csv, line 6: .*1\.png is in line 3, too; keep one of these rows$"
        ):
            StillClips(table, "train")


def test_damaged_and_missing_photographs_are_left_out_and_all_told_at_once(table: Path) -> None:
    table.write_text(table.read_text() + "8.png,fear,p8,train\n9.png,happiness,p9,train\n")
    (table.parent / "8.png").write_bytes(b"\x89PNG\r\n\x1a\nand nothing of a picture")
    told: list[str] = []
    stills = StillClips(table, "train", max_missing=0.4, warn=told.append)
    assert (stills.names, len(stills.labels)) == (["1.png", "2.png", "3.png"], 3)
    (line,) = told
    assert "2 of 5 photographs" in line and "8.png" in line and "9.png" in line
    with pytest.raises(DferError, match=r"more than the 39\.0% allowed: .*8\.png, .*9\.png$"):
        StillClips(table, "train", max_missing=0.39)


def test_photographs_that_are_no_crops_of_faces_are_refused_with_what_to_do(table: Path) -> None:
    """Training would see the left side of them, tests the whole, squeezed."""
    cv2.imwrite(str(table.parent / "images" / "1.png"), np.zeros((40, 80, 3), np.uint8))
    words = r"1\.png is 80×40, not a square crop of a face; .*: dfer-prepare .*labels\.csv FACES --photos$"
    with pytest.raises(DferError, match=words):
        StillClips(table, "train")
    cv2.imwrite(str(table.parent / "images" / "1.png"), np.zeros((40, 48, 3), np.uint8))
    assert len(StillClips(table, "train")) == 3


def test_a_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("file,emotion\na.png,happy\n")
    with pytest.raises(DferError, match="must name the columns image,split"):
        StillClips(tmp_path / "x.csv", "train")
    (tmp_path / "y.csv").write_text("image,split\na.png,train\n")
    with pytest.raises(DferError, match="needs a column label, or votes for happiness"):
        StillClips(tmp_path / "y.csv", "train")
    with pytest.raises(DferError, match="No such file"):
        StillClips(tmp_path / "absent.csv", "train")


@pytest.fixture(scope="module")
def clips() -> ProceduralClips:
    return ProceduralClips([5, 6])


def test_a_procedural_person_is_always_the_same(clips: ProceduralClips, drawn_people: Any) -> None:
    drawn_people.cache_clear()
    again = ProceduralClips([6])
    np.testing.assert_array_equal(clips.frames(7 + 4), again.frames(4))
    assert clips.labels.tolist() == [*range(7), *range(7)]


def test_procedural_faces_are_aligned_as_the_runtime_aligns(clips: ProceduralClips) -> None:
    detector, errors = FaceDetector(), []
    for index in range(len(clips)):
        padded = cv2.copyMakeBorder(clips.frames(index)[8], 40, 40, 40, 40, cv2.BORDER_REPLICATE)
        if faces := detector.detect(np.asarray(padded, dtype=np.uint8)):
            errors.append(np.abs(faces[0].landmarks - 40 - TEMPLATE).mean())
    assert len(errors) >= 12
    assert np.mean(errors) < 4  # pixels of 128


def test_what_a_procedural_frame_shows(clips: ProceduralClips) -> None:
    images = Images.of_procedural(clips)
    np.testing.assert_allclose(images.targets.sum(axis=1), 1, atol=1e-5)
    fear, surprise = EXPRESSIONS.index("fear"), EXPRESSIONS.index(REVERSED["fear"])
    assert (images.targets[:, fear] == images.targets[:, surprise]).all()  # one frame cannot tell them apart
    neutral = images.targets[:, EXPRESSIONS.index("neutral")].reshape(-1, 16)
    assert (neutral[clips.labels == EXPRESSIONS.index("neutral")] == 1).all()
    happy = neutral[clips.labels == EXPRESSIONS.index("happiness")]
    assert happy.min() == 0


def test_views_have_the_size_asked_for_and_differ_only_when_augmented() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (16, 128, 128, 3), dtype=np.uint8)
    np.testing.assert_array_equal(plain_view(frames, 128), frames)
    assert plain_view(frames, 112).shape == (16, 112, 112, 3)
    still = np.repeat(cv2.GaussianBlur(frames[0], (0, 0), 3)[None], 16, axis=0)
    one = augmented_view(still, 112, np.random.default_rng(1), jitter=1.0).frames
    other = augmented_view(still, 112, np.random.default_rng(2), jitter=1.0).frames
    assert one.shape == other.shape == (16, 112, 112, 3)
    assert (one != other).any()
    assert (one[0] != one[-1]).any()


def test_every_frame_of_a_clip_gets_the_same_crop_and_flip() -> None:
    ramp = np.tile(np.linspace(0, 255, 128).astype(np.uint8)[None, :, None], (128, 1, 3))
    clip = np.repeat(ramp[None], 4, axis=0)
    for seed in range(20):
        view = augmented_view(clip, 112, np.random.default_rng(seed)).frames.astype(int)
        assert np.abs(np.diff(view, axis=0)).max() <= 60  # grain at most
        slopes = np.sign(view[:, :, 80].mean(axis=(1, 2)) - view[:, :, 30].mean(axis=(1, 2)))
        assert len(set(slopes)) == 1


def test_a_strong_view_turns_moves_and_scales_as_much_as_it_says() -> None:
    clip = np.zeros((1, 128, 128, 3), np.uint8)
    seen = []
    for seed in range(60):
        (move,) = augmented_view(clip, 112, np.random.default_rng(seed)).moves
        zoom = np.sqrt(abs(np.linalg.det(move[:, :2]))) * 128 / 112
        angle = np.rad2deg(np.arcsin(move[1, 0] / np.hypot(*move[:, 1])))
        seen.append((zoom - 1, angle, *((move @ (63.5, 63.5, 1) - 55.5) / 112)))
    assert np.abs(seen).max(axis=0) == pytest.approx([0.14, 10, 0.05, 0.05], rel=0.15)


@pytest.mark.parametrize("view", [paper_view, resized_crop_view])
def test_a_crop_lies_inside_the_picture(view: Callable[..., View]) -> None:
    for seed in range(30):
        (move,) = view(np.zeros((1, 128, 128, 3), np.uint8), 112, np.random.default_rng(seed)).moves
        corners = np.array([[-0.5, -0.5], [111.5, 111.5]])
        back = (corners - move[:, 2]) / np.diag(move[:, :2])
        assert back.min() > -0.5 - 1e-6 and back.max() < 127.5 + 1e-6


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_what_is_bright_never_turns_dark(name: str) -> None:
    clip = np.full((3, 64, 64, 3), 250, np.uint8)
    for seed in range(40):
        assert AUGMENTATIONS[name](clip, 64, np.random.default_rng(seed), 1.0).frames.min() > 80


def test_clips_are_made_of_several_photographs_of_one_person(tmp_path: Path) -> None:
    rows = ["image,label,person,split"]
    for number, (label, person) in enumerate([("happiness", "a"), ("neutral", "a"), ("anger", "a"), ("fear", "b")]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((32, 32, 3), 60 * number, np.uint8))
        rows.append(f"{number}.png,{label},{person},train")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    clips = StillClips(tmp_path / "labels.csv", "train")
    assert (clips.frames(0) == 0).all()  # tests see the photograph itself
    seen = [clips.frames(0, np.random.default_rng(seed))[:, 0, 0, 0].astype(int) for seed in range(30)]
    assert {(clip[0], clip[-1]) for clip in seen} == {(0, 0), (60, 0)}  # from neutral, never from anger
    assert all((np.diff(clip) <= 0).all() for clip in seen)
    assert all((clips.frames(3, np.random.default_rng(seed)) == 180).all() for seed in range(10))


def test_votes_become_soft_targets_and_rows_without_one_are_left_out(tmp_path: Path) -> None:
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((16, 16, 3), 40 * index, np.uint8))
    header = "image,split,neutral,happiness,sadness,contempt,unknown"
    rows = ["0.png,train,1,3,0,5,0", "1.png,train,0,0,2,0,1", "2.png,train,0,0,0,9,1", "3.png,val,1,0,0,0,0"]
    (tmp_path / "votes.csv").write_text("\n".join([header, *rows]))
    stills = StillClips(tmp_path / "votes.csv", "train")
    assert stills.names == ["0.png", "1.png"]
    assert [stills.classes[label] for label in stills.labels] == ["happiness", "sadness"]
    assert stills.shares is not None
    assert dict(zip(stills.classes, stills.shares[0].tolist(), strict=True)) == {
        **dict.fromkeys(stills.classes, 0.0),
        "happiness": 0.75,
        "neutral": 0.25,
    }
    changed = (tmp_path / "votes.csv").read_text().replace("0.png,train,1,3", "0.png,train,2,2")
    before = stills.fingerprint
    (tmp_path / "votes.csv").write_text(changed)
    assert StillClips(tmp_path / "votes.csv", "train").fingerprint != before


def test_a_labelled_photograph_needs_no_votes_and_one_with_neither_is_counted(tmp_path: Path) -> None:
    rows = ["0.png,train,sad,1,3", "1.png,train,fear,,", "2.png,train,Happy,0,0", "3.png,train,,2,0"]
    rows += ["4.png,train,,0,0", "5.png,train,,,", "6.png,val,,,"]
    (tmp_path / "votes.csv").write_text("\n".join(["image,split,label,happiness,sadness", *rows]))
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((16, 16, 3), index, np.uint8))
    told: list[str] = []
    stills = StillClips(tmp_path / "votes.csv", "train", warn=told.append)
    assert [EXPRESSIONS[label] for label in stills.labels] == ["sadness", "fear", "happiness", "happiness"]
    assert stills.shares is not None
    columns = [EXPRESSIONS.index(name) for name in ("happiness", "sadness", "fear")]
    assert stills.shares[:, columns].tolist() == [[0.25, 0.75, 0], [0, 0, 1], [1, 0, 0], [1, 0, 0]]
    (line,) = told
    assert line.endswith("votes.csv: left out 2 photographs of split 'train' that have neither a label nor votes")


def test_beside_labels_one_column_named_like_a_class_holds_no_votes(tmp_path: Path) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((16, 16, 3), index, np.uint8))
    table = tmp_path / "labels.csv"
    told: list[str] = []
    table.write_text("image,label,split,Anger\n0.png,fear,train,5\n1.png,anger,train,1\n2.png,sad,train,3\n")
    stills = StillClips(table, "train", warn=told.append)
    assert (stills.shares, [EXPRESSIONS[label] for label in stills.labels]) == (None, ["fear", "anger", "sadness"])
    assert told == [f"{table}: column Anger is ignored; beside labels, votes need a column for each of several classes"]
    told.clear()
    table.write_text("image,label,split,anger,fear\n0.png,fear,train,3,1\n1.png,fear,train,2,2\n2.png,sad,train,0,1\n")
    stills = StillClips(table, "train", warn=told.append)
    assert stills.shares is not None
    assert told == [f"{table}: 2 labels of split 'train' are not what most votes say; those are learned"]


def test_photographs_of_our_other_classes_are_left_out_and_counted(table: Path) -> None:
    whole = table.read_text()
    more = "4.png,Contempt,,train\n5.png,contempt,,train\n6.png,anxiety,,train\n7.png,contempt,,val\n"
    for number in range(4, 8):
        cv2.imwrite(str(table.parent / f"{number}.png"), np.full((128, 128), number, np.uint8))
    table.write_text(whole + more)
    told: list[str] = []
    stills = StillClips(table, "train", warn=told.append)
    assert [EXPRESSIONS[label] for label in stills.labels] == ["happiness", "happiness", "fear"]
    (line,) = told
    assert line.endswith("left out 3 photographs of split 'train' of classes not used here: anxiety 1, contempt 2")
    assert len(StillClips(table, "train", classes=MAFW_EXPRESSIONS, warn=told.append)) == 6 and len(told) == 1
    for label, classes in (("contemt", EXPRESSIONS), ("fear", ("happiness", "scared"))):
        table.write_text(f"{whole}8.png,{label},,train\n")
        with pytest.raises(DferError, match=f"unknown label '{label}'"):
            StillClips(table, "train", classes=classes)


def test_columns_of_votes_are_found_by_their_other_names(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((16, 16, 3), np.uint8))
    table = tmp_path / "votes.csv"
    votes = ",NF,unknown\n0.png,train,4,1,2,0,2,0,1,5,9\n"

    def shares(header: str) -> list[float]:
        table.write_text(f"image,split,{header}{votes}")
        assert classes_of_stills(table, EXPRESSIONS[::-1]) == EXPRESSIONS[::-1]  # the model's: all have votes
        found = StillClips(table, "train").shares
        assert found is not None
        return [float(share) for share in found[0]]

    canonical = shares("happiness,sadness,neutral,anger,surprise,disgust,fear")
    assert canonical == pytest.approx([0.4, 0.1, 0.2, 0, 0.2, 0, 0.1])
    assert shares("happy,sad,neutral,angry,surprise,disgust,fear") == canonical
    assert shares("Happy,Sadness,Neutral,ANGRY,surprised,Disgusted,fearful") == canonical
    with pytest.raises(DferError, match=r"votes\.csv: column joy; did you mean happiness\?"):
        shares("joy,sad,neutral,angry,surprise,disgust,fear")
    with pytest.raises(DferError, match="columns Happy and happiness both hold votes for happiness; drop one"):
        shares("Happy,sad,neutral,angry,surprise,happiness,fear")
    table.write_text("image,split,label,smile,person\n0.png,train,fear,1,a\n")  # a column of another kind
    assert StillClips(table, "train").shares is None


def test_the_classes_of_a_tested_table_are_its_labels_or_the_votes_that_a_model_has(tmp_path: Path) -> None:
    table, own = tmp_path / "x.csv", ("calm", "pain")
    for text, classes in (
        ("image,split,label\n0.png,val,pain\n1.png,train,Joy\n", ("joy", "pain")),
        ("image,split,label\n0.png,val,fear\n", EXPRESSIONS),
        ("image,split,pain,calm,fear\n0.png,val,1,0,0\n", own),
        ("image,split,pain,neutral,fear\n0.png,val,1,0,0\n", EXPRESSIONS),
    ):
        table.write_text(text)
        assert classes_of_stills(table, own) == classes
    table.write_text("image,split,label\n0.png,val,fear\n1.png,val,joy\n")
    with pytest.raises(DferError, match=r"line 3: unknown label 'joy'; .*; did you mean happiness"):
        classes_of_stills(table, own)


@pytest.mark.parametrize("cell", ["-1", "many", "nan"])
def test_votes_that_are_none_are_refused_with_their_line(tmp_path: Path, cell: str) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((16, 16, 3), np.uint8))
    (tmp_path / "votes.csv").write_text(f"image,split,happiness\n0.png,train,{cell}\n")
    with pytest.raises(DferError, match=r"votes\.csv, line 2: votes must be numbers"):
        StillClips(tmp_path / "votes.csv", "train")

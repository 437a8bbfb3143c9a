"""Annotation lists: what their authors mean by each line, and which line is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dfer.runtime.errors import DferError
from dfer.runtime.labels import EXPRESSIONS, MAFW_EXPRESSIONS
from dfer.train.data.lists import (
    Entry,
    class_name,
    read_dfer_clip,
    read_dfew,
    read_folder,
    read_named,
    read_table,
    splits_of_folder,
    splits_of_table,
)


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "classes", "count", "first"),
    [
        ("DFEW_set_1_train.txt", EXPRESSIONS, 9356, ("02522", "disgust", 66)),
        ("DFEW_set_1_test.txt", EXPRESSIONS, 2341, ("00001", "sadness", 144)),
        ("FERV39K_test.txt", EXPRESSIONS, 7847, ("0015", "happiness", 25)),
        ("MAFW_set_1_train.txt", MAFW_EXPRESSIONS, 7333, ("03747", "anger", 105)),
        ("MAFW_set_1_test.txt", MAFW_EXPRESSIONS, 1839, ("00025", "anger", 47)),
    ],
)
def test_the_lists_of_dfer_clip(
    shared_data: Path, name: str, classes: tuple[str, ...], count: int, first: tuple[str, str, int]
) -> None:
    entries = read_dfer_clip(shared_data / "annotations" / name, classes)
    assert len(entries) == count
    assert (Path(entries[0].clip).name, entries[0].label, entries[0].count) == first
    assert {entry.label for entry in entries} == set(classes)
    assert not [entry.clip for entry in entries if " " in entry.clip]


def test_every_emotion_in_a_ferv39k_path_is_its_label(shared_data: Path) -> None:
    named = {"Happy": "happiness", "Sad": "sadness", "Angry": "anger"}
    for entry in read_dfer_clip(shared_data / "annotations" / "FERV39K_test.txt", EXPRESSIONS):
        emotion = entry.clip.split("/")[-2]
        assert entry.label == named.get(emotion, emotion.lower())


def test_files_without_a_last_newline_are_not_glued(tmp_path: Path) -> None:
    train, test = "/data/MAFW/data/faces/03747 105 3", "/data/MAFW/data/faces/00025 47 10"
    for number, line in enumerate((train, test)):
        entries = read_dfer_clip(written(tmp_path / f"{number}.txt", line), MAFW_EXPRESSIONS)
        assert [entry.clip for entry in entries] == [line.split()[0]]
    with pytest.raises(DferError, match=r"line 1: .* is not CLIP LABEL"):
        read_named(written(tmp_path / "joined.txt", "03747.mp4 anger00025.mp4 fear\n"), MAFW_EXPRESSIONS)
    with pytest.raises(DferError, match=r"line 1: .* two lines run together"):
        read_dfer_clip(written(tmp_path / "joined.txt", train + test + "\n"), MAFW_EXPRESSIONS)


def test_paths_may_have_spaces_and_backslashes(tmp_path: Path) -> None:
    path = written(tmp_path / "list.txt", "/My Disk/DFEW/00001 16 0\r\n\nF:\\DFEW\\00002 20 6\r\n")
    assert read_dfer_clip(path, EXPRESSIONS) == [
        Entry("/My Disk/DFEW/00001", "happiness", 16),
        Entry("F:/DFEW/00002", "fear", 20),
    ]


def test_dfew_numbers_its_labels_from_one(tmp_path: Path) -> None:
    lines = "\n".join(f"{number},{number}" for number in range(1, 8))
    entries = read_dfew(written(tmp_path / "set_1.csv", "\ufeffvideo_name,label\n" + lines))
    assert [entry.label for entry in entries] == [
        "happiness",
        "sadness",
        "neutral",
        "anger",
        "surprise",
        "disgust",
        "fear",
    ]
    assert entries[0].clip == "00001"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Action/Sad/0010 Sad", ("Action/Sad/0010", "sadness")),
        ("War/Fear/0001 FEAR\n", ("War/Fear/0001", "fear")),
        ("03747.mp4 anger\n", ("03747.mp4", "anger")),
        ("1.mp4 Happy", ("1.mp4", "happiness")),
        ("1.mp4 Angry", ("1.mp4", "anger")),
        ("1.mp4 Surprise", ("1.mp4", "surprise")),
        ("1.mp4 Disgust", ("1.mp4", "disgust")),
        ("1.mp4 Neutral", ("1.mp4", "neutral")),
        ("1.mp4 helplessness", ("1.mp4", "helplessness")),
    ],
)
def test_labels_are_mapped_by_name(tmp_path: Path, text: str, expected: tuple[str, str]) -> None:
    assert read_named(written(tmp_path / "list.txt", text), MAFW_EXPRESSIONS) == [Entry(*expected)]


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (
            lambda p: read_named(p, EXPRESSIONS),
            "a Sad\nb joyful\n",
            "line 2: unknown label 'joyful'; allowed are h",
        ),
        (lambda p: read_named(p, EXPRESSIONS), "a contempt\n", "line 1: unknown label 'contempt'"),
        (lambda p: read_named(p, EXPRESSIONS), "a Sad\n\nb\n", "line 3: 'b' is not CLIP LABEL"),
        (lambda p: read_dfer_clip(p, EXPRESSIONS), "/a/1 16 0\n/a/2 x 0\n", "line 2: .* is not FRAME_DIR"),
        (lambda p: read_dfer_clip(p, EXPRESSIONS), "/a/1 16 7\n", "line 1: label 7 is not 0 to 6"),
        (read_dfew, "video_name,label\n1,8\n", "line 2: label '8' is not 1 to 7"),
        (read_dfew, "video_name,label\n1,2\nx,2\n", "line 3: video_name 'x'"),
        (read_dfew, "1,2\n", "must name the columns video_name,label"),
        (lambda p: read_table(p, "train", 1), "clip,label,split\na,sad,train\na,sad\n", "line 3: does not have the 3"),
        (lambda p: read_table(p, "train", 1), "clip,label\na,sad\n", "must name the columns clip,label,split"),
        (lambda p: read_table(p, "train", 1), "clip,label,split\n,sad,train\n", "line 2: the clip has no name"),
        (lambda p: read_table(p, "val", 1), "clip,label,split\na,sad,train\n", "no rows with split 'val'"),
        (lambda p: read_table(p, "train", 2), "clip,label,split\na,sad,train\n", "fold 2; .* its folds none"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, read: Callable[[Path], object], text: str, words: str) -> None:
    path = written(tmp_path / "list.txt", text)
    with pytest.raises(DferError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    for content in (b"\xff\x00", b"\xff\xfe\x00"):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(DferError, match="not a text file"):
            read_dfew(tmp_path / "list.txt")
    with pytest.raises(DferError, match="No such file"):
        read_dfew(tmp_path / "absent.txt")


def test_a_table_has_splits_folds_and_people(tmp_path: Path) -> None:
    rows = ["clip,label,split,fold,person", "a.mp4,Happy,train,1,p1", "b,sad,train,2,", "c, fear ,train,,p2"]
    table = written(tmp_path / "labels.csv", "\n".join([*rows, "d,anger,test,1,p3"]))
    entries, classes = read_table(table, "train", 1)
    assert [(entry.clip, entry.label, entry.group) for entry in entries] == [
        ("a.mp4", "happiness", "p1"),
        ("c", "fear", "p2"),
    ]
    assert classes == EXPRESSIONS
    assert [entry.clip for entry in read_table(table, "train", 2)[0]] == ["b", "c"]


def test_a_clip_of_a_table_that_is_tested_on_is_not_of_the_training_split(tmp_path: Path) -> None:
    rows = "clip,split,fold\na.mp4,test,1\na.mp4,train,2\nb.mp4,train,\nb.mp4,val,\nc\\d.mp4,train,\n"
    table = written(tmp_path / "labels.csv", rows)
    assert splits_of_table(table, 1) == {"a.mp4": "test", "b.mp4": "val", "c/d.mp4": "train"}
    assert splits_of_table(table, 2)["a.mp4"] == "train"
    plain = written(tmp_path / "plain.csv", "clip\na.mp4\n")
    assert splits_of_table(plain, 1) == {"a.mp4": "train"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a,sad,train,\nb,sad,train,\na,fear,train,", "line 4: a is in line 2, too; keep one of these rows$"),
        ("x/a,sad,train,\nx\\a,sad,test,", "line 3: x/a is in line 2, too"),
        ("x/a,sad,train,\n./x//a,sad,test,", "line 3: .*x//a is in line 2, too"),
        ("a,sad,train,2\na,sad,test,2", "line 3: a is in line 2, too; keep one of these rows of fold 2"),
        ("a,sad,train,2\na,sad,test,", "line 3: a is in line 2"),
        ("a,sad,train,\na,sad,test,1", "line 3: a is in line 2"),
    ],
)
def test_a_clip_is_in_one_row_of_a_fold(tmp_path: Path, rows: str, words: str) -> None:
    table = written(tmp_path / "labels.csv", f"clip,label,split,fold\n{rows}\n")
    for split in ("train", "test"):  # in any split: what is trained on may be in another
        with pytest.raises(DferError, match=words):
            read_table(table, split, 1)
    table = written(tmp_path / "folds.csv", "clip,label,split,fold\na,sad,train,1\na,sad,test,2\nb,sad,test,1\n")
    assert [entry.clip for entry in read_table(table, "test", 2)[0]] == ["a"]


def test_columns_are_found_in_any_case(tmp_path: Path) -> None:
    """One that is not would be ignored: all folds would train together, and a person's clips be on both sides."""
    rows = "a.mp4,Happy,train,1,p1\nb.mp4,sad,train,2,\nc.mp4,sad,test,1,\n"
    table = written(tmp_path / "labels.csv", f"Clip,LABEL,Split,Fold,Person\n{rows}")
    assert read_table(table, "train", 1)[0] == [Entry("a.mp4", "happiness", group="p1")]
    assert splits_of_table(table, 1) == {"a.mp4": "train", "c.mp4": "test"}
    for header, name in (
        ("clip,label,split,label", "label"),
        ("clip,label,split,Fold,FOLD", "fold"),
        ("clip,label,split,notes,,,notes", "notes"),
    ):
        table = written(tmp_path / "twice.csv", f"{header}\na,sad,train,1,,,\n")
        with pytest.raises(DferError, match=rf"twice\.csv: two columns are called {name}; drop or rename one"):
            read_table(table, "train", 1)
    table = written(tmp_path / "unnamed.csv", "clip,label,split,,\na,sad,train,,\n")  # as spreadsheets leave them
    assert len(read_table(table, "train", 1)[0]) == 1


def test_the_classes_of_a_table_do_not_depend_on_the_split(tmp_path: Path) -> None:
    table = written(tmp_path / "labels.csv", "clip,label,split\na,Contempt,train\nb,sad,test\n")
    assert read_table(table, "train", 1)[1] == read_table(table, "test", 1)[1] == MAFW_EXPRESSIONS


@pytest.mark.parametrize("splits", [("train", "test"), ("",)])
def test_a_folder_for_each_class(tmp_path: Path, splits: tuple[str, ...]) -> None:
    for split in splits:
        for clip in ("Happy/1.mp4", "Happy/2.MP4", "Happy/Thumbs.db", "Sad/1/01.jpg", ".cache/x"):
            written(tmp_path / split / clip, "")
    written(tmp_path / "notes.txt", "")
    entries, classes = read_folder(tmp_path, "train")
    assert Counter(entry.label for entry in entries) == {"happiness": 2, "sadness": 1}
    assert classes == EXPRESSIONS
    assert all((tmp_path / entry.clip).exists() for entry in entries)
    assert all(entry.clip.startswith(splits[0]) for entry in entries)


def test_clips_of_a_class_may_lie_deeper(tmp_path: Path) -> None:
    """As dfer-prepare finds videos, and leaves their faces, at any depth."""
    for clip in ("fear/s1/day 1/1.mp4", "fear/s2/2/01.jpg", "fear/3/01.jpg", "anger/4.mp4"):
        written(tmp_path / clip, "")
    written(tmp_path / "anger" / "@eaDir" / "4.mp4" / "thumbnail.jpg", "")
    (tmp_path / "fear" / "s1" / "lost").mkdir()
    (tmp_path / "fear" / "s1" / "again").symlink_to(tmp_path / "fear")
    entries, _ = read_folder(tmp_path, "train")
    assert [(entry.clip, entry.label) for entry in entries] == [
        ("anger/4.mp4", "anger"),
        *((f"fear/{clip}", "fear") for clip in ("3", "s1/day 1/1.mp4", "s1/lost", "s2/2")),
    ]
    assert splits_of_folder(tmp_path).keys() == {entry.clip for entry in entries}


def test_folders_without_clips_and_of_stored_features_are_no_classes(tmp_path: Path) -> None:
    """As a run leaves them beside its output, in the folder of its clips."""
    for file in (
        *("calm/1.mp4", "pain/1/1.jpg", "notes/todo.txt"),
        *("features/0a/made-from.json", "features/0a/features.npy", "marks/landmarks-0a/000000.npy"),
    ):
        written(tmp_path / file, "")
    (tmp_path / "later").mkdir()
    entries, classes = read_folder(tmp_path, "train")
    assert ([entry.clip for entry in entries], classes) == (["calm/1.mp4", "pain/1"], ("calm", "pain"))


def test_a_name_in_composed_letters_or_with_accents_of_its_own_is_one_class(tmp_path: Path) -> None:
    """As one disk writes folders' names, and another, or a table."""
    for label, clip in (("w\u00fctend", "1"), ("wu\u0308tend", "2"), ("ruhig", "3")):
        written(tmp_path / label / f"{clip}.mp4", "")
    entries, classes = read_folder(tmp_path, "train")
    assert classes == ("ruhig", "w\u00fctend")
    assert [entry.label for entry in entries].count("w\u00fctend") == 2
    assert class_name("WU\u0308TEND", classes, tmp_path) == "w\u00fctend"


@pytest.mark.parametrize("clip", ["ann/anger/1.mp4", "fear/Test/1/1.jpg"])
def test_folders_of_classes_and_splits_inside_a_class_are_refused(tmp_path: Path, clip: str) -> None:
    """Else people would be classes, and test clips be trained on."""
    written(tmp_path / clip, "")
    words = r"(anger|Test): lies inside the folder of a class; expected \[train\|val\|test/\]CLASS/…/clip$"
    with pytest.raises(DferError, match=words):
        read_folder(tmp_path, "train")


def test_folders_of_splits_may_have_other_names(tmp_path: Path) -> None:
    for clip in ("Train/happy/1.mp4", "validation/sad/2.mp4", "TESTING/sad/3.mp4"):
        written(tmp_path / clip, "")
    for split, clip in (("train", "Train/happy/1.mp4"), ("val", "validation/sad/2.mp4"), ("test", "TESTING/sad/3.mp4")):
        for name in (split, clip.split("/")[0], split.upper()):
            entries, classes = read_folder(tmp_path, name)
            assert ([entry.clip for entry in entries], classes) == ([clip], EXPRESSIONS)
        assert splits_of_folder(tmp_path)[clip] == split
    (tmp_path / "val").mkdir()
    with pytest.raises(DferError, match="val and validation are both the val split; join them"):
        read_folder(tmp_path, "train")


def test_a_folder_that_is_no_class_is_named(tmp_path: Path) -> None:
    written(tmp_path / "train" / "joyful" / "1.mp4", "")
    written(tmp_path / "train" / "sad" / "1.mp4", "")
    with pytest.raises(DferError, match=r"unknown label 'joyful'; allowed are happiness, .*; did you mean happiness\?"):
        read_folder(tmp_path, "train")
    with pytest.raises(DferError, match="no folder test; there are train"):
        read_folder(tmp_path, "test")
    with pytest.raises(DferError, match="no clips; expected CLASS/clip"):
        read_folder(tmp_path / "train" / "joyful", "train")


def test_photographs_beside_the_clips_are_no_class(tmp_path: Path) -> None:
    """As `dfer-prepare --photos` leaves them in the folder of clips that was prepared before."""
    for folder in ("pain/1", "bored/2", "images/pain"):
        (tmp_path / folder).mkdir(parents=True)
    assert read_folder(tmp_path, "train")[1] == ("bored", "images", "pain")  # a class may have this name
    (tmp_path / "labels.csv").write_text("image,label,split\npain/1.jpg,pain,train\n")
    with pytest.raises(DferError, match=r"images/ beside labels\.csv holds photographs, not clips; .* for --stills$"):
        read_folder(tmp_path, "train")


def test_labels_that_are_not_ours_are_classes_of_their_own(tmp_path: Path) -> None:
    table = written(tmp_path / "labels.csv", "clip,label,split\na,Pain,train\nb,bored,test\nc,neutral,train\n")
    entries, classes = read_table(table, "train", 1)
    assert classes == ("bored", "neutral", "pain")
    assert [entry.label for entry in entries] == ["pain", "neutral"]
    for name in ("engaged", "bored"):
        written(tmp_path / "clips" / name / "1.mp4", "")
    assert read_folder(tmp_path / "clips", "train")[1] == ("bored", "engaged")


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("joy", "line 3: unknown label 'joy'; .*; did you mean happiness"),
        ("suprise", "line 3: unknown label 'suprise'; .*; did you mean surprise"),
        ("=1+1", "line 3: label '=1.1' begins with"),
        ("unsure", "line 3: label 'unsure' is taken"),
    ],
)
def test_another_spelling_of_ours_is_no_class_of_its_own(tmp_path: Path, label: str, words: str) -> None:
    table = written(tmp_path / "labels.csv", f"clip,label,split\na,anger,train\nb,{label},train\n")
    with pytest.raises(DferError, match=words):
        read_table(table, "train", 1)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("neutral calm pain", ["calm is a class of its own; if it means neutral, write that"]),
        ("neutral pain smile", ["smile is a class of its own; if it means happiness, write that"]),
        ("sadness boredom none", ["none is a class of its own; if it means neutral, write that"]),
        ("fear anxious", ["anxious is a class of its own; if it means anxiety, write that"]),
        ("neutral stress worry", ["worry is a class of its own; if it means anxiety, write that"]),
        ("neutral calm anger", ["calm is a class of its own; if it means neutral, write that"]),
        ("happiness unhappy neutral", []),
    ],
)
def test_words_near_ours_may_be_classes_of_their_own(tmp_path: Path, labels: str, told: list[str]) -> None:
    rows = [f"{number},{label},train" for number, label in enumerate(labels.split())]
    table = written(tmp_path / "labels.csv", "\n".join(["clip,label,split", *rows]))
    for label in labels.split():
        (tmp_path / "clips" / label / "1").mkdir(parents=True)
    warnings: list[str] = []
    assert read_table(table, "train", 1, warnings.append)[1] == tuple(sorted(labels.split()))
    assert read_folder(tmp_path / "clips", "train", warnings.append)[1] == tuple(sorted(labels.split()))
    assert warnings == [f"{path}: {line}" for path in (table, tmp_path / "clips") for line in told]


def test_a_misspelling_beside_the_right_spelling_is_no_class(tmp_path: Path) -> None:
    table = written(tmp_path / "labels.csv", "clip,label,split\na,anger,train\nb,happy,train\nc,happines,train\n")
    with pytest.raises(DferError, match=r"line 4: unknown label 'happines'; .*; did you mean happiness\?"):
        read_table(table, "train", 1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_are_read_as_spreadsheets_save_them(tmp_path: Path, encoding: str, mark: str, end: str) -> None:
    start = "\ufeff" if encoding.startswith("utf-16") else ""
    rows = [("clip", "label", "split", "person"), ("é.mp4", "Sad", "train", ""), ("b.mp4", "happy", "train", "p1")]
    text = start + end.join(mark.join(row) for row in rows) + end
    (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
    entries, _ = read_table(tmp_path / "labels.csv", "train", 1)
    assert [(entry.clip, entry.label, entry.group) for entry in entries] == [
        ("é.mp4", "sadness", None),
        ("b.mp4", "happiness", "p1"),
    ]

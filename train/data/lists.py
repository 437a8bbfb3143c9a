"""Lists of labelled clips: the benchmarks' own, DFER-CLIP's, a table of one's own, a folder for each class.

Each reader gives `Entry`s in the order of the list. Labels become our class names here, by name; a number means what
the list's authors say it means.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...runtime.errors import DferError
from ...runtime.labels import EXPRESSIONS, MAFW_EXPRESSIONS
from ...runtime.sources import VIDEO_SUFFIXES
from ...runtime.sources.tables import bad_line, read_lines, read_rows

ALIASES = {
    "happy": "happiness",
    "sad": "sadness",
    "angry": "anger",
    "surprised": "surprise",
    "disgusted": "disgust",
    "fearful": "fear",
}
SPLITS = ("train", "val", "test")
DFEW_NUMBERS = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")  # from 1


@dataclass(frozen=True)
class Entry:
    """One listed clip.

    clip: frame folder or video, relative to the data set's clips or absolute, "/" between folders.
    label: name of the class. count: frames, where the list says. group: person or film, where the list says.
    """

    clip: str
    label: str
    count: int | None = None
    group: str | None = None


def read_dfer_clip(path: Path, classes: tuple[str, ...]) -> list[Entry]:
    """DFER-CLIP's lists: `FRAME_DIR NUM_FRAMES LABEL`, labels counted from 0 in our order of `classes`.

    Raises DferError, with file and line, for a line that is not so; as all readers here do.
    """
    entries = []
    for number, line in read_lines(path):
        fields = re.fullmatch(r"(.+?)\s+(\d+)\s+(\d+)", line)
        if fields is None:
            raise bad_line(path, number, f"{line!r} is not FRAME_DIR NUM_FRAMES LABEL")
        if re.search(r"\s\d+\s+\d+[^/\s]*/", fields[1]):
            raise bad_line(
                path, number, f"{line!r} is two lines run together; end each file with a newline before joining"
            )
        if int(fields[3]) >= len(classes):
            raise bad_line(path, number, f"label {fields[3]} is not 0 to {len(classes) - 1}")
        entries.append(Entry(fields[1].replace("\\", "/"), classes[int(fields[3])], int(fields[2])))
    return entries


def read_dfew(path: Path) -> list[Entry]:
    """DFEW's `set_N.csv`: header `video_name,label`, labels 1 to 7; clips are named by five digits."""
    entries = []
    for number, row in read_rows(path, ("video_name", "label")):
        name, label = row["video_name"], row["label"]
        if not name.isdecimal():
            raise bad_line(path, number, f"video_name {name!r} is not a number")
        if label not in {str(i) for i in range(1, 8)}:
            raise bad_line(path, number, f"label {label!r} is not 1 to 7")
        entries.append(Entry(name.zfill(5), DFEW_NUMBERS[int(label) - 1]))
    return entries


def read_named(path: Path, classes: tuple[str, ...]) -> list[Entry]:
    """FERV39k's and MAFW's lists: `CLIP LABEL` with the label's name (`Action/Sad/0010 Sad`, `03747.mp4 anger`)."""
    entries = []
    for number, line in read_lines(path):
        fields = line.split()
        if len(fields) != 2:
            raise bad_line(path, number, f"{line!r} is not CLIP LABEL, one space between")
        entries.append(Entry(fields[0], class_name(fields[1], classes, path, number)))
    return entries


def read_table(path: Path, split: str, fold: int) -> tuple[list[Entry], tuple[str, ...]]:
    """A CSV with columns clip, label and split, optionally fold and person: the rows of one split, and the classes.

    A row with an empty fold is in every fold; rows of one person are of one group. Classes are MAFW's eleven when the
    table names one of the four that only MAFW has, in whatever split, else the seven.
    """
    entries: list[Entry] = []
    labels, splits, folds = set(), set(), set()
    for number, row in read_rows(path, ("clip", "label", "split")):
        label = class_name(row["label"], MAFW_EXPRESSIONS, path, number)
        listed = row.get("fold", "")
        if listed and not listed.isdecimal():
            raise bad_line(path, number, f"fold {listed!r} is not a number")
        if not row["clip"]:
            raise bad_line(path, number, "the clip has no name")
        labels.add(label)
        splits.add(row["split"])
        folds.add(listed)
        if row["split"] == split and listed in ("", str(fold)):
            entries.append(Entry(row["clip"].replace("\\", "/"), label, group=row.get("person") or None))
    if not entries or (fold != 1 and folds == {""}):
        present = (
            f"its splits are {', '.join(sorted(splits))} and its folds {', '.join(sorted(folds - {''})) or 'none'}"
        )
        raise DferError(f"{path}: no rows with split {split!r} and fold {fold}; {present}")
    return entries, _classes_of(labels)


def read_folder(root: Path, split: str) -> tuple[list[Entry], tuple[str, ...]]:
    """ROOT/CLASS/clip or ROOT/SPLIT/CLASS/clip: the clips of one split, relative to `root`, and the classes.

    Without folders named train, val or test, all clips belong to whatever split is asked for. Classes as in
    `read_table`. Files that are not videos, and hidden ones, are left out.
    """
    splits = [name for name in SPLITS if (root / name).is_dir()]
    if splits and split not in splits:
        raise DferError(f"{root}: no folder {split}; there are {', '.join(splits)}")
    entries: list[Entry] = []
    labels = set()
    for part in [root / name for name in splits] or [root]:
        for folder in _visible(part):
            if not folder.is_dir():
                continue
            label = class_name(folder.name, MAFW_EXPRESSIONS, folder)
            labels.add(label)
            if not splits or part.name == split:
                clips = [path for path in _visible(folder) if path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES]
                entries.extend(Entry(clip.relative_to(root).as_posix(), label) for clip in clips)
    if not entries:
        raise DferError(f"{root}: no clips; expected {'SPLIT/' if splits else ''}CLASS/clip.mp4 or folders of frames")
    return entries, _classes_of(labels)


def class_name(text: str, allowed: tuple[str, ...], path: Path, line: int | None = None) -> str:
    """Our name of a class. Raises DferError, naming the list and line, for one that is not `allowed`."""
    name = text.strip().lower()
    name = ALIASES.get(name, name)
    if name not in allowed:
        raise bad_line(
            path, line, f"unknown label {text!r}; allowed are {', '.join(allowed)} (or happy, sad, angry, …)"
        )
    return name


def _classes_of(labels: set[str]) -> tuple[str, ...]:
    return EXPRESSIONS if labels <= set(EXPRESSIONS) else MAFW_EXPRESSIONS


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))

"""Readers for lists of labelled clips: the benchmarks' own, DFER-CLIP's, a CSV table, a folder for each class.

Each reader returns `Entry`s in the order of the list, with labels mapped to our class names. Numeric labels are
decoded as the list's authors define them.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from ...runtime.errors import DferError
from ...runtime.labels import EXPRESSIONS, MAFW_EXPRESSIONS, name_fault
from ...runtime.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ...runtime.sources.tables import bad_line, read_lines, read_rows

ALIASES = {
    "happy": "happiness",
    "sad": "sadness",
    "angry": "anger",
    "surprised": "surprise",
    "disgusted": "disgust",
    "fearful": "fear",
}
SYNONYMS = {
    "joy": "happiness",
    "joyful": "happiness",
    "smile": "happiness",
    "laughter": "happiness",
    "sorrow": "sadness",
    "crying": "sadness",
    "calm": "neutral",
    "none": "neutral",
    "rage": "anger",
    "mad": "anger",
    "amazement": "surprise",
    "aversion": "disgust",
    "scared": "fear",
    "afraid": "fear",
    "anxious": "anxiety",
    "worry": "anxiety",
    "helpless": "helplessness",
    "disappointed": "disappointment",
    "scorn": "contempt",
}
"""Words for which error messages suggest our names. They are not mapped, since they may be custom classes; only a test
on other data maps them, and reports it (`matching.py`)."""
EMOTION_STEMS = (
    *("happi", "unhapp", "joyous", "enjoy", "smili", "grin(?!d)", "laugh", "cheer", "delight", "glad", "pleas"),
    *("excite", "sadly", "sadness", "sadde", "sorr", "cries", "cried", "cry(?!s)", "weep", "wept", "sob", "tearful"),
    *("grief", "griev", "gloom", "melanchol", "angri", "furious", "fury", "raging", "irritat", "annoy", "hostil"),
    *("outrag", "surprisi", "amaz", "astonish", "startl", "shock", "revuls", "revolt", "repuls", "terr", "fright"),
    *("panic", "horr", "scare", "contempt", "scorn", "disdain", "anxi", "worri", "nervous", "powerless"),
    *("disappoint", "upset", "distress", "frustrat", "serene"),
)
"""Regular expressions for the stems of further words that name an emotion in a text (see `emotion_words`)."""
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "publictest"), "val"),  # the last is FER2013's, as privatetest
    **dict.fromkeys(("test", "testing", "privatetest"), "test"),
}
"""What folders of splits, and splits in tables of photographs to prepare, may be called, in lower case, and the split
that each is."""
TABLE = "labels.csv"
"""File name of the table in a folder of clips or photographs."""
LITTER = ("__MACOSX", "@eaDir")
"""How folders begin that archives and servers leave among others."""
_STORES = ("*/made-from.json", "landmarks-*/*.npy")
"""What is in folders of stored features and landmarks, which dfer-train leaves beside its output."""
DFEW_NUMBERS = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")  # from 1


@dataclass(frozen=True)
class Entry:
    """One listed clip.

    clip: frame folder or video, relative to the data set's clips or absolute, with "/" as separator.
    label: name of the class. count: number of frames, if listed. group: person or film, if listed.
    """

    clip: str
    label: str
    count: int | None = None
    group: str | None = None


def read_dfer_clip(path: Path, classes: tuple[str, ...]) -> list[Entry]:
    """Read DFER-CLIP's lists: `FRAME_DIR NUM_FRAMES LABEL`, labels counted from 0 in the order of `classes`.

    Raises DferError, with file and line, for a malformed line, as all readers here do.
    """
    entries = []
    for number, line in read_lines(path):
        fields = re.fullmatch(r"(.+?)\s+(\d+)\s+(\d+)\s*", line)
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
    """Read DFEW's `set_N.csv`: header `video_name,label`, labels 1 to 7; clip names have five digits."""
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
    """Read FERV39k's and MAFW's lists: `CLIP LABEL` with a label's name (`Action/Sad/0010 Sad`, `03747.mp4 anger`)."""
    entries = []
    for number, line in read_lines(path):
        fields = line.split()
        if len(fields) != 2:
            raise bad_line(path, number, f"{line!r} is not CLIP LABEL, one space between")
        entries.append(Entry(fields[0], class_name(fields[1], classes, path, number)))
    return entries


def read_table(
    path: Path, split: str, fold: int, warn: Callable[[str], object] = lambda _: None
) -> tuple[list[Entry], tuple[str, ...]]:
    """Read the rows of one split, and the classes, of a CSV with columns clip, label, split, [fold], [person].

    A row with an empty fold is in every fold; rows of one person form a group. Classes are `classes_of` the labels of
    all splits. A clip in two rows of one fold, whatever their splits, is an error.
    """
    entries: list[Entry] = []
    labels: dict[str, int] = {}
    splits, folds = set(), set()
    seen: dict[str, dict[str, int]] = {}
    for number, row in read_rows(path, ("clip", "label", "split"), ("fold", "person")):
        label = own_name(row["label"], path, number)
        listed = row.get("fold", "")
        if listed:
            _fold_number(listed, path, number)
        if not row["clip"]:
            raise bad_line(path, number, "the clip has no name")
        labels.setdefault(label, number)
        splits.add(row["split"])
        folds.add(listed)
        clip = row["clip"].replace("\\", "/")
        check_once(seen, clip, path, number, listed)
        if row["split"] == split and listed in ("", str(fold)):
            entries.append(Entry(clip, label, group=row.get("person") or None))
    if not entries or (fold != 1 and folds == {""}):
        present = (
            f"its splits are {', '.join(sorted(splits))} and its folds {', '.join(sorted(folds - {''})) or 'none'}"
        )
        raise DferError(f"{path}: no rows with split {split!r} and fold {fold}; {present}")
    return entries, classes_of(labels, path, warn)


def read_folder(
    root: Path, split: str, warn: Callable[[str], object] = lambda _: None
) -> tuple[list[Entry], tuple[str, ...]]:
    """List the clips of one split, relative to `root`, and the classes, of ROOT/[SPLIT/]CLASS/…/clip.

    A clip is a video, or a folder with pictures; one with nothing in it counts as a clip that has lost its frames.
    split: any of its names (`SPLITS`). Without folders of such names, all clips belong to the requested split. Classes
    are `classes_of` the folders of all splits. Files that are not videos, hidden files, and folders without clips or
    with stored features, are ignored.
    Raises DferError if dfer-prepare wrote photographs here, whose folder would be mistaken for a class.
    """
    splits, split = splits_in(root), SPLITS.get(split.lower(), split)
    if splits and split not in splits:
        raise DferError(f"{root}: no folder {split}; there are {', '.join(splits.values())}")
    if not splits and holds_photographs(root):
        raise DferError(
            f"{root}: images/ beside labels.csv holds photographs, not clips; prepare them into a folder of their own, "
            "whose labels.csv is for --stills"
        )
    entries: list[Entry] = []
    labels: dict[str, int | None] = {}
    for part in [root / name for name in splits.values()] or [root]:
        for folder, clips in _class_folders(part):
            label = own_name(folder.name, folder)
            labels[label] = None
            if not splits or part.name == splits[split]:
                entries.extend(Entry(clip.relative_to(root).as_posix(), label) for clip in clips)
    if not entries:
        raise DferError(f"{root}: no clips; expected {'SPLIT/' if splits else ''}CLASS/clip.mp4 or folders of frames")
    return entries, classes_of(labels, root, warn)


def check_once(seen: dict[str, dict[str, int]], name: str, path: Path, line: int, fold: str = "") -> None:
    """Add a row to `seen`, the lines of each clip or photograph by fold ("": in every fold).

    name: with "/" as separator. Raises DferError if the same fold has another row of it: the two could have different
    labels, or one be trained and the other tested on.
    """
    lines = seen.setdefault(PurePosixPath(name).as_posix(), {})
    other = lines.get(fold, lines.get("")) if fold else next(iter(lines.values()), None)
    if other is not None:
        same = f" of fold {fold}" if fold else ""
        raise bad_line(path, line, f"{name} is in line {other}, too; keep one of these rows{same}")
    lines[fold] = line


def splits_of_table(path: Path, fold: int) -> dict[str, str]:
    """Return the split of each clip of a table (see `read_table`) in one fold; not "train" for a clip in several.

    The table needs no labels; without splits, all of its clips are "train".
    """
    rows = [
        (row["clip"].replace("\\", "/"), row.get("split", "train"))
        for _, row in read_rows(path, ("clip",), ("split", "fold"))
        if row.get("fold", "") in ("", str(fold))
    ]
    return dict(sorted(rows, key=lambda row: row[1] != "train"))


def folds_of_table(path: Path) -> list[int]:
    """Return the numbers of a table's folds, ascending. Raises DferError if it has none."""
    found: set[int] = set()
    for line, row in read_rows(path, ("clip",), ("fold",)):
        if fold := row.get("fold"):
            found.add(_fold_number(fold, path, line))
    if not found:
        raise DferError(f"{path}: no row has a fold; name one model, without {{fold}}")
    return sorted(found)


def holds_photographs(root: Path) -> bool:
    """Return whether `dfer-prepare --photos` wrote this folder."""
    return (root / "images").is_dir() and (root / TABLE).is_file()


def splits_in(root: Path) -> dict[str, str]:
    """Return the name of each split's folder in a folder of clips; empty if it is not divided.

    Raises DferError for two folders of one split.
    """
    found: dict[str, str] = {}
    for name in sorted(path.name for path in root.glob("*") if path.name.lower() in SPLITS and path.is_dir()):
        other = found.setdefault(SPLITS[name.lower()], name)
        if other != name:
            raise DferError(f"{root}: {other} and {name} are both the {SPLITS[name.lower()]} split; join them")
    return found


def splits_of_folder(root: Path) -> dict[str, str]:
    """Return the split of each clip in a folder (see `read_folder`); "train" for all if it is not divided."""
    splits = splits_in(root)
    return {
        clip.relative_to(root).as_posix(): split
        for split, name in (splits or {"train": ""}).items()
        for _, clips in _class_folders(root / name)
        for clip in clips
    }


def our_name(text: str) -> str:
    """Return a label in lower case and composed letters (NFC, since some disks keep accents apart); for a short form of
    one of our classes, that class: happiness for Happy."""
    name = unicodedata.normalize("NFC", text.strip().lower())
    return ALIASES.get(name, name)


def class_name(text: str, allowed: tuple[str, ...], path: Path, line: int | None = None, others: str = "") -> str:
    """Return our name of a class. Raises DferError, naming the list and line, for one that is not `allowed`.

    others: appended to that error, to say where other names are accepted.
    """
    name = our_name(text)
    if name not in allowed:
        meant = _suggestion(name)
        hint = f"; did you mean {meant}?" if meant in allowed else ""
        short = " (or happy, sad, angry, …)" if set(EXPRESSIONS) <= set(allowed) else ""
        raise bad_line(path, line, f"unknown label {text!r}; allowed are {', '.join(allowed)}{short}{hint}{others}")
    return name


def own_name(text: str, path: Path, line: int | None = None) -> str:
    """Return a label as one of our classes or a custom one. Raises DferError if it is not a valid name."""
    name = our_name(text)
    fault = name_fault(name)
    if fault is not None:
        raise bad_line(path, line, f"label {text!r} {fault}")
    return name


def meaning(name: str) -> str:
    """Return our name, in lower case, for a class or its synonym: happiness for joy and Happy, pain for pain."""
    known = unicodedata.normalize("NFC", name.lower())
    return ALIASES.get(known, SYNONYMS.get(known, known))


def classes_of(
    labels: Mapping[str, int | None], path: Path, warn: Callable[[str], object] = lambda _: None
) -> tuple[str, ...]:
    """Return the classes of data with these labels (label → a line with it): the seven expressions if they include all
    labels, else MAFW's eleven if those do, else the labels themselves, sorted.

    Raises DferError for a synonym or misspelling of ours if all other labels are ours. If there are labels of another
    kind, or a synonym stands beside what it means, as calm beside neutral, it stays, and `warn` is called.
    """
    if labels.keys() <= set(EXPRESSIONS):
        return EXPRESSIONS
    if labels.keys() <= set(MAFW_EXPRESSIONS):
        return MAFW_EXPRESSIONS
    if labels.keys() & set(MAFW_EXPRESSIONS):
        scheme = MAFW_EXPRESSIONS if labels.keys() & set(MAFW_EXPRESSIONS[len(EXPRESSIONS) :]) else EXPRESSIONS
        alike = {label: _suggestion(label) for label in labels if label not in MAFW_EXPRESSIONS}
        meant = [alike.get(label, label) for label in labels]
        ours, apart = set(meant) <= set(scheme), len(set(meant)) == len(meant)
        for label, other in alike.items():
            if ours and (apart or label not in SYNONYMS):
                class_name(label, MAFW_EXPRESSIONS, path, labels[label])
            if other is not None:
                warn(f"{path}: {label} is a class of its own; if it means {other}, write that")
    return tuple(sorted(labels))


def emotion_words(classes: Sequence[str]) -> re.Pattern[str]:
    """Return a case-insensitive pattern for words that name one of `classes`, of our expressions, or a synonym of one.

    Names of four letters and more are also found as prefixes: pain in painful.
    """
    names = {*classes, *MAFW_EXPRESSIONS, *ALIASES, *SYNONYMS} - {"none"}  # a label, but an everyday word in a text
    beginnings = [*EMOTION_STEMS, *(re.escape(name) for name in sorted(names) if len(name) > 3)]
    found = [rf"(?:{'|'.join(beginnings)})\w*", *map(re.escape, sorted(names))]
    return re.compile(rf"(?<!\w)(?:{'|'.join(found)})(?!\w)", re.IGNORECASE)


def few_missing(what: str, missing: Sequence[Path], total: int, allowed: float) -> str:
    """Return a sentence that says how many of `total` are missing or cannot be read, and names the first ten.

    allowed: the share that may be missing. Raises DferError with that sentence if more are, or if none is left.
    """
    if not total:
        raise DferError("the list names no clips")
    named = ", ".join(str(path) for path in missing[:10]) + (", …" if len(missing) > 10 else "")
    told = f"{len(missing)} of {total} {what} ({len(missing) / total:.1%}) are missing or cannot be read"
    if len(missing) > allowed * total or len(missing) == total:
        raise DferError(f"{told}, more than the {allowed:.1%} allowed: {named}")
    return f"{told} and are left out: {named}"


def _suggestion(name: str) -> str | None:
    """Return the class of ours that a word probably means, or None."""
    alike = get_close_matches(name, [*MAFW_EXPRESSIONS, *ALIASES, *SYNONYMS], 1, cutoff=0.8)
    return meaning(alike[0]) if alike and alike[0][0] == name[0] else None  # unhappy is not happy


def _fold_number(text: str, path: Path, line: int) -> int:
    if not text.isdecimal():
        raise bad_line(path, line, f"fold {text!r} is not a number")
    return int(text)


def _class_folders(part: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each class's folder and its clips. A folder without any, or of stored features, is no class."""
    for folder in _visible(part):
        stored = any(next(folder.glob(pattern), None) for pattern in _STORES)
        if folder.is_dir() and not stored and (clips := _clips_in(folder)):
            yield folder, clips


def _clips_in(folder: Path) -> list[Path]:
    """Return the clips of a class at any depth. Raises DferError for the folder of a class or split among them."""
    clips: list[Path] = []
    for path in _visible(folder):
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
            clips.append(path)
        elif path.is_dir() and not (path.is_symlink() and folder.resolve().is_relative_to(path.resolve())):
            below = [] if _holds_pictures(path) else _clips_in(path)
            if below and (path.name.lower() in SPLITS or our_name(path.name) in MAFW_EXPRESSIONS):
                raise DferError(f"{path}: lies inside the folder of a class; expected [train|val|test/]CLASS/…/clip")
            clips += below or [path]
    return clips


def _holds_pictures(folder: Path) -> bool:
    try:
        with os.scandir(folder) as files:
            return any(Path(file.name).suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "." for file in files)
    except OSError:
        return True  # whoever opens the clip says what is wrong


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", *LITTER)))

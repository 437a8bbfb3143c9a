"""Cut the face out of each photograph, aligned as the runtime aligns it, and list all in one table for training.

A crop gets its name only when it is complete, so an interrupted run resumes where it stopped. Crops of photographs that
have changed since are cut again.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import DferError
from ...runtime.faces.alignment import align
from ...runtime.faces.detection import Face, FaceDetector
from ...runtime.faces.orientation import OrientationVote
from ...runtime.labels import MAFW_EXPRESSIONS
from ...runtime.sources import IMAGE_SUFFIXES, folders_below, read_image
from ...runtime.sources.tables import find_image, read_rows
from ...runtime.storage import atomic_write
from ..data.lists import LITTER, SPLITS, TABLE, classes_of, our_name, own_name
from .copies import find_copies
from .films import PICTURES, Stamp, check_size, jpeg, own_detector, stamp_of, warn_of_foreign, write_rows
from .processes import run_in_processes

REPORT, COPIES = "report.csv", "copies.csv"
KEPT = ("ok", "turned")
_COLUMNS = ("image", "state", "bytes", "modified_ns")
State = Literal["ok", "turned", "no-face", "unreadable", "copy"]

_SMALL = 160  # pictures with a shorter side below this, in pixels, are enlarged for the detector
_ENLARGED = 192  # approximate shorter side after that, pixels
_BORDER = 1 / 3  # of the side, replicated around faces that fill their picture: the detector needs some margin
_VALIDATION = 0.1  # share of the photographs without a split that goes to "val"
_AGREEMENT = 0.5  # share of two photographs' votes that must agree if the photographs are only similar
_CHUNK = 16  # photographs per task of a worker


@dataclass(frozen=True)
class Photograph:
    """path: of the picture. name: relative path of its crop, with "/" as separator. cells: its row in the table.

    line: of the row in the table that named it; None for one from a folder.
    """

    path: Path
    name: str
    cells: dict[str, str]
    line: int | None = None


@dataclass(frozen=True)
class Prepared:
    """The state of each photograph, by name, and how the splits were made: "given", "person" or "image".

    Photographs that are "turned" are kept, but their faces are not upright.
    """

    states: dict[str, State]
    split_by: Literal["given", "person", "image"]

    def count(self, state: State) -> int:
        return sum(other == state for other in self.states.values())


def find_photographs(place: Path, out: Path, warn: Callable[[str], object] = lambda _: None) -> list[Photograph]:
    """Return the photographs of a table, or of a folder [train|val|test/]CLASS/…/picture, like FER2013.

    A table is a CSV with the columns `image` and `label`, or a column of votes or shares for each class; other columns
    (`person`, `split`) are kept, with the splits' names that training knows (see `SPLITS`). Files in `out`, where crops
    are written, are ignored. `warn` is called with the number of pictures in a folder that cannot be taken.
    Raises DferError for a place without photographs, for bad tables, for two photographs whose crops would have the
    same name, and if `out` is where the input lies or has a file that training would take for a crop.
    """
    origin = place.parent if place.is_file() else place
    if origin.resolve() == out.resolve() or place.resolve() == (out / TABLE).resolve():
        raise DferError(f"{out}: faces must not go where {place} lies; name another folder")
    if place.is_file():
        found = [
            Photograph(find_image(place, row["image"], line), _crop_name(row["image"]), _with_known_split(row), line)
            for line, row in read_rows(place, ("image",), ("label", "person", "split"))
        ]
    else:
        files = sorted(path for _, files in folders_below(place, out) for path in files)
        names = {path: name for path in files if not _hidden(name := PurePosixPath(path.relative_to(place)))}
        warn_of_foreign([path for path in names if path.suffix.lower() in PICTURES], place, ".jpg", warn)
        found = [
            Photograph(path, _crop_name(name.as_posix()), {"image": name.as_posix(), **_cells_of(name)})
            for path, name in names.items()
            if path.suffix.lower() in IMAGE_SUFFIXES
        ]
    if not found:
        raise DferError(
            f"{place}: no photographs; expected [train|val|test/]CLASS/picture, or a table with a column image"
        )
    _check_apart(found, place)
    beside = next((out / one.name for one in found if (out / one.name).is_file()), None)
    if beside is not None:  # the new table's rows are sought beside it first
        raise DferError(f"{out}: training would read {beside} in place of its face; name another folder")
    return found


def prepare_photographs(
    place: Path,
    out: Path,
    size: int = 128,
    workers: int = 1,
    progress: Callable[[int, int], object] = lambda *_: None,
    comparing: Callable[[int, int], object] = lambda *_: None,
    tell: Callable[[str], object] = lambda _: None,
    warn: Callable[[str], object] = lambda _: None,
) -> Prepared:
    """Write crops, size×size, to OUT/images, the table OUT/labels.csv, and reports of what was left out.

    Photographs without a face, unreadable ones, and all but one of several copies are left out and listed; of copies in
    different splits, the training one is dropped. Photographs of one split that are only similar are no copies if their
    labels differ or less than half of their votes agree. Photographs without a split get that of
    their person's others, or a new one: 10 % are "val", with each person's together if the table names people.
    progress: called with the photographs cut and all; comparing: with the crops compared and all, in search of copies.
    tell, warn: called with a line on the classes, and warnings of them, before faces are cut; warn also if copies have
    different labels. Raises DferError as `find_photographs` and `classes_of` do, and if OUT cannot be written or holds
    crops of another size.
    """
    photographs = find_photographs(place, out, warn)
    _tell_classes(photographs, place, tell, warn)
    try:
        (out / "images").mkdir(parents=True, exist_ok=True)
        check_size((out / "images" / one.name for one in photographs), out, size)
        states: dict[str, State] = {}
        stamps = {one.name: stamp_of(one.path) for one in photographs}
        todo = _unfinished(photographs, stamps, out)
        for name, state in _cut_all(photographs, todo, out / "images", size, workers):
            states[name] = state
            progress(len(states), len(photographs))
        kept = [photograph for photograph in photographs if states[photograph.name] in KEPT]
        copies = _drop_copies(kept, out / "images", comparing)
        states |= dict.fromkeys((copy.name for copy, _, _ in copies), "copy")
        kept = [photograph for photograph in kept if states[photograph.name] in KEPT]
        split_by = _give_splits(kept, photographs)
        columns = ["image", *(name for name in photographs[0].cells if name != "image")]
        columns += [name for name in ("person", "split") if name not in columns]
        write_rows(
            out / TABLE, columns, ([one.name, *(one.cells.get(name, "") for name in columns[1:])] for one in kept)
        )
        write_rows(
            out / REPORT,
            _COLUMNS,
            ([one.cells["image"], states[one.name], *stamps[one.name]] for one in photographs),
        )
        write_rows(
            out / COPIES,
            ["image", "copy_of", "labels"],
            ([one.cells["image"], of.cells["image"], "agree" if agree else "differ"] for one, of, agree in copies),
        )
        if contrary := sum(not agree for _, _, agree in copies):
            warn(
                f"{place}: {contrary} of {len(copies)} copies left out differ in label, or in most votes, from the "
                f'photograph kept; see which is right ("differ" in {COPIES})'
            )
    except OSError as error:
        raise DferError(f"{error.filename or out}: {error.strerror or error}") from error
    return Prepared(states, split_by)


def cut_face(
    image: NDArray[np.uint8], detector: FaceDetector, size: int, vote: OrientationVote | None = None
) -> NDArray[np.uint8] | None:
    """Return the face of a photograph, RGB [H,W,3], as an aligned crop [size,size,3]; None if none is found.

    vote: gets the face, to decide which way up it is.

    Of several faces, a large one near the middle is taken. Small pictures, and those in which no face is found, perhaps
    because it fills the picture, are searched enlarged and with a replicated border.
    """
    side = min(image.shape[:2])
    pictures = [_widen(image)] if side < _SMALL else [image, _widen(image)]
    for picture in pictures:
        faces = detector.detect(picture)
        if faces:
            main = max(faces, key=lambda face: _prominence(face, picture.shape))
            if vote is not None:
                vote.add(picture, [main])
            return align(picture, main.landmarks, size)
    return None


def _widen(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    side = min(image.shape[:2])
    edge = round(side * _BORDER)
    wide = cv2.copyMakeBorder(image, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
    scale = max(1, round(_ENLARGED / side))
    if scale > 1:
        wide = cv2.resize(wide, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return np.asarray(wide, np.uint8)


def _prominence(face: Face, shape: tuple[int, ...]) -> float:
    x, y, width, height = face.box
    across, down = (x + width / 2) / shape[1] - 0.5, (y + height / 2) / shape[0] - 0.5
    return face.size * (1 - min(1.0, float(np.hypot(across, down))))


def _unfinished(photographs: Sequence[Photograph], stamps: Mapping[str, Stamp], out: Path) -> list[Photograph]:
    """Return those that no earlier run cut and found upright, or that have changed since."""
    earlier: dict[str, tuple[str, Stamp]] = {}
    if (out / REPORT).is_file():
        with (out / REPORT).open(newline="", encoding="utf-8") as report:
            table = csv.DictReader(report)
            if tuple(table.fieldnames or ()) == _COLUMNS:  # earlier versions recorded no stamps
                earlier = {row["image"]: (row["state"], (row["bytes"], row["modified_ns"])) for row in table}
    return [
        one
        for one in photographs
        if not _is_current(out / "images" / one.name, earlier.get(one.cells["image"]), stamps[one.name])
    ]


def _is_current(crop: Path, before: tuple[str, Stamp] | None, now: Stamp) -> bool:
    if not crop.is_file() or _mark(crop).exists():
        return False
    if before is None:  # a stopped run cut it
        return crop.stat().st_mtime_ns >= int(now[1] or 0)
    return before[0] in ("ok", "copy") and before[1] == now


def _cut_all(
    photographs: Sequence[Photograph], todo: Sequence[Photograph], out: Path, size: int, workers: int
) -> Iterator[tuple[str, State]]:
    """Yield name and state of each, in any order; first those that are not to do, which are "ok"."""
    left = {one.name for one in todo}
    yield from ((one.name, "ok") for one in photographs if one.name not in left)
    cut = run_in_processes(partial(_cut, out=out, size=size), todo, workers, _CHUNK)
    yield from zip((one.name for one in todo), cut, strict=True)


def _cut(photograph: Photograph, out: Path, size: int) -> State:
    image = read_image(photograph.path)
    if image is None:
        return "unreadable"
    target, vote = out / photograph.name, OrientationVote()
    mark, crop = _mark(target), cut_face(image, own_detector(), size, vote)
    if crop is None:
        return "no-face"
    target.parent.mkdir(parents=True, exist_ok=True)
    if vote.degrees:
        mark.touch()  # first, so that if this run is interrupted, the next one cuts it again
    with atomic_write(target) as aside:
        aside.write_bytes(jpeg(crop))
    if vote.degrees:
        return "turned"
    mark.unlink(missing_ok=True)
    return "ok"


def _mark(target: Path) -> Path:
    """Return the path of the file that marks a crop as not upright for later runs."""
    return target.with_suffix(".turned")


def _drop_copies(
    kept: Sequence[Photograph], folder: Path, comparing: Callable[[int, int], object]
) -> list[tuple[Photograph, Photograph, bool]]:
    """Return triples: copy to leave out, photograph to keep, whether their labels agree. A test picture is kept rather
    than a training one."""
    order = sorted(kept, key=_rank)
    shares, splits = _shares(order), np.array([one.cells.get("split", "") for one in order])

    def agree(ones: NDArray[np.int64], other: int) -> NDArray[np.bool_]:
        common = np.minimum(shares[ones], shares[other]).sum(axis=1)
        return np.asarray((common >= _AGREEMENT) | ~shares[ones].any(axis=1) | ~shares[other].any(), np.bool_)

    def agree_or_leak(ones: NDArray[np.int64], other: int) -> NDArray[np.bool_]:
        between = (splits[ones] != splits[other]) & (splits[ones] != "") & (splits[other] != "")
        return np.asarray(between | agree(ones, other), np.bool_)

    crops = (np.asarray(cv2.imread(str(folder / one.name), cv2.IMREAD_GRAYSCALE), np.uint8) for one in order)
    comparing(0, len(order))
    first = find_copies(crops, agree_or_leak, lambda share: comparing(round(share * len(order)), len(order)))
    return [
        (order[copy], order[of], bool(agree(first[copy : copy + 1], copy)))
        for copy, of in enumerate(first.tolist())
        if of != copy
    ]


def _shares(photographs: Sequence[Photograph]) -> NDArray[np.float32]:
    """Return what each is said to show, float32 [N,C]: 1 for its label, or the shares of its votes for expressions; 0
    without either."""
    header = photographs[0].cells if photographs else ()
    columns = {name: our_name(name) for name in header if our_name(name) in MAFW_EXPRESSIONS}
    labels = [our_name(one.cells.get("label", "")) for one in photographs]
    classes = {name: index for index, name in enumerate(sorted({*columns.values(), *labels} - {""}))}
    shares = np.zeros((len(photographs), len(classes)), np.float32)
    for row, label, one in zip(shares, labels, photographs, strict=True):
        if label:
            row[classes[label]] = 1
            continue
        for column, name in columns.items():
            with suppress(ValueError):  # training names a wrong cell with its line
                row[classes[name]] = float(one.cells[column] or 0)
        row /= max(float(row.sum()), 1e-6)
    return shares


def _give_splits(kept: Sequence[Photograph], photographs: Sequence[Photograph]) -> Literal["given", "person", "image"]:
    """Fill in missing splits; return how. A person's is that of the person's other photographs, if these have one; of
    several, rather test or val than train, so that training sees no more of those whom it is tested on."""
    bare = [one for one in kept if not one.cells.get("split")]
    people = {one.cells.get("person", "") for one in bare} - {""}
    given = [one for one in photographs if one.cells.get("split") and one.cells.get("person") in people]
    split = {one.cells["person"]: one.cells["split"] for one in sorted(given, key=_rank, reverse=True)}
    units = sorted({one.cells.get("person") or one.name for one in bare} - split.keys())
    chosen = np.random.default_rng(0).random(len(units)) < _VALIDATION
    split |= {unit: "val" if held_out else "train" for unit, held_out in zip(units, chosen.tolist(), strict=True)}
    for one in bare:
        one.cells["split"] = split[one.cells.get("person") or one.name]
    return "given" if not bare else "person" if people else "image"


def _rank(photograph: Photograph) -> int:
    """Return 0 for a test picture, 1 for val, 2 for train, 3 for others."""
    splits = ("test", "val", "train")
    split = photograph.cells.get("split", "")
    return splits.index(split) if split in splits else len(splits)


def _tell_classes(
    photographs: Sequence[Photograph], place: Path, tell: Callable[[str], object], warn: Callable[[str], object]
) -> None:
    labelled = [(own_name(one.cells["label"], place, one.line), one) for one in photographs if one.cells.get("label")]
    if not labelled:
        return
    classes_of({label: one.line for label, one in reversed(labelled)}, place, warn)
    counts = sorted(Counter(label for label, _ in labelled).items())
    tell(f"classes: {', '.join(f'{label} ({count})' for label, count in counts)}")
    numbers = [label for label, _ in counts if label.isdecimal()]
    if numbers:
        named = f"{', '.join(numbers)} {'is a class' if len(numbers) == 1 else 'are classes'}"
        warn(f"{place}: {named} without a name; stop, and rename what the data set's list says they mean")


def _check_apart(photographs: Sequence[Photograph], place: Path) -> None:
    owners: dict[str, Photograph] = {}
    for one in photographs:
        first = owners.setdefault(one.name, one)
        if first is not one:
            image, other = one.cells["image"], first.cells["image"]
            told = f"{image} is in two rows; join them" if other == image else f"{other} and {image} differ; rename one"
            raise DferError(f"{place}: only one photograph can become {one.name}, but {told}")


def _crop_name(name: str) -> str:
    path = PureWindowsPath(name)  # reads / and \\ alike
    parts = path.parts[bool(path.anchor) :]
    return PurePosixPath(*(part for part in parts if part != "..")).with_suffix(".jpg").as_posix()


def _with_known_split(row: dict[str, str]) -> dict[str, str]:
    split = row.get("split", "")
    return row | {"split": SPLITS[split.lower()]} if split.lower() in SPLITS else row


def _cells_of(name: PurePosixPath) -> dict[str, str]:
    """Return label and split from the folders above a picture."""
    folders = list(name.parts[:-1])
    split = SPLITS[folders.pop(0).lower()] if folders and folders[0].lower() in SPLITS else ""
    if not folders:
        raise DferError(f"{name}: lies in no folder that names its class")
    return {"label": folders[0], "person": "", "split": split}


def _hidden(name: PurePosixPath) -> bool:
    return any(part.startswith(LITTER) for part in name.parts)

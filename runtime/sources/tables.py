"""Lists of images and clips as text: numbered lines, rows of a CSV with a header, and the images that rows name."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import DferError


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Return the lines that are not blank, stripped, with their line numbers.

    Raises DferError for what is not a text file in UTF-8, or in UTF-16 with a byte order mark, as spreadsheets save it.
    """
    try:
        content = path.read_bytes()
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except OSError as error:
        raise DferError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DferError(f"{path}: not a text file in UTF-8; save it so") from error
    return ((number, line.strip(" \r")) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def read_rows(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield rows of a CSV as dicts by the names in its first line, with their line numbers; cells are stripped.

    The delimiter is a comma, or a semicolon or tab if the first line has no comma.
    columns: names that the first line must include. optional: further names that the caller reads. Both are in lower
    case, and found in any case.
    Raises DferError, naming file and line, if columns are missing or named twice, or a row has fewer or more cells.
    """
    numbered = list(read_lines(path))
    first = numbered[0][1] if numbered else ""
    mark = next((mark for mark in ",;\t" if mark in first), ",")
    rows = csv.DictReader((line for _, line in numbered), delimiter=mark)
    try:
        rows.fieldnames = _column_names(rows.fieldnames or (), (*columns, *optional), path)
        if not set(columns) <= set(rows.fieldnames):
            raise DferError(f"{path}: the first line must name the columns {','.join(columns)}")
        for row in rows:
            number = numbered[rows.line_num - 1][0]
            if None in row or None in row.values():
                raise bad_line(path, number, f"does not have the {len(rows.fieldnames)} columns of the first line")
            yield number, {name: cell.strip() for name, cell in row.items()}
    except csv.Error as error:
        raise bad_line(path, numbered[max(rows.reader.line_num, 1) - 1][0], str(error)) from error


def _column_names(header: Iterable[str], known: Sequence[str], path: Path) -> list[str]:
    names = [name.strip() for name in header]
    wanted = set(known) - set(names)  # a column of the very name comes first
    found = [name.lower() if name.lower() in wanted else name for name in names]
    twice = next((name for index, name in enumerate(found) if name and name in found[:index]), None)
    if twice is not None:
        raise DferError(f"{path}: two columns are called {twice}; drop or rename one")
    return found


def image_places(table: Path, name: str) -> tuple[Path, ...]:
    """Return where the image that a row names may be: beside the table, or in the folder `images/` there.

    A name with backslashes is sought as it is first, and then as a path of Windows.
    """
    names = dict.fromkeys((name, name.replace("\\", "/")))
    return tuple(folder / name for name in names for folder in (table.parent, table.parent / "images"))


def find_image(table: Path, name: str, line: int) -> Path:
    """Return the path of the image that a row names (see `image_places`). Raises DferError if there is none."""
    candidates = image_places(table, name)
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise bad_line(table, line, f"no such image: {' or '.join(map(str, candidates))}")
    return found


def bad_line(path: Path, line: int | None, what: str) -> DferError:
    """Return the error that names a list and its line."""
    return DferError(f"{path}{'' if line is None else f', line {line}'}: {what}")

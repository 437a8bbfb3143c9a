"""Is every face of an album reported in its own picture? Reads photographs of many sizes with `dfer-run --photos`.

    python benchmarks/photographs.py FACES_CSV WORK [--count 400]

FACES_CSV: a table with a column image, of photographs of one face each. Each is pasted at a random, known position into
a picture of a random size, and the album is read twice: as it is, and with its files renamed into another order. Every
row must name its picture, its box must lie inside the picture and on the face, and both runs must give the same rows.
Faces that are not found are counted, but are not errors.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import click
import cv2
import numpy as np


def paste(face: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Return a picture, BGR uint8 [H,W,3], with the face in it, and the face's left, top and side."""
    height, width = (int(side) for side in rng.integers(200, 1200, 2))
    side = int(rng.integers(100, min(height, width)))
    left, top = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    picture = np.full((height, width, 3), rng.integers(40, 200, 3), np.uint8)
    picture[top : top + side, left : left + side] = cv2.resize(face, (side, side))
    return picture, (left, top, side)


def read(album: Path, table: Path) -> list[dict[str, str]]:
    command = [Path(sys.executable).with_name("dfer-run"), album, "--photos", "--csv", table, "--quiet"]
    subprocess.run(command, check=True)
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


@click.command()
@click.argument("faces", type=click.Path(exists=True, path_type=Path))
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--count", default=400, show_default=True)
def main(faces: Path, work: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    with faces.open(newline="", encoding="utf-8-sig") as file:
        names = [row["image"] for row in csv.DictReader(file)]
    album, renamed = work / "album", work / "renamed"
    for folder in (album, renamed):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    places: dict[str, tuple[int, int, int]] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    other: dict[str, str] = {}
    order = rng.permutation(count)
    for number, index in enumerate(rng.choice(len(names), count)):
        picture, place = paste(cv2.imread(str(next(faces.parent.rglob(names[index])))), rng)
        name, again = f"{number:04}.png", f"{order[number]:04}.png"
        cv2.imwrite(str(album / name), picture)
        shutil.copy(album / name, renamed / again)
        places[name], sizes[name], other[again] = place, picture.shape, name
    rows = read(album, work / "album.csv")
    wrong = 0
    for row in rows:
        left, top, side = places[row["file"]]
        height, width, _ = sizes[row["file"]]
        x, y, w, h = (float(row[name]) for name in "xywh")
        inside = x >= 0 and y >= 0 and x + w <= width + 0.5 and y + h <= height + 0.5
        on_face = left <= x + w / 2 <= left + side and top <= y + h / 2 <= top + side
        if not (inside and on_face):
            wrong += 1
            print(f"{row['file']}: box {x:g},{y:g},{w:g},{h:g} in {width}×{height}, face at {left},{top}, {side} wide")
    again = [{**row, "file": other[row["file"]]} for row in read(renamed, work / "renamed.csv")]
    ignored = ("source", "frame", "time_s")

    def content(rows: list[dict[str, str]]) -> list[list[tuple[str, str]]]:
        return sorted(sorted((name, value) for name, value in row.items() if name not in ignored) for row in rows)

    same = content(rows) == content(again)
    found = len({row["file"] for row in rows})
    different = len(set(sizes.values()))
    print(f"{count} pictures of {different} sizes: a face found in {found}; {len(rows)} rows, {wrong} of them wrong")
    print(f"the same rows in another order of files: {'yes' if same else 'no'}")
    sys.exit(wrong > 0 or not same)


if __name__ == "__main__":
    main()

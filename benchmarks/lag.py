"""Lag of labels behind a face: predictions for the demo clip compared with its script, at several windows.

    python benchmarks/lag.py [--bundle B] [--windows 0.75,1,1.5,2] [--fps 8] [--smooth 0]

Right: share of the predictions of the two procedural people whose label matches the script at that moment, or `lag`
earlier; the best lag is the one with the largest share. Onset, offset: seconds from the start of an expression to
the first prediction of it, and from its end to the first other label; medians over expressions that were predicted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from pages import table

from dfer.runtime.predictions import Prediction
from dfer.runtime.procedural.demo import ROLES, SECONDS, demo_script, film_demo
from dfer.runtime.recognizer import Recognizer

LAGS = np.arange(0, 1.55, 0.05)
Script = Sequence[tuple[float, float, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="default: the demo model")
    parser.add_argument("--windows", default="0.75,1,1.5,2", help="seconds, with commas between")
    parser.add_argument("--fps", type=float, default=8.0)
    parser.add_argument("--smooth", type=float, default=0.0, help="seconds")
    options = parser.parse_args()
    rows = []
    with TemporaryDirectory() as folder:
        clip = Path(folder) / "demo.mp4"
        film_demo(clip)
        for window in map(float, options.windows.split(",")):
            with Recognizer(options.bundle, window=window, fps=options.fps, smooth=options.smooth, unsure=0) as ours:
                people = by_person(list(ours.stream(str(clip))))
            rows.append([f"{window:g} s", *measure(people)])
    print(table(("window", "right", "best lag", "right then", "onset", "offset"), rows))


def by_person(predictions: list[Prediction]) -> list[list[Prediction]]:
    """Return the predictions of each of `ROLES`, assigned by the position of the face."""
    people: list[list[Prediction]] = [[] for _ in ROLES]
    for one in predictions:
        middle = one.box[0] + one.box[2] / 2
        people[int(np.argmin([abs(role.x(one.time) - middle) for role in ROLES]))].append(one)
    return people


def measure(people: list[list[Prediction]]) -> list[str]:
    """Return right, best lag, right at that lag, onset and offset, as text."""
    pairs = [(one, script) for found, script in zip(people, demo_script(), strict=True) for one in found]
    shares = []
    for lag in LAGS:
        judged = [(one.label, shown_at(script, one.time - lag)) for one, script in pairs]
        known = [(label, shown) for label, shown in judged if shown is not None]
        shares.append(sum(label == shown for label, shown in known) / len(known))
    best = int(np.argmax(shares))
    onsets, offsets = [], []
    for found, script in zip(people, demo_script(), strict=True):
        for start, end, shown in script:
            after = [one.time for one in found if one.label == shown and start <= one.time < end + 1]
            if after:
                onsets.append(after[0] - start)
            if after and end < SECONDS - 1:
                later = [one for one in found if one.time >= end]
                still = next((one.time for one in later if one.label != shown), SECONDS)
                offsets.append(still - end)
    return [
        f"{shares[0]:.3f}",
        f"{LAGS[best]:.2f} s",
        f"{shares[best]:.3f}",
        f"{median(onsets):.2f} s",
        f"{median(offsets):.2f} s",
    ]


def shown_at(script: Script, time: float) -> str | None:
    """Return the script's label at a moment; None before and after it."""
    return next((label for start, end, label in script if start <= time < end), None)


if __name__ == "__main__":
    main()

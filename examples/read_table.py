"""What dfer-run's CSV says of each person, with pandas: mean probabilities, printed and drawn.

    pip install pandas
    dfer-run clip.mp4 --csv clip.csv && python read_table.py clip.csv means.png

Without arguments it reads the table that `dfer-run --demo` leaves.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # to files, not to a window
import pandas

from dfer.runtime.outputs.palette import hex_of


def main(table: str = "demo-output/predictions.csv", picture: str = "means.png") -> None:
    if not Path(table).is_file():
        sys.exit(f"{table}: no such file; dfer-run --demo makes one")
    rows = pandas.read_csv(table)
    columns = list(rows.columns)
    classes = columns[columns.index("entropy") + 1 : columns.index("state")]
    # A window that still fills, or a face too small, blurred or turned, says little.
    trusted = rows[(rows["state"] == "ready") & ~(rows["quality"] < 0.25)]
    if trusted.empty:
        sys.exit(f"{table}: no row is ready and clear: the video is shorter than the window, or its faces are poor")
    # No window fills for photographs, and person 1 of the next is somebody else.
    single = rows.groupby("source")["state"].transform(lambda states: (states == "ready").all())
    photo = rows["file"].where(single).fillna("").rename("photo")
    means = trusted.groupby(["source", photo, "track"])[classes].mean()
    print(means.round(3).to_string())

    people = means.set_axis([f"{photo} person {track}".strip() for _, photo, track in means.index])[:40]
    axis = people.plot.barh(
        stacked=True, color=[hex_of(name, classes) for name in classes], figsize=(9, 1.5 + 0.6 * len(people))
    )
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel=f"mean probability of {len(trusted)} trusted rows of {len(rows)}")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(classes), frameon=False, fontsize="small")
    axis.figure.savefig(picture, dpi=120, bbox_inches="tight")
    print(f"wrote {picture}")


if __name__ == "__main__":
    main(*sys.argv[1:])

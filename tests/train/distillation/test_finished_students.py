"""`--resume` of a finished student, with the data that it was made from and with others."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from dfer.runtime.errors import ParameterError
from dfer.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dfer.train.data.choice import DataChoice
from dfer.train.distillation.options import DistillOptions
from dfer.train.distillation.run import distill


def test_a_finished_student_is_not_taken_for_one_of_other_data(
    options: DistillOptions, folder: Path, tmp_path: Path
) -> None:
    """Whose places have the same names: tables of one folder, and folders of one name."""
    (tmp_path / "other").mkdir()
    table, faces = tmp_path / "faces.csv", sorted((folder / "faces").rglob("*.png"))
    rows = [f"{path},{path.parts[-3]},train,{path.parts[-2]}" for path in faces]
    table.write_text("\n".join(["image,label,split,person", *rows]))
    options = replace(options, faces=str(table), epochs=1, features=tmp_path / "features")
    first, options = distill(options), replace(options, resume=True)
    assert distill(options) == first
    (other := tmp_path / "other" / "faces.csv").write_text("\n".join(["image,label,split,person", *rows[7:]]))
    with pytest.raises(ParameterError, match=r"student\.pt was made with other settings \(crops\)"):
        distill(replace(options, faces=str(other)))

    clips = [f"{path.parent},{path.parts[-3]},train,{path.parts[-2]}" for path in faces]
    (one := tmp_path / "one.csv").write_text("\n".join(["clip,label,split,person", *clips]))
    (two := tmp_path / "two.csv").write_text("\n".join(["clip,label,split,person", *clips[7:]]))
    data = DataChoice("csv", folder, lists=one, workers=1)
    untuned = replace(options, labelled=data, tune_head=False)
    figures = distill(untuned).teacher
    log = StringIO()
    assert distill(untuned, Console(file=log)).teacher == figures and "nothing to resume" in log.getvalue()
    log = StringIO()
    distill(replace(untuned, labelled=replace(data, lists=two)), Console(file=log))
    assert "nothing to resume" not in log.getvalue()  # these are measured

    tuning = replace(options, labelled=data, tune_epochs=1)
    tuned = distill(tuning)
    assert tuned.tuned is not None and distill(tuning) == tuned
    with pytest.raises(ParameterError, match=r"student\.pt was made with other settings \(data, division\)"):
        distill(replace(tuning, labelled=replace(data, lists=two)))
    student, training = load_checkpoint(options.out)
    del training["division"], training["distillation"]["tested"], training["distillation"]["division"]
    save_checkpoint(student, options.out, training, student.confidence)  # as an earlier version
    assert distill(tuning) == tuned

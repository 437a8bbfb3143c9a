"""The log of a run that was interrupted."""

from __future__ import annotations

from pathlib import Path

from dfer.train.epoch_log import EpochLog
from dfer.train.training import Epoch


def test_a_run_that_goes_on_has_the_log_of_one_that_was_never_interrupted(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    epochs = [Epoch("1-text", number, 4, 1 / number, 1e-3, war=0.5, uar=0.4) for number in range(1, 5)]
    for path, told in ((whole, epochs), (cut, epochs[:3])):
        log = EpochLog(path)
        for epoch in told:
            log.write(epoch)
        log.close()
    cut.write_bytes(cut.read_bytes()[:-9])  # killed while it wrote of the third
    log = EpochLog(cut, append=True)
    for epoch in epochs[1:]:  # the second was told and not yet saved
        log.write(epoch)
    log.close()
    assert cut.read_text() == whole.read_text()

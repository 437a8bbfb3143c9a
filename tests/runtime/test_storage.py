"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dfer.runtime.errors import DferError
from dfer.runtime.storage import atomic_write, sole_writer


@pytest.mark.parametrize("durable", [False, True])
def test_the_file_appears_when_the_body_is_done(tmp_path: Path, durable: bool) -> None:
    target = tmp_path / "plot.png"
    with atomic_write(target, durable=durable) as aside:
        assert aside.suffix == ".png"  # libraries tell the format by it
        aside.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_body_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(target) as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_two_writers_do_not_share_a_file_aside(tmp_path: Path) -> None:
    target = tmp_path / "state"
    with atomic_write(target) as first, atomic_write(target) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() in ("first", "second")


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    target, link = tmp_path / "old" / "report.json", tmp_path / "newest.json"
    target.write_text("old")
    link.symlink_to(target)
    with atomic_write(link, durable=True) as aside:
        aside.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert list((tmp_path / "old").iterdir()) == [target]


@pytest.mark.skipif(os.name == "nt", reason="needs named pipes")
def test_a_pipe_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(pipe, durable=True) as aside:
        aside.write_text("told")
    assert pipe.is_fifo()
    assert os.read(reader, 100) == b"told"
    os.close(reader)


def test_an_output_has_one_writer_also_without_a_home(tmp_path: Path, homeless: None) -> None:
    rows = tmp_path / "rows.csv"
    with (
        sole_writer(rows),
        sole_writer(tmp_path / "other.csv"),
        pytest.raises(DferError, match=r"rows\.csv: another run is writing it"),
        sole_writer(rows),
    ):
        pass


def test_what_cannot_be_written_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "missing" / "file.json"
    with pytest.raises(DferError, match=r"missing/file\.json: No such file"), atomic_write(target) as aside:
        aside.write_text("")


def test_errors_about_other_files_are_not_blamed_on_this_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "out"):
        (tmp_path / "other").read_text()

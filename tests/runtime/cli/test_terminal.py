"""`dfer-run` at a terminal: standard output, interruptions, what can be checked early, and calls from Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from importlib.metadata import distribution, version
from pathlib import Path
from urllib.request import urlopen

import pytest
from click.testing import CliRunner

from dfer.runtime.bundle import DEMO
from dfer.runtime.cli.options import Command
from dfer.runtime.cli.run_options import RunOptions
from dfer.runtime.cli.runner import run as call
from dfer.runtime.errors import DferError
from dfer.runtime.predictions import Step
from dfer.runtime.recognizer import Recognizer
from helpers import flat, rows_of
from helpers import run_command as run


def test_rows_go_to_standard_output_and_everything_else_does_not(face_video: Path, tmp_path: Path) -> None:
    assert run(face_video, "--csv", tmp_path / "o.csv", "--provider", "cpu").exit_code == 0
    result = run(face_video, "--csv", "-", "--provider", "cpu", "--verbose")
    assert result.exit_code == 0
    assert result.stdout == (tmp_path / "o.csv").read_text()
    assert "encode" in result.stderr and "happiness" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["o.csv"] and not Path("-").exists()


def test_two_things_for_standard_output_are_refused(face_video: Path) -> None:
    for arguments in (("--csv", "-", "--json"), ("--jsonl", "-", "--json")):
        assert run(face_video, *arguments).exit_code == 2
    assert "two outputs go to standard output" in flat(run(face_video, "--csv", "-", "--jsonl", "-").output)


def test_options_of_the_page_without_the_page_are_refused(face_video: Path) -> None:
    for option in (("--host", "0.0.0.0"), ("--token", "secret")):
        refused = run(face_video, *option)
        assert (refused.exit_code, f"{option[0]} is of the live page; add --web" in flat(refused.stderr)) == (2, True)
    assert run(face_video, DFER_TOKEN="secret").exit_code == 0


def test_a_port_that_the_system_chose_is_told_to_quiet_runs_too(face_video: Path) -> None:
    told = run(face_video, "--metrics", 0, "--quiet").stderr
    assert re.search(r"^metrics: http://127\.0\.0\.1:\d+/metrics$", told, re.MULTILINE)


def test_who_reads_the_rows_may_have_had_enough(face_video: Path) -> None:
    program = "from dfer.runtime.cli import dfer_run; dfer_run()"
    command = [sys.executable, "-c", program, str(face_video), "--csv", "-", "--quiet"]
    reading = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert reading.stdout is not None and reading.stderr is not None
    reading.stdout.close()
    assert reading.stderr.read() == b""
    reading.stderr.close()
    reading.wait(timeout=240)


def test_names_of_any_script_go_into_files_and_pipes_of_any_encoding(face_video: Path, tmp_path: Path) -> None:
    """As on Windows, whose encoding has few letters."""
    video = shutil.copy(face_video, tmp_path / "日本.mp4")
    command = [sys.executable, "-c", "from dfer.runtime.cli import dfer_run; dfer_run()", video, "--json"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "cp1252"}, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout.decode("utf-8"))["faces"][0]["source"] == str(video)


def test_so_does_the_output_of_every_command() -> None:
    names = distribution("dfer-edge").entry_points.select(group="console_scripts").names - {"dfer-run"}  # a function
    loaded = {name: distribution("dfer-edge").entry_points[name].load() for name in names}
    assert len(loaded) == 9
    assert {name for name, main in loaded.items() if not isinstance(main, Command)} == set()


def test_the_number_of_a_camera_is_told_how_to_be_one() -> None:
    result = run("0")
    assert (result.exit_code, "--camera 0" in result.output) == (2, True)


def test_how_sure_a_label_must_be_can_be_set(face_video: Path, tmp_path: Path) -> None:
    assert run(face_video, "--unsure", 1, "--csv", tmp_path / "o.csv").exit_code == 0
    assert {row["label"] for row in rows_of(tmp_path / "o.csv")} == {"unsure"}


def test_settings_are_checked_before_the_model_is_looked_at(face_video: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text("[]")
    (tmp_path / "boxes.csv").write_text("frame,x\n")
    for option, value, words in (
        *(("--window", "-1", "--window: -1 s"), ("--fps", "nan", "--fps: nan"), ("--unsure", "2", "--unsure: 2")),
        *(("--smooth", "99", "--smooth: 99"), ("--neutral-prior", "1", "--neutral-prior: 1")),
        ("--classes", tmp_path / "classes.json", "must hold an object"),
        ("--boxes", tmp_path / "boxes.csv", "must name the columns x,y,w,h"),
        *(("--web", "70000", "--web: 70000 is none"), ("--host", "0.0.0.0", "--token: is needed")),
    ):
        web = ("--web", "0") if option == "--host" else ()
        result = run(face_video, option, value, *web, "--bundle", tmp_path / "absent.dfer")
        assert (result.exit_code, words in flat(result.output)) == (1, True), (option, result.output)


@pytest.mark.parametrize("command", ["run", "doctor", "profile"])
def test_every_command_tells_its_version(command: str) -> None:
    module = __import__(f"dfer.runtime.cli.{command}", fromlist=["main"])
    result = CliRunner().invoke(module.main, ["--version"])
    assert (result.exit_code, result.output.split()[-1]) == (0, version("dfer-edge"))


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize(("ending", "at_start"), [(signal.SIGINT, "default_int_handler"), (signal.SIGTERM, "SIG_IGN")])
def test_the_page_of_a_file_stays_until_a_signal_ends_it(
    face_video: Path, tmp_path: Path, ending: signal.Signals, at_start: str
) -> None:
    """SIGTERM also where Ctrl-C is ignored, as in a job that a shell runs in the background."""
    program = f"import signal; signal.signal(signal.SIGINT, signal.{at_start}); "
    program += "from dfer.runtime.cli import dfer_run; dfer_run()"
    run = subprocess.Popen(
        [sys.executable, "-c", program, str(face_video), "--web", "0", "--csv", str(tmp_path / "o.csv")],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stderr is not None
    line = next(line for line in run.stderr if "all is read" in line)
    assert len(rows_of(tmp_path / "o.csv")) == 24
    address = re.findall(r"http://\S+", line)[0]
    with urlopen(address + "rows.csv", timeout=60) as answer:
        assert answer.read() == (tmp_path / "o.csv").read_bytes()
    run.send_signal(ending)
    assert "faces" in run.stderr.read()  # the table
    run.stderr.close()
    assert run.wait(timeout=240) == 0


def test_ctrl_c_while_an_object_is_destroyed_is_not_lost() -> None:
    program = """
import click, sys, time
from dfer.runtime import cli

class Doomed:
    def __del__(self):
        raise KeyboardInterrupt

@click.command()
def main():
    doomed = Doomed()
    del doomed
    time.sleep(200)

sys.modules["dfer.runtime.cli.run"] = type(sys)("run")
sys.modules["dfer.runtime.cli.run"].main = main
cli.dfer_run()
"""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert time.monotonic() - begun < 60


def test_help_has_examples() -> None:
    result = run("--help")
    assert "dfer-run --camera 0" in result.output
    assert result.exit_code == 0


def test_ctrl_c_while_the_video_opens_leaves_no_empty_one(
    face_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dfer.runtime.outputs.video.find_ffmpeg", interrupted)
    result = run(face_video, "--save-video", tmp_path / "o.mp4", "--csv", tmp_path / "o.csv")
    assert (result.exit_code, "o.mp4" in result.output, (tmp_path / "o.mp4").exists()) == (0, False, False)


@pytest.mark.parametrize("module", ["click", "rich.console", "dfer.runtime.recognizer"])
def test_ctrl_c_while_the_program_loads_is_no_traceback(module: str, face_video: Path, tmp_path: Path) -> None:
    program = f"""
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from dfer.runtime.cli import dfer_run
sys.argv = ["dfer-run", {str(face_video)!r}, "--csv", {str(tmp_path / "o.csv")!r}]
dfer_run()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "o.csv").exists()


def test_the_jsonl_says_when_by_the_clock_the_run_began(face_video: Path, tmp_path: Path) -> None:
    before = datetime.now(timezone.utc)
    assert run(face_video, "--jsonl", tmp_path / "o.jsonl").exit_code == 0
    started = datetime.fromisoformat(json.loads((tmp_path / "o.jsonl").read_text().splitlines()[0])["started"])
    assert before - timedelta(seconds=1) <= started <= datetime.now(timezone.utc)


def test_everything_can_be_called_from_python_and_gives_what_the_command_gives(
    face_video: Path, tmp_path: Path
) -> None:
    assert run(face_video, "--csv", tmp_path / "command.csv", "--smooth", 0.5, "--provider", "cpu").exit_code == 0
    seen: list[Step] = []

    class Seen:
        def write(self, step: Step) -> None:
            seen.append(step)

        def close(self) -> None:
            pass

        discard = close

    options = RunOptions([face_video], csv=tmp_path / "called.csv", smooth=0.5, provider="cpu")
    result = call(options, sinks=[Seen()])
    assert (tmp_path / "called.csv").read_bytes() == (tmp_path / "command.csv").read_bytes()
    assert (result.summary.predictions, len(seen), result.stopped) == (24, 72, False)
    assert result.files == [str(tmp_path / "called.csv")]
    with Recognizer(smooth=0.5, provider="cpu") as recognizer:
        streamed = list(recognizer.stream(face_video))
    assert streamed == [row for step in seen for row in step.predictions]
    with pytest.raises(DferError, match=r"^window: "):
        call(RunOptions([face_video], window=-1))


def test_from_python_paths_may_be_text(face_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("classes.json").write_text('{"neutral": "calm"}')
    Path("bundle").symlink_to(DEMO)
    files = {"csv": "o.csv", "jsonl": "o.jsonl", "video": "o.mp4", "plot": "o.png", "out_dir": "out"}
    call(RunOptions([str(face_video)], bundle="bundle", classes="classes.json", **files))  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.glob("o*")) == ["o.csv", "o.jsonl", "o.mp4", "o.png", "out"]
    assert "calm" in rows_of(Path("o.csv"))[0]
    result = call(RunOptions([str(face_video)], boxes="o.csv"))
    assert result.summary.predictions == len(rows_of(Path("o.csv")))
    with Recognizer(classes="classes.json") as recognizer:
        assert "calm" in recognizer.classes


def test_whether_a_source_is_live_is_asked_of_the_source(face_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are left for the readers of live sources; /dev/video0 is one, a file behind file:// is not."""
    threads: list[int] = []
    monkeypatch.setattr("dfer.runtime.cli.runner.default_threads", lambda live: threads.append(live) or 1)
    assert run(face_video.as_uri()).exit_code == 0
    assert run(face_video, "--realtime").exit_code == 0
    assert threads == [0, 1]

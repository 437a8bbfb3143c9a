"""Nothing leaves the machine, and nothing about it is stored unasked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GUARD = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise RuntimeError(f"network: {event} {arguments}")

sys.addaudithook(refuse)
"""
USES = {
    "the API": "from dfer.runtime import Recognizer; print(len(list(Recognizer().stream(VIDEO))))",
    "dfer-run": "from dfer.runtime.cli.run import main; main([VIDEO, '--csv', OUT])",
    "dfer-label": "from dfer.runtime.cli.label import main; main([VIDEO, OUT])",
    "dfer-doctor": "from dfer.runtime.cli.doctor import main; main([])",
    "dfer-eval": "from dfer.train.cli.eval import main; main([DEMO, '--identities', '1', '--workers', '1'])",
}


@pytest.mark.parametrize("name", USES)
def test_no_telemetry_is_stored_and_no_connection_made(name: str, face_video: Path, tmp_path: Path) -> None:
    setting = f"""
from dfer.runtime.bundle import DEMO
VIDEO, OUT, DEMO = {str(face_video)!r}, {str(tmp_path / "o.csv")!r}, str(DEMO)
"""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    homes = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    program = GUARD + setting + USES[name]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env={**environment, **homes}
    )
    assert done.returncode == 0, done.stderr
    assert "network:" not in done.stderr
    stored = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in stored if not path.startswith(("o.csv", "cache/dfer-edge/"))] == []

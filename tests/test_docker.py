"""The images' files agree with the rest; `.ci/image` runs what of the CPU's can be run without Docker."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dfer.runtime.cli.run import main

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.suffix[1:])
def test_images_are_pinned_run_as_nobody_special_and_tell_their_health(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert re.search(r":r?\d+\.\d+\.\d+", image), image
    (user,) = re.findall(r"^USER (\S+)", text, re.MULTILINE)
    assert user not in ("root", "0")
    assert text.index("\nUSER ") > max(place.start() for place in re.finditer(r"^RUN ", text, re.MULTILINE))
    (health,) = re.findall(r"^HEALTHCHECK .*CMD (.*)$", text, re.MULTILINE)
    assert json.loads(health)[0] in ("dfer-doctor", "dfer-run")
    assert re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE) == ['["dfer-run"]']


def test_the_build_sees_what_is_installed_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    seen = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert seen == {
        *("calibration", "export", "runtime", "train"),
        *("setup.py", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"),
    }
    assert all((ROOT / name).exists() for name in seen)


def test_the_gpu_image_has_the_onnx_runtime_that_is_tested() -> None:
    (version,) = re.findall(r"^onnxruntime==([\d.]+)", CONSTRAINTS, re.MULTILINE)
    assert f"onnxruntime-gpu=={version}" in (ROOT / "docker" / "Dockerfile.cuda").read_text(encoding="utf-8")


def test_the_composed_service_asks_for_options_that_exist_and_for_a_token() -> None:
    text = (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ +command: (.*)$", text, re.MULTILINE)
    options = {word for word in json.loads(command) if word.startswith("--")}
    assert {"--camera", "--web", "--host"} <= options
    assert options <= {option for parameter in main.params for option in parameter.opts}
    assert "DFER_TOKEN: ${DFER_TOKEN:?" in text  # compose ends where it is not set
    assert '- "127.0.0.1:8000:8000"' in text

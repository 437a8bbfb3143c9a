"""The page's messages as an API: what is sent is what the schema says, and the documented client works."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from websockets.sync.client import connect

from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.predictions import Step, VisibleFace
from dfer.runtime.web import ServedModel, WebPage
from dfer.runtime.web.messages import VERSION
from helpers import rows_of
from web_scene import BOX, Program, State, Viewer, make_step, stages

DOCS = Path(__file__).parents[3] / "docs"
SCHEMA = json.loads((DOCS / "messages.schema.json").read_text(encoding="utf-8"))


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """All parts of a schema that list properties."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and "required" in schema:
            yield schema
        for part in schema.values():
            yield from objects(part)


def validator(kind: str) -> Draft202012Validator:
    """Of a greeting or a round, as strict as can be: all that is listed is sent, and nothing else."""
    strict = copy.deepcopy({**SCHEMA, "anyOf": [{"$ref": f"#/$defs/{kind}"}]})
    for part in objects(strict):
        assert set(part["required"]) == set(part["properties"])
        part["additionalProperties"] = False
    Draft202012Validator.check_schema(strict)
    return Draft202012Validator(strict)


def json_of(message: str | bytes) -> Any:
    assert isinstance(message, bytes)
    return json.loads(message[4 : 4 + int.from_bytes(message[:4], "big")])


def test_every_kind_of_message_is_as_the_schema_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.web.server._HEARTBEAT", 60.0)  # the last message is the end
    monkeypatch.setattr("dfer.runtime.web.server._FAREWELL", 20.0)
    model = ServedModel("demo.dfer", "align-dfer", "cpu", "fp32", 1.0, True)
    for served in (model, None):
        with WebPage(EXPRESSIONS, 0, model=served) as page, Viewer(page) as viewer:
            validator("greeting").validate(viewer.greeting)
            assert viewer.greeting["version"] == VERSION
            unread = Step("b.mp4", make_step(0).frame, (), (VisibleFace(3, BOX, None),))
            states = [State(), State("b.mp4", "reconnecting", 2), State("c.mp4", "failed", error="gone")]
            for step in (make_step(0), unread, make_step(1, "fear", tracks=(1, 2))):
                page.show(step, stages, states)
                message = json_of(viewer.socket.recv(timeout=60))
                viewer.acknowledge()
                validator("round").validate(message)
            page.close("no answer")
            assert json_of(viewer.socket.recv(timeout=60))["over"] == "no answer"


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize("token", [None, "s3cret"])
def test_the_client_of_the_documentation_prints_all_predictions(
    face_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    (client,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "client.py").write_text(client, encoding="utf-8")
    monkeypatch.delenv("DFER_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("DFER_TOKEN", token)
    table = tmp_path / "o.csv"
    with Program(face_video, "--realtime", "--web", "0", "--csv", table) as program:
        place = program.address("live page:").partition("?")[0].replace("http", "ws", 1) + "watch"
        printing = subprocess.Popen([sys.executable, tmp_path / "client.py", place], stdout=subprocess.PIPE, text=True)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        with connect(place, additional_headers=headers, max_size=None) as socket:  # beside it, to look at the messages
            validator("greeting").validate(json.loads(socket.recv(timeout=60)))
            for _ in range(5):
                validator("round").validate(json_of(socket.recv(timeout=60)))
                socket.send("seen")
        program.address("all is read")
        assert printing.stdout is not None
        lines = [printing.stdout.readline() for _ in rows_of(table)]
    lines += printing.stdout
    printing.stdout.close()
    assert printing.wait(timeout=120) == 0
    printed, rows = [line.rsplit(" ", 4) for line in lines], rows_of(table)
    assert len(rows) > 10
    assert [(source, float(time), track, label) for source, time, track, label, _ in printed] == [
        (row["source"], float(row["time_s"]), row["track"], row["label"]) for row in rows
    ]
    for (*_, share), row in zip(printed, rows, strict=True):
        assert float(share) == pytest.approx(max(float(row[name]) for name in EXPRESSIONS), abs=1e-3)

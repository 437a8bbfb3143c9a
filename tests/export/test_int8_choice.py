"""Which of the INT8 encoders that calibration offers is exported: the first that passes as it will run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dfer.calibration.int8 import Int8
from dfer.export import exporting
from dfer.export.parity import Parity
from dfer.runtime.errors import DferError

GOOD, BAD = Parity(1.0, 0.0, 1.0, 1.0, 1), Parity(0.9, 0.5, 0.9, 0.9, 1)
ENCODER: Any = SimpleNamespace(encoder=SimpleNamespace(onnx=b""), head=b"")
FACES: Any = None


class Checker:
    """Finds what a graph's last byte says: whether it is good."""

    def __init__(self, gate: str) -> None:
        self.gate = gate

    def measure(self, precision: str, graph: bytes, head: bytes | None = None) -> Parity:
        return GOOD if graph.endswith(b"+") else BAD

    def check(self, precision: str, graph: bytes) -> None:
        self.measure(precision, graph).check(precision, self.gate)


def choose(monkeypatch: pytest.MonkeyPatch, offers: list[tuple[str, str]], gate: str, only_cpu: bool) -> Int8:
    """Choose among encoders, each told as whether its graphs "default" and "cpu" are good (+) or not (-)."""

    def quantizations(*arguments: Any) -> Iterator[Int8]:
        reachable = offers if arguments[4] <= 0 or offers[0] != ("-", "-") else []
        for number, (default, cpu) in enumerate(reachable):
            graphs = {"default": f"d{number}{default}".encode(), "cpu": f"c{number}{cpu}".encode()}
            yield Int8(graphs, ("layer",) * number, (), "max", 9)

    monkeypatch.setattr(exporting, "quantizations", quantizations)
    monkeypatch.setattr(exporting, "_quantize_heads", lambda *_: {})
    checker: Any = Checker(gate)
    return exporting._quantize(checker, ENCODER, 16, FACES, Path(), lambda _: None, only_cpu)


def test_the_graph_for_the_cpu_decides_where_only_it_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = [("+", "-"), ("+", "+")]
    assert choose(monkeypatch, offers, "strict", only_cpu=True).graphs == {"cpu": b"c1+"}
    assert choose(monkeypatch, offers, "strict", only_cpu=False).graphs == {"default": b"d0+"}


def test_what_loses_too_much_is_refused_unless_the_gate_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DferError, match="int8 export refused"):
        choose(monkeypatch, [("-", "-")], "default", only_cpu=False)
    assert choose(monkeypatch, [("-", "-")], "off", only_cpu=False).graphs == {"default": b"d0-", "cpu": b"c0-"}

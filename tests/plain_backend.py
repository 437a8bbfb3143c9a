"""A backend from outside the packages: all of it is here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime

from dfer.runtime.engines import BACKENDS, Backend, Engine


class PlainEngine(Engine):
    provider = "plain"

    def __init__(self, graph: bytes) -> None:
        self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = [output.name for output in self._session.get_outputs()]
        return dict(zip(outputs, self._session.run(outputs, dict(inputs)), strict=True))

    def close(self) -> None: ...


class Plain(Backend):
    def is_present(self) -> bool:
        return True

    def load(self, graph: bytes, precision: str = "fp32", threads: int | None = None) -> PlainEngine:
        return PlainEngine(graph)


BACKENDS["plain"] = Plain("plain", ("fp32",), "it is always there")

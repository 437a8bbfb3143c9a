"""Training tests ask for the same few procedural people."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def people_drawn_once(drawn_people: Any) -> None:
    pass

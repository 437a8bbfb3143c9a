"""Procedural people take seconds each to draw; many tests ask for the same few."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest

from dfer.train.data import procedural


@pytest.fixture(scope="session", autouse=True)
def drawn_people() -> Iterator[Any]:
    """Each is drawn once; after `cache_clear()`, again."""
    with pytest.MonkeyPatch.context() as patch:
        remembered = lru_cache(64)(procedural._perform)
        patch.setattr(procedural, "_perform", remembered)
        yield remembered

"""Provides both forms of the store; one suite."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.store import Store, open_store


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "s.sqlite3" if request.param == "file" else ":memory:")
    yield opened
    opened.close()

"""Provides a run folder, and a launcher that starts as the user of engines."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.engines.process.journal import RunFolder
from tests.engines.process.scripts import Launcher


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    with tempfile.TemporaryDirectory(prefix="pd-") as folder:
        made = Launcher(Path(folder))
        yield made
        made.close()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.of(tmp_path, "script-0")

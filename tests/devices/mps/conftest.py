"""Provides a simulated control program, and a launcher that starts as the user of engines."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.simulated.gpus.mps_program import write_program
from tests.engines.process.scripts import Launcher


@pytest.fixture
def program(tmp_path: Path) -> str:
    return str(write_program(tmp_path / "bin" / "nvidia-cuda-mps-control"))


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    """Here it is the same user, so that tests can look at its processes."""
    with tempfile.TemporaryDirectory(prefix="pd-") as folder:
        made = Launcher(Path(folder))
        made.path.with_name("launch-blue.sock").symlink_to(made.path)
        yield made
        made.close()

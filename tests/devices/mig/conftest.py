"""Provides a simulated host with MIG, under the real binding."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.simulated.gpus import SimulatedHost


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SimulatedHost]:
    """Eight A100-80GB, the first GPUs cut by MIG (a description that is shipped)."""
    with SimulatedHost.create("a100-80gb-mig", tmp_path / "host").installed() as made:
        yield made

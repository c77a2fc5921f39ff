"""Provides two GPUs in memory, and a daemon's partitions on them."""

from pathlib import Path

import pytest

from partitiond.devices.partitions import HostPartitions
from tests.devices.partitions.world import World, partitions


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of the journal."""
    return tmp_path / "devices.json"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def here(world: World, path: Path) -> HostPartitions:
    return partitions(world, path)

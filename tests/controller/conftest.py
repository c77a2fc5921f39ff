"""Provides a store in memory and a control plane that runs on fakes."""

from collections.abc import AsyncIterator, Iterator

import pytest

from partitiond.ports import Store
from partitiond.store import open_store
from tests.controller.host import Host, serving


@pytest.fixture
def store() -> Iterator[Store]:
    made = open_store(":memory:")
    yield made
    made.close()


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with serving(Host()) as here:
        yield here

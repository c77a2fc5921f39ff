"""Provides a store in memory and a control plane that runs on fakes."""

from collections.abc import AsyncIterator, Iterator

import pytest

from partitiond.store import Store, open_store
from tests.controller.host import Host, serving


@pytest.fixture
def store() -> Iterator[Store]:
    made = open_store(":memory:")
    yield made
    made.close()


@pytest.fixture
async def host(request: pytest.FixtureRequest) -> AsyncIterator[Host]:
    """A control plane that runs; a module's `make_host` makes another one than the plain one."""
    async with serving(getattr(request.module, "make_host", Host)()) as here:
        yield here

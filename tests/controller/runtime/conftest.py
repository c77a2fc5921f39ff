"""Provides the loop on fakes."""

from collections.abc import AsyncIterator

import pytest

from partitiond.store import Store
from tests.controller.runtime.bench import Bench
from tests.controller.samples import record


@pytest.fixture
async def bench(store: Store) -> AsyncIterator[Bench]:
    store.add_model(record("a"))
    store.add_model(record("b"))
    here = Bench(store)
    yield here
    await here.close()

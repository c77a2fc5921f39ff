from collections.abc import AsyncIterator

import pytest

from tests.proxy.conftest import folder, make_process
from tests.proxy.virtual import pytest_asyncio_loop_factories
from tests.security.target import KEY, StrictEngine, Target, key, running

__all__ = ["folder", "make_process", "pytest_asyncio_loop_factories"]


@pytest.fixture
async def proxy(request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    """A module may set `OPTIONS` for it, and the `KEYS` of its first table."""
    async with running(**getattr(request.module, "OPTIONS", {"max_body_bytes": 65536})) as target:
        target.publish(getattr(request.module, "KEYS", [key(KEY, models=("m",))]))
        yield target


@pytest.fixture
def engine(proxy: Target) -> StrictEngine:
    return proxy.engine

"""Has tests of hosts run on virtual time, unless they say otherwise (see `tests.proxy.virtual`)."""

from tests.proxy.virtual import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]

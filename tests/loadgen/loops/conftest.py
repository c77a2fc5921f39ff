"""Has a test run on virtual time where it asks for it (see `tests.proxy.virtual`)."""

from tests.proxy.virtual import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]

"""Engines of this room run on virtual time."""

from tests.proxy.virtual import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]

"""Provides the API over a service that only remembers calls."""

import contextlib
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import FastAPI

from partitiond.api.app import create_app
from tests.api.fake_service import FakeService

TOKEN = "an-admin-token-for-tests"


@contextlib.asynccontextmanager
async def asking(app: FastAPI, token: str = TOKEN) -> AsyncIterator[httpx.AsyncClient]:
    """A client of this app, in this process; with a token if there is one."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://daemon", headers=headers
    ) as client:
        yield client


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    yield fake
    fake.close()


@pytest.fixture
def app(service: FakeService) -> FastAPI:
    return create_app(service.for_api, admin_token=TOKEN)


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(app) as client:
        yield client

"""Provides the API over a service that only remembers calls."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import FastAPI

from partitiond.api.app import create_app
from tests.api.fake_service import FakeService

TOKEN = "an-admin-token-for-tests"


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    yield fake
    fake.close()


@pytest.fixture
def app(service: FakeService) -> FastAPI:
    return create_app(service, admin_token=TOKEN)


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://daemon", headers=headers
    ) as client:
        yield client

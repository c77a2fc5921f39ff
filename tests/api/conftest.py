"""Provides the API over a control plane of which all that is beyond it is faked."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from partitiond.api.app import create_app
from tests.controller.fakes import POLICY
from tests.controller.host import Host

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
async def host() -> AsyncIterator[Host]:
    """It keeps what it is told and answers; nothing follows from that before it is `started`."""
    here = Host(policy=dataclasses.replace(POLICY, loop_seconds=0.2))  # each pass takes time
    yield here
    await here.service.daemon.shutdown(stop_engines=True)
    here.store.close()


@pytest.fixture
async def started(host: Host) -> Host:
    """The same, with its loop."""
    await host.service.daemon.start()
    return host


@pytest.fixture
def app(host: Host) -> FastAPI:
    return create_app(host.service, admin_token=TOKEN)


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(app) as client:
        yield client

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.dispatch.routing import ReplicaRoute, RoutingTable
from tests.proxy.conftest import MakeProxy, Proxy
from tests.proxy.peers.hosts import Host, host, parts

MakeHosts = Callable[..., Awaitable[list[Host]]]


@pytest.fixture
async def make_hosts(folder: Path) -> AsyncIterator[MakeHosts]:
    """Make hosts, and tell them a table: `make(table, {"a": ["m-1"], "b": []}, **options)`."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(
            table: RoutingTable, replicas: dict[str, list[str]], **options: Any
        ) -> list[Host]:
            hosts = [
                await stack.enter_async_context(host(folder, name, **options)) for name in replicas
            ]
            owners = {one: name for name, here in replicas.items() for one in here}
            parts(table, hosts, owners)
            for one in hosts:
                await one.until_it_hears(len(hosts) - 1)
            return hosts

        yield make


@pytest.fixture
async def make_proxy(folder: Path) -> AsyncIterator[MakeProxy]:
    """Make a proxy whose replicas are all on another host."""
    async with contextlib.AsyncExitStack() as stack:
        made: list[list[Host]] = []

        async def make(routes: RoutingTable | None = None, **options: Any) -> Proxy:
            hosts = [
                await stack.enter_async_context(host(folder, name, **options))
                for name in (f"entry{len(made)}", f"owner{len(made)}")
            ]
            made.append(hosts)
            if routes is not None:
                parts(routes, hosts, _at(routes.replicas, hosts[1]))
                await hosts[0].until_it_hears(1)
            hosts[0].proxy.elsewhere = hosts[1].proxy.state
            return hosts[0].proxy

        yield make


def _at(replicas: tuple[ReplicaRoute, ...], owner: Host) -> dict[str, str]:
    return {one.replica_id: owner.name for one in replicas}

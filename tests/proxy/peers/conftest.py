import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.dispatch.routing import ReplicaRoute, RoutingTable
from tests.proxy import conftest
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.peers.hosts import Host, host, parts
from tests.proxy.scripted import Script, ScriptedEngine, well_behaved

MakeHosts = Callable[..., Awaitable[list[Host]]]


@pytest.fixture
def clean_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No fault may look like a bug of ours."""
    caplog.set_level(logging.WARNING)
    yield
    bad = [
        one for one in caplog.get_records("call") if one.levelno >= logging.ERROR or one.exc_info
    ]
    assert not bad, [one.getMessage() for one in bad]


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


@dataclasses.dataclass(frozen=True)
class Make(conftest.Make):
    """Makes hosts as well."""

    hosts: MakeHosts

    async def pair(
        self, script: Script = well_behaved, *, route: Any = None, options: Any = None, **at: Any
    ) -> tuple[Host, Host, ScriptedEngine]:
        """Make two hosts, of which the second one has the model's only replica.

        Args:
            script: of its engine.
            route: more of the table.
            options: of both proxies.
            at: more of the replica.
        """
        engine = await self.engine(script)
        routes = table(replica(engine, **at), **(route or {}))
        a, b = await self.hosts(routes, {"a": [], "b": ["m-1"]}, **(options or {}))
        return a, b, engine


@pytest.fixture
def make(make_engine: MakeEngine, make_proxy: MakeProxy, make_hosts: MakeHosts) -> Make:
    return Make(make_engine, make_proxy, make_hosts)


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

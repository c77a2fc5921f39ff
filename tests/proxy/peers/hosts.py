"""Runs the proxies of several hosts in one event loop, each with a listener for the others."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from partitiond.core.dispatch.balance import is_eligible
from partitiond.core.dispatch.peer_loads import PeerLoads
from partitiond.core.dispatch.routing import PeerRoute, RoutingTable, TablesOfHosts
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.listening.opening import listen_unix
from partitiond.proxy.peer_server.server import PeerServer
from tests.proxy.conftest import Proxy, serving


@dataclasses.dataclass
class Host:
    """The proxy of one host."""

    name: str
    proxy: Proxy
    server: PeerServer
    route: PeerRoute

    def heard(self) -> list[str]:
        """Hosts that it reaches."""
        return [name for name, is_reached in self.proxy.state.peers.reached().items() if is_reached]

    async def until_it_hears(self, peers: int) -> None:
        """Wait until so many peers have told their load."""
        await self.proxy.until(lambda: len(self.heard()) == peers)

    def listed(self, model: str) -> list[PeerLoads]:
        """What others told it of their load by a model."""
        return self.proxy.state.peers._by_model.get(model, [])

    def serving(self, model: str) -> set[str]:
        """Hosts that told it of a replica that takes requests."""
        return {
            loads.host
            for loads in self.listed(model)
            if any(is_eligible(replica) for replica in loads.replicas.values())
        }

    def listeners(self) -> list[str]:
        """Hosts that are told its load."""
        return [one.peer for one in self.server.connections if one.listens]

    def reset(self) -> None:
        """End all connections of peers."""
        for one in list(self.server.connections):
            one.transport.abort()

    def fall_silent(self) -> None:
        """Tell no load any more, until the next connection of a peer."""
        assert self.server._timer is not None
        self.server._timer.cancel()
        self.server._timer = None

    def is_idle(self) -> bool:
        """Whether nothing is counted as in flight, waiting or at a peer."""
        return self.proxy.idle() and not any(one.request for one in self.server.connections)


@contextlib.asynccontextmanager
async def host(folder: Path, name: str, **options: Any) -> AsyncIterator[Host]:
    """Run the proxy of a host."""
    own = folder / name
    own.mkdir(exist_ok=True)
    async with serving(own, ProxyOptions(**options)) as proxy:
        path = folder / f"{name}.peer"
        server = PeerServer(proxy.state, None)
        server.listen(listen_unix(path))
        try:
            yield Host(name, proxy, server, PeerRoute(name, f"unix:{path}"))
        finally:
            server.close()


def parts(table: RoutingTable, hosts: list[Host], owners: dict[str, str]) -> None:
    """Tell each host its part of a table.

    Args:
        owners: host of each replica.
    """
    tables = tables_of(table, [one.route for one in hosts], owners)
    for one in hosts:
        one.proxy.state.apply(tables.of(one.name))


def tables_of(table: RoutingTable, peers: list[PeerRoute], owners: dict[str, str]) -> TablesOfHosts:
    """Return what each of these hosts is told of a table; arguments as of `parts`."""
    replicas = tuple(
        dataclasses.replace(one, host=owners.get(one.replica_id, "")) for one in table.replicas
    )
    return TablesOfHosts(dataclasses.replace(table, replicas=replicas), peers=tuple(peers))

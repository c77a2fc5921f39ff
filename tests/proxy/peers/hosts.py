"""Runs the proxies of several hosts in one event loop, each with a listener for the others."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from partitiond.core.dispatch.routing import (
    ModelAvailability,
    PeerRoute,
    ReplicaRoute,
    RoutingTable,
)
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

    async def until_it_hears(self, peers: int) -> None:
        """Wait until so many peers have told their load."""
        await self.proxy.until(lambda: len(self.proxy.state.peers.heard()) == peers)

    def is_idle(self) -> bool:
        """Whether nothing is counted as in flight, waiting or at a peer."""
        return self.proxy.idle() and not any(len(one) for one in self.server.sockets)


@contextlib.asynccontextmanager
async def host(folder: Path, name: str, **options: Any) -> AsyncIterator[Host]:
    """Run the proxy of a host."""
    own = folder / name
    own.mkdir(exist_ok=True)
    async with serving(own, ProxyOptions(**options)) as proxy:
        path = folder / f"{name}.peer"
        server = PeerServer(proxy.state, name, None)
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
    peers = tuple(one.route for one in hosts)
    for one in hosts:
        here: list[ReplicaRoute] = [
            route for route in table.replicas if owners.get(route.replica_id) == one.name
        ]
        serve = {route.model for route in here if not route.draining}
        models = tuple(
            model
            if model.name in serve or model.availability is not ModelAvailability.SERVING
            else dataclasses.replace(
                model, availability=ModelAvailability.UNAVAILABLE, elsewhere=True
            )
            for model in table.models
        )
        one.proxy.state.apply(
            dataclasses.replace(
                table, models=models, replicas=tuple(here), host=one.name, peers=peers
            )
        )

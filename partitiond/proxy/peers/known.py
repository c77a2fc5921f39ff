"""Knows the proxies of the other hosts, sends requests to them, and moves those that wait.

`core.dispatch.fleet` chooses the host of a request, `core.dispatch.host_moves` what is moved. This
module keeps the connections, and the requests of this host's clients that wait anywhere.
"""

import asyncio
import functools
import random
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Final

from partitiond.core.dispatch.balance import is_eligible
from partitiond.core.dispatch.fleet import OWN_HOST, HostChoice, QueueShares, choose_host
from partitiond.core.dispatch.host_moves import choose_moves
from partitiond.core.dispatch.peer_loads import SETTLE_SECONDS, TELL_SECONDS, PeerLoads
from partitiond.core.dispatch.routing import RoutingTable
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.dispatch.live_requests import LiveRequest
from partitiond.proxy.peers.hop import Hop, RemoteRequest, request_of
from partitiond.proxy.peers.host import PeerHost

LEARN_SECONDS: Final = 2.0
"""How long a request waits for a host to say that it serves the model, if the table knows of one: a
proxy that has just started has not heard its peers yet. Chosen."""
RETURN_SECONDS: Final = 5.0
"""How long after its loss a host may be back soon: requests wait to learn of it. A proxy that is
restarted is there by then. Chosen."""
NOWHERE: Final = "?"
"""Where such a request waits: at no host."""


class Peers:
    """The proxies of the other hosts.

    Args:
        context: returns the TLS context of connections to them; None where none is set.
    """

    def __init__(self, context: Callable[[], ssl.SSLContext] | None) -> None:
        self._context = context
        self._draw = random.random
        self._clients: dict[str, PeerHost] = {}
        self._by_model: dict[str, list[PeerLoads]] = {}
        self._listed: dict[str, list[PeerLoads]] = {}
        self._models: Mapping[str, LiveModel] = {}
        self._shares: dict[str, QueueShares] = {}
        self._waits: dict[str, dict[RemoteRequest, None]] = {}
        self._own = ""
        self._tick_timer: asyncio.TimerHandle | None = None

    def __bool__(self) -> bool:
        return bool(self._clients)

    def apply(self, table: RoutingTable, models: Mapping[str, LiveModel]) -> None:
        """Listen to the table's peers, and to no others."""
        self._models = models
        self._shares = {route.name: QueueShares(route) for route in table.models}
        wanted = {peer.host: peer for peer in table.peers if peer.host != table.host}
        is_renamed, self._own = table.host != self._own, table.host
        for host, client in list(self._clients.items()):
            if is_renamed or wanted.get(host) != client.route:
                del self._clients[host]
                client.close()
        for host, route in wanted.items():
            if host not in self._clients:
                self._clients[host] = PeerHost(
                    route, table.host, self._context, self._told, self._told_lately
                )
        self._list()

    def start(self) -> None:
        """Begin to listen; called after each table, once an event loop runs."""
        for client in self._clients.values():
            client.start()

    def close(self) -> None:
        """Listen no more; the requests there go on."""
        for client in self._clients.values():
            client.close()
        if self._tick_timer is not None:
            self._tick_timer.cancel()
            self._tick_timer = None

    def reached(self) -> dict[str, bool]:
        """Return whether a host has told its load on a connection that is open, by host."""
        return {host: client.is_heard for host, client in self._clients.items()}

    def replicas(self, model: LiveModel) -> int:
        """Return how many replicas of a model the peers have."""
        return sum([len(one.replicas) for one in self._by_model.get(model.route.name, ())])

    # Requests

    def choose(self, wait: RemoteRequest) -> HostChoice | None:
        """Return the host for a request; None if there is none but perhaps this one."""
        model = wait.model
        model.refresh()
        return choose_host(
            model.slots,
            self._by_model.get(model.route.name, ()),
            wait.request,
            now=time.monotonic(),
            draws=(self._draw(), self._draw()),
            refused=wait.refused,
        )

    def send(self, wait: RemoteRequest, loads: PeerLoads, replica_id: str) -> Hop | None:
        """Return a request to a peer, which begins with `Hop.start`; there it waits until it has a
        place. None if the peer has just ceased to be heard.
        """
        client = self._clients.get(loads.host)
        if client is None or not client.is_heard:
            return None
        now = time.monotonic()
        asked, body = wait.ask(replica_id)
        asked.proved, client.pool.proved = tuple(client.pool.proved), set()
        request = request_of(self._own, wait.route.path, asked, body)
        hop = Hop(wait, client.pool, loads, request, client.running, proved=asked.proved)
        loads.sent(hop, wait.request.cost, now, replica_id)
        wait.model.busy_at = now
        self.waits(wait, loads.host)
        wait.known_at = now + SETTLE_SECONDS
        return hop

    def waits(self, wait: RemoteRequest, host: str) -> None:
        """Note that a request waits at a host (`OWN_HOST`, `NOWHERE`)."""
        wait.host = host
        wait.known_at = 0.0
        self._waits.setdefault(wait.model.route.name, {})[wait] = None
        if self._tick_timer is None:
            loop = asyncio.get_running_loop()
            self._tick_timer = loop.call_later(TELL_SECONDS, self._tick)

    def waits_no_more(self, wait: RemoteRequest) -> None:
        """Note that a request has a place, or has ended; harmless if that is known."""
        name = wait.model.route.name
        waiting = self._waits.get(name)
        if waiting is not None:
            waiting.pop(wait, None)
            if not waiting:
                del self._waits[name]

    def may_learn(self, wait: RemoteRequest) -> bool:
        """Whether a request is to wait for a host that serves the model; sets until when."""
        model = wait.model
        if self._by_model.get(model.route.name) or not model.route.elsewhere:
            return False
        now = time.monotonic()
        if not wait.until:
            others = len(self._waits.get(model.route.name, ()))
            may_wait = others < model.route.max_queue and self._may_come(model, now)
            wait.until = min(now + LEARN_SECONDS, wait.latest) if may_wait else now
        return now < wait.until

    def _may_come(self, model: LiveModel, now: float) -> bool:
        """Whether a host that has the model by the table is reached, or was a moment ago."""
        hosts = [self._clients.get(one.host) for one in model.route.hosts]
        return not hosts or any(
            host is not None and (host.is_heard or now - host.unheard_at < RETURN_SECONDS)
            for host in hosts
        )

    def has_another_for(self, model: LiveModel, live: LiveRequest) -> bool:
        """Whether a peer has a replica that has not failed the request yet."""
        return any(
            is_eligible(replica, live.tried)
            for loads in self._by_model.get(model.route.name, ())
            for replica in loads.replicas.values()
        )

    def take_back(self, model: LiveModel) -> None:
        """Take waiting requests out of the queue of a model that serves on other hosts alone from
        now on: they go there once a host says that it serves.
        """
        for wait in list(self._waits.get(model.route.name, ())):
            if wait.host == OWN_HOST:
                model.stop_waiting(wait.request)
                wait.until = 0.0
                self.waits(wait, NOWHERE)

    # What peers tell

    def _told_lately(self, name: str, placed: Mapping[str, bytes]) -> None:
        model = self._models.get(name)
        if model is not None:
            for replica_id, digests in placed.items():
                model.affinity.learn(replica_id, digests)

    def _told(self, client: PeerHost) -> None:
        if self._listed.get(client.route.host) != [*client.loads.values()]:
            self._list()
        for name, loads in client.loads.items():
            model = self._models.get(name)
            if model is not None and name in self._waits:
                self._look_again(name)
                self._move(model, loads)

    def _list(self) -> None:
        """List the loads by model, each with the bound of its queue by the table."""
        self._listed = {host: [*client.loads.values()] for host, client in self._clients.items()}
        found: dict[str, list[PeerLoads]] = {}
        for client in self._clients.values():
            for name, loads in client.loads.items():
                shares = self._shares.get(name)
                loads.max_waiting = 0 if shares is None else shares.of(loads.host)
                found.setdefault(name, []).append(loads)
        self._by_model = found

    def _tick(self) -> None:
        """Use places that came free at this host, and end what waited long enough at none."""
        self._tick_timer = None
        for name in list(self._waits):
            self._look_again(name)
            model = self._models.get(name)
            if model is not None and model.replicas:
                self._move(model, None)
        if self._waits and self._tick_timer is None:
            loop = asyncio.get_running_loop()
            self._tick_timer = loop.call_later(TELL_SECONDS, self._tick)

    def _look_again(self, name: str) -> None:
        for wait in [wait for wait in self._waits.get(name, ()) if wait.host == NOWHERE]:
            if not self.may_learn(wait):
                self._call(wait, wait.look_again)

    def _move(self, model: LiveModel, target: PeerLoads | None) -> None:
        waiting = self._waits.get(model.route.name)
        if not waiting:
            return
        model.refresh()
        moves = choose_moves(
            model.slots,
            self._by_model.get(model.route.name, ()),
            [wait for wait in waiting if wait.request.cost.sequences],
            target,
            now=time.monotonic(),
            draw=self._draw(),
        )
        for movable, replica_id in moves:
            assert isinstance(movable, RemoteRequest)
            movable.moves += 1
            self._call(movable, functools.partial(movable.go, target, replica_id))

    def _call(self, remote: RemoteRequest, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception:  # noqa: BLE001 -- the request logs it; others go on
            remote.on_bug()

"""Controls the proxies of several hosts as one (`ports.ProxyControl`).

Each host's proxy is told of the replicas on its host and of the proxies of the other hosts, and
only what is new there: with many hosts most changes concern one of them. A proxy on a silent host
goes on with the table that it has, and is given the newest one before it is asked anything once its
host answers again; the others are told of it meanwhile, as they may well reach it, until its host
is lost. No other host's proxy holds up the control plane's own: those of other hosts are started,
told and watched beside it, and what is wrong with one of them is said of that one alone.

With each sample of the counts the limits of keys are divided anew (`core.keys.shares`), and hosts
whose shares change are told.
"""

import asyncio
import contextlib
import dataclasses
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from partitiond.core.demand.fleet import FleetSample, HostCounts, add_reading, sum_hosts
from partitiond.core.demand.traffic import TrafficSample
from partitiond.core.dispatch.routing import (
    EMPTY_ROUTING_TABLE,
    PeerRoute,
    RoutingTable,
    TablesOfHosts,
)
from partitiond.core.dispatch.told_tables import ToldTables
from partitiond.core.errors import ConflictError, NotKeptError, PartitiondError, StoreError
from partitiond.core.keys.record import KeyUse
from partitiond.core.keys.shares import Division, KeyShares
from partitiond.core.keys.stale import word_is_due
from partitiond.core.replica.sleep import Traffic
from partitiond.hosts import exposition
from partitiond.hosts.agents import ASK_AGAIN_SECONDS, Agents, HostRecord
from partitiond.ports import ProxyControl
from partitiond.ports.host import PROXY_PATIENCE_SECONDS, HostTable
from partitiond.serde import from_stored_json, to_stored_json
from partitiond.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

TELL_SECONDS: Final = PROXY_PATIENCE_SECONDS / 2
"""Longest wait for other hosts' proxies to take a table; they get it later all the same. Chosen: a
table is taken in milliseconds, and a pass is not to take the own proxy for slow for their sake."""
SHARES_MARK: Final = "key-shares"
"""Kind of the marks of the store that hold how keys are divided, by key id."""


class HostsProxies:
    """Implements `ports.ProxyControl` and `ports.host.FleetProxies` over the agents of all hosts.

    Args:
        agents: of all hosts; the own one's first.
            One that said nothing to its last look is not asked, so that a pass of the loop does not
            wait for it.
        ask_again_seconds: pause before a silent host is asked again.
        tell_seconds: longest wait for other hosts to take a table.
        store: keeps how keys are divided; None if that is forgotten.
    """

    def __init__(
        self,
        agents: Agents,
        *,
        store: Store | None = None,
        ask_again_seconds: float = ASK_AGAIN_SECONDS,
        tell_seconds: float = TELL_SECONDS,
    ) -> None:
        self._agents = agents
        self._ask_again_seconds = ask_again_seconds
        self._tell_seconds = tell_seconds
        self._table = EMPTY_ROUTING_TABLE
        self._parts = TablesOfHosts(EMPTY_ROUTING_TABLE)
        self._store = store
        self._shares = KeyShares(_kept_divisions(store), int(time.time() * 1000))
        self._own_telling = asyncio.Lock()
        self._counts: dict[str, HostCounts] = {}
        self._epoch = uuid.uuid4().hex

    @property
    def problem(self) -> str:
        """Why the own host's proxy does not answer, as last probed; empty if it does."""
        return self._agents.own.agent.proxy.problem

    async def ensure_running(self) -> bool:
        """Adopt or start the own host's proxy; True if a new process was started.

        Those of other hosts are kept running while `wait_exit` waits.

        Raises:
            PartitiondError: the own host's proxy cannot run.
        """
        started = await self._agents.own.agent.proxy.ensure_running()
        if started:
            self._agents.own.proxy.told = ToldTables()
        return started

    async def wait_exit(self) -> int | None:
        """Return once the own host's proxy is gone; keep the proxies of other hosts meanwhile."""
        own = asyncio.ensure_future(self._agents.own.agent.proxy.wait_exit())
        try:
            while not own.done():
                for host in self._others():
                    if host.proxy.keeping is None or host.proxy.keeping.done():
                        host.proxy.keeping = asyncio.ensure_future(self._keep(host))
                await asyncio.wait({own}, timeout=self._ask_again_seconds)
                if self._begun and self._peers() != self._parts.peers:
                    with contextlib.suppress(PartitiondError):  # the next table says it, too
                        await self.publish(self._table)
            return own.result()
        finally:
            kept = (host.proxy.keeping for host in self._others())
            keeping = [task for task in kept if task is not None]
            for task in (own, *keeping):
                task.cancel()
            await asyncio.gather(own, *keeping, return_exceptions=True)

    async def _keep(self, host: HostRecord) -> None:
        """Keep the proxy of another host running, and told."""
        while True:
            try:
                if await host.agent.proxy.ensure_running():
                    # A new process may have an older table on disk, or none.
                    host.proxy.told, host.proxy.part = ToldTables(), None
                await self._tell(host)
                await host.agent.proxy.wait_exit()
            except PartitiondError as error:
                self._missed(host, error)
                await asyncio.sleep(self._ask_again_seconds)

    async def publish(self, table: RoutingTable) -> None:
        """Hand each proxy its part of a snapshot; `known_tables` says which take it late.

        Raises:
            ConflictError: the own host's proxy has a newer one.
            PartitiondError: the own host's proxy cannot be reached.
        """
        # The same table again is a word that its keys are the newest (`core.keys.stale`).
        is_word = table is self._table
        self._table = table
        peers = self._peers()
        self._shares.apply(table.keys, [peer.host for peer in peers])
        self._save_shares()
        self._parts = TablesOfHosts(table, self._parts, peers=peers, shares=self._shares.of)
        others = self._others()
        for host in others:
            if is_word or not self._has_its_part(host):
                self._begin_telling(host)
        await self._publish_own()
        waits = [
            host.proxy.telling
            for host in others
            if host.proxy.telling is not None and not host.is_quiet
        ]
        if waits:
            await asyncio.wait(waits, timeout=self._tell_seconds)

    async def _publish_own(self) -> None:
        own = self._agents.own
        async with self._own_telling:  # of two at the same time, the later one has the newest
            newest = self._table
            own.proxy.told = own.proxy.told.sent(newest)
            try:
                await own.agent.proxy.publish(self._parts.of(own.name))
            except NotKeptError:
                own.proxy.told = own.proxy.told.answered(newest)
                raise
            own.proxy.told = own.proxy.told.answered(newest)

    async def _divide(self, told: Mapping[str, TrafficSample | None]) -> None:
        """Divide the limits of keys by what hosts counted, and tell the hosts."""
        samples = {name: sample for name, sample in told.items() if sample is not None}
        changed = self._shares.look(samples, time.monotonic(), time.time())
        self._save_shares()
        if changed:
            self._parts = TablesOfHosts(
                self._table, self._parts, peers=self._parts.peers, shares=self._shares.of
            )
            for host in self._others():
                if not self._has_its_part(host):
                    self._begin_telling(host)
        own = self._agents.own.name
        has = samples[own].shares_number if own in samples else None
        if has is not None and has != self._shares.of(own).number:
            with contextlib.suppress(PartitiondError):  # the next look tells it again
                await self._publish_own()

    def _save_shares(self) -> None:
        """Store how keys are divided, for the next head; later what the store refuses."""
        unsaved = self._shares.unsaved
        try:
            for key_id, division in list(unsaved.items()):
                if self._store is not None:
                    text = None if division is None else to_stored_json(division)
                    self._store.set_mark(SHARES_MARK, key_id, text)
                del unsaved[key_id]
        except StoreError as error:
            log.warning("how keys are divided among hosts cannot be kept: %s", error)

    @property
    def _begun(self) -> bool:
        """Whether there is a table to tell. Before the first, a proxy goes on with the one that it
        was told by a control plane before this one.
        """
        return self._table is not EMPTY_ROUTING_TABLE

    def _has_its_part(self, host: HostRecord) -> bool:
        """Whether the newest table has nothing new for a host, which then counts as told."""
        proxy = host.proxy
        known = proxy.told.confirmed is not None
        if proxy.part is None or proxy.problem or not (proxy.is_kept and known):
            return False
        part, told_at = proxy.part
        if word_is_due(self._table.keys_stale_seconds, time.monotonic() - told_at):
            return False
        newest = dataclasses.replace(self._parts.of(host.name), version=part.version)
        same = newest.keys is part.keys and newest == part  # equal keys are the same object
        if same:
            proxy.told = ToldTables((self._table,))
        return same

    def _begin_telling(self, host: HostRecord) -> None:
        if not host.proxy.is_told_now:
            host.proxy.telling = asyncio.ensure_future(self._tell_or_miss(host))

    async def _tell_or_miss(self, host: HostRecord) -> None:
        try:
            await self._tell(host)
        except PartitiondError as error:
            self._missed(host, error)

    async def _tell(self, host: HostRecord) -> None:
        """Hand a proxy the newest table, until it has that one. Raises PartitiondError."""
        while self._begun:
            parts, table = self._parts, self._table
            part = parts.of(host.name)
            # Another host's monotonic clock has nothing in common with this one's.
            now = time.monotonic()
            told = dataclasses.replace(part, told_at=now)
            host.proxy.told = host.proxy.told.sent(table)
            host.proxy.is_kept = True
            try:
                await host.agent.proxy.publish(told)
            except NotKeptError as error:
                host.proxy.is_kept = False
                log.warning("on the host %s: %s", host.name, error)
            except ConflictError as error:
                newer = error.facts.get("current")
                if parts is not self._parts:
                    continue  # another call handed it the newest meanwhile
                if not isinstance(newer, int):
                    raise
                # The store's counter was lost: the proxy has a table of an earlier life.
                host.proxy.told = ToldTables().sent(table)
                await host.agent.proxy.publish(dataclasses.replace(told, version=newer + 1))
            host.proxy.told = host.proxy.told.answered(table)
            host.proxy.part, host.proxy.problem = (part, now), ""
            if parts is self._parts:
                return

    def _peers(self) -> tuple[PeerRoute, ...]:
        """Return the proxies that serve those of other hosts, by what their hosts said last."""
        lost = self._agents.lost()
        told = {record.name: record.agent.facts().peers_address for record in self._agents.all}
        return tuple(
            PeerRoute(name, address)
            for name, address in sorted(told.items())
            if address and name not in lost
        )

    def _missed(self, host: HostRecord, error: PartitiondError) -> None:
        host.proxy.problem = error.message

    def _lacks(self, host: HostRecord) -> bool:
        return host.proxy.told.confirmed is not self._table or bool(host.proxy.problem)

    def known_tables(self) -> Mapping[str, HostTable]:
        """Return what each host's proxy may have, by host. Returns at once."""
        return {
            host.name: HostTable(host.proxy.told, host.proxy.problem) for host in self._agents.all
        }

    async def in_flight(self, host: str = "") -> Mapping[str, int] | None:
        """Return requests in flight by replica id at the proxy of a host, the own one's without a
        name; None if that proxy cannot say, or not soon if it is another host's: who asks has a
        table for the own proxy, which does not wait for others.
        """
        there = self._agents.get(host)
        if there is None:
            return None
        asked = self._ask(there, lambda proxy: proxy.in_flight())
        return await (asked if there.is_own else self._in_time(asked))

    async def traffic(self) -> Mapping[str, Traffic] | None:
        """Return each model's traffic on all hosts; None if the proxy of a host cannot say that is
        not lost: requests for a model may wait there.
        """
        told = await self._ask_all(lambda proxy: proxy.traffic())
        lost = self._agents.lost()
        found: dict[str, Traffic] = {}
        for name, traffic in told.items():
            if traffic is None:
                if name in lost:
                    continue
                return None
            for model, here in traffic.items():
                before = found.get(model, Traffic(0, here.idle_seconds))
                idle_seconds = min(before.idle_seconds, here.idle_seconds)
                found[model] = Traffic(before.waiting + here.waiting, idle_seconds)
        return found

    async def key_use(self) -> Mapping[str, KeyUse] | None:
        """Return use of each key on the hosts that say; None if none does."""
        told = await self._ask_all(lambda proxy: proxy.key_use())
        if all(uses is None for uses in told.values()):
            return None
        found: dict[str, KeyUse] = {}
        for key_id, use in (item for uses in told.values() for item in (uses or {}).items()):
            before = found.get(key_id, KeyUse(0, 0, 0, 0))
            found[key_id] = KeyUse(
                before.requests + use.requests,
                before.tokens + use.tokens,
                before.budget_used + use.budget_used,
                before.in_flight + use.in_flight,
            )
        return found

    async def sample(self) -> FleetSample | None:
        """Return the sum of the counts of all proxies, and each one's; None if none can say."""
        told = await self._ask_all(lambda proxy: proxy.sample())
        if all(sample is None for sample in told.values()):
            return None
        for name in self._counts.keys() - told.keys():  # no part of the fleet any more
            self._counts[name] = add_reading(self._counts[name], None)
        await self._divide(told)
        for name, sample in told.items():
            self._counts[name] = add_reading(self._counts.get(name, HostCounts()), sample)
        return sum_hosts(self._counts, self._epoch, time.monotonic())

    def unreached(self) -> Mapping[str, tuple[str, ...]]:
        """Return the hosts whose proxies a host's proxy does not reach, by its last word of now; by
        host. Returns at once.
        """
        last = {name: counts.last for name, counts in self._counts.items()}
        return {
            name: tuple(host for host, is_reached in sorted(sample.peers.items()) if not is_reached)
            for name, sample in last.items()
            if sample is not None
        }

    def last_sample(self) -> TrafficSample | None:
        """Return the counts of the own host's proxy that ended last."""
        return self._agents.own.agent.proxy.last_sample()

    def last_samples(self) -> Mapping[str, TrafficSample]:
        """Return the counts of each host's proxy that ended last, where they are known."""
        last = {record.name: record.agent.proxy.last_sample() for record in self._agents.all}
        return {name: sample for name, sample in last.items() if sample is not None}

    async def metrics_text(self) -> str:
        """Return the Prometheus text of all proxies that answer, each sample with its host."""
        told = await self._ask_all(lambda proxy: proxy.metrics_text())
        return exposition.together({name: text for name, text in told.items() if text})

    async def stop(self, grace_seconds: float) -> None:
        """Let the proxies finish running requests within the grace, then end their processes."""
        stops = [self._asked(one, lambda p: p.stop(grace_seconds)) for one in self._agents.all]
        await asyncio.gather(*stops)

    def _others(self) -> list[HostRecord]:
        return [record for record in self._agents.all if not record.is_own]

    async def _ask_all(self, ask: Callable[[ProxyControl], Awaitable[T]]) -> dict[str, T | None]:
        """Ask the proxy of each host; None from one that lacks the newest table or is silent."""
        hosts = self._agents.all
        told = await asyncio.gather(*(self._ask(host, ask) for host in hosts))
        return dict(zip((host.name for host in hosts), told, strict=True))

    async def _ask(self, host: HostRecord, ask: Callable[[ProxyControl], Awaitable[T]]) -> T | None:
        if host.is_own:
            return await self._asked(host, ask)
        if not self._begun:  # it counts by the table that it has, and nobody has looked yet
            return await self._in_time(self._asked(host, ask))
        if host.is_quiet:
            host.proxy.problem = host.proxy.problem or "the host did not answer its last look."
            return None
        if self._lacks(host):
            self._begin_telling(host)
            assert host.proxy.telling is not None
            await asyncio.wait([host.proxy.telling], timeout=self._tell_seconds)
            if self._lacks(host):
                return None
        try:
            return await ask(host.agent.proxy)
        except PartitiondError as error:
            self._missed(host, error)
            return None

    async def _in_time(self, asked: Awaitable[T | None]) -> T | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._tell_seconds):
                return await asked
        return None

    async def _asked(
        self, host: HostRecord, ask: Callable[[ProxyControl], Awaitable[T]]
    ) -> T | None:
        with contextlib.suppress(PartitiondError):
            return await ask(host.agent.proxy)
        return None


def _kept_divisions(store: Store | None) -> dict[str, Division]:
    """Return how keys were divided; one that cannot be read is divided anew."""
    found: dict[str, Division] = {}
    for key_id, text in ({} if store is None else store.marks(SHARES_MARK)).items():
        try:
            found[key_id] = from_stored_json(Division, text)
        except PartitiondError as error:
            log.warning("how the key %s was divided cannot be read: %s", key_id, error)
    return found

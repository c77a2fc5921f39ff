"""Controls the proxies of several hosts as one (`ports.ProxyControl`).

Each host's proxy is told of the replicas on its host. A proxy on a silent host goes on with the
table that it has, and is given the newest one as soon as its host answers again.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from partitiond.core.demand.traffic import TrafficSample
from partitiond.core.dispatch.routing import EMPTY_ROUTING_TABLE, RoutingTable, table_of_host
from partitiond.core.errors import ConflictError, HostSilentError, PartitiondError
from partitiond.core.keys.record import KeyUse
from partitiond.core.replica.sleep import Traffic
from partitiond.hosts.agents import ASK_AGAIN_SECONDS, Agents
from partitiond.ports import ProxyControl
from partitiond.ports.host_agent import HostAgent

log = logging.getLogger(__name__)
T = TypeVar("T")

FAILED_AGAIN_SECONDS: Final = 5.0
"""Pause before a proxy that could not be started on another host is started again. Chosen: what
stands in its way, a port in use, is put right by a person."""


class HostsProxies:
    """Implements `ports.ProxyControl` over the agents of all hosts.

    Args:
        quiet: whether a host said nothing to its last look; it is not asked, so that a pass of the
            loop does not wait for it.
    """

    def __init__(
        self,
        agents: Agents,
        *,
        ask_again_seconds: float = ASK_AGAIN_SECONDS,
        quiet: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._agents = agents
        self._quiet = quiet
        self._ask_again_seconds = ask_again_seconds
        self._table = EMPTY_ROUTING_TABLE
        self._late: set[str] = set()
        """Hosts whose proxy lacks the newest table."""
        self._failed: set[str] = set()
        """Hosts whose proxy could not be started."""
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Have the proxy of a host that joined started and told, as if a proxy had ended."""
        self._changed.set()

    async def ensure_running(self) -> bool:
        """Adopt or start each proxy; True if a new process was started on any host.

        Raises:
            PartitiondError: the proxy of the own host cannot run.
        """
        # Not caught up first: a proxy that does not run yet takes no table.
        self._changed.clear()
        return any(await asyncio.gather(*(self._ensure(agent) for agent in self._agents.all)))

    async def _ensure(self, agent: HostAgent) -> bool | None:
        """Adopt or start the proxy of a host; that it cannot run on one host harms no other."""
        self._failed.discard(agent.name)
        try:
            return await self._heard(agent, lambda proxy: proxy.ensure_running())
        except PartitiondError as error:
            if agent is self._agents.own:
                raise
            log.warning("the endpoint of %s cannot run: %s", agent.name, error)
            self._failed.add(agent.name)
            self._late.add(agent.name)
            return None

    async def wait_exit(self) -> int | None:
        """Return once the proxy of a host is gone, or hosts joined or were taken out. A silent
        host's is not known to be gone.
        """
        waits = [asyncio.ensure_future(self._exit(agent)) for agent in self._agents.all]
        waits.append(asyncio.ensure_future(self._until_changed()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return next(wait.result() for wait in waits if wait.done())
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _until_changed(self) -> None:
        await self._changed.wait()

    async def _exit(self, agent: HostAgent) -> int | None:
        if agent.name in self._failed:
            await asyncio.sleep(FAILED_AGAIN_SECONDS)
        while True:
            if not self._quiet(agent.name):  # else its proxy would not be started now
                with contextlib.suppress(HostSilentError):
                    return await agent.proxy.wait_exit()
            self._late.add(agent.name)
            await asyncio.sleep(self._ask_again_seconds)

    async def publish(self, table: RoutingTable) -> None:
        """Hand each proxy its part of a snapshot.

        Raises:
            ConflictError: a proxy has a newer one.
            PartitiondError: the proxy of the own host cannot be reached.
        """
        self._table = table
        self._late = set()  # a host that is silent still is late again at once
        await asyncio.gather(*(self._publish(agent) for agent in self._agents.all))

    async def in_flight(self) -> Mapping[str, int | None] | None:
        """Return requests in flight by replica id; None for those of a proxy that cannot say."""
        told = await self._ask_all(lambda proxy: proxy.in_flight())
        if all(counts is None for counts in told.values()):
            return None
        found: dict[str, int | None] = {
            route.replica_id: None for route in self._table.replicas if told.get(route.host) is None
        }
        # A replica that was started elsewhere while its host was lost has engines of one name on
        # two hosts: each counts by the proxy of its own.
        host_of = {route.replica_id: route.host for route in self._table.replicas}
        for host, counts in told.items():
            for name, count in (counts or {}).items():
                if host_of.get(name, host) in (host, ""):
                    found[name] = count
        return found

    async def traffic(self) -> Mapping[str, Traffic] | None:
        """Return each model's traffic on all hosts; None if any proxy cannot say: requests for a
        model may wait there.
        """
        told = await self._ask_all(lambda proxy: proxy.traffic())
        found: dict[str, Traffic] = {}
        for traffic in told.values():
            if traffic is None:
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

    async def sample(self) -> TrafficSample | None:
        """Return the counts of the own host's proxy alone: counts of proxies that began at
        different times cannot be added."""
        return await self._agents.own.proxy.sample()

    def last_sample(self) -> TrafficSample | None:
        """Return the counts of the own host's proxy that ended last."""
        return self._agents.own.proxy.last_sample()

    async def metrics_text(self) -> str:
        """Return the Prometheus text of the own host's proxy."""
        return await self._agents.own.proxy.metrics_text()

    async def stop(self, grace_seconds: float) -> None:
        """Let the proxies finish running requests within the grace, then end their processes."""
        await self._ask_all(lambda proxy: proxy.stop(grace_seconds))

    async def _ask_all(self, ask: Callable[[ProxyControl], Awaitable[T]]) -> dict[str, T | None]:
        """Ask the proxy of each host; None from a host that is silent."""
        agents = self._agents.all
        told = await asyncio.gather(*(self._ask(agent, ask) for agent in agents))
        return {agent.name: answer for agent, answer in zip(agents, told, strict=True)}

    async def _ask(self, agent: HostAgent, ask: Callable[[ProxyControl], Awaitable[T]]) -> T | None:
        if agent.name in self._late:
            self._late.discard(agent.name)
            with contextlib.suppress(ConflictError):  # it has this table, or a newer one
                await self._publish(agent)
        return None if agent.name in self._late else await self._heard(agent, ask)

    async def _publish(self, agent: HostAgent) -> None:
        part = table_of_host(self._table, agent.name)
        try:
            await self._heard(agent, lambda proxy: proxy.publish(part))
        except ConflictError:
            raise
        except PartitiondError as error:
            if agent is self._agents.own:
                raise
            log.warning("the endpoint of %s lacks the newest routes: %s", agent.name, error)
            self._late.add(agent.name)

    async def _heard(
        self, agent: HostAgent, ask: Callable[[ProxyControl], Awaitable[T]]
    ) -> T | None:
        if self._quiet(agent.name):
            self._late.add(agent.name)
            return None
        try:
            return await ask(agent.proxy)
        except HostSilentError:
            self._late.add(agent.name)
            return None

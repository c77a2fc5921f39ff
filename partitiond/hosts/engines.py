"""Runs the engines of several hosts (`ports.EngineRunner`), each by the agent of its host.

A host that does not answer is no engine that does not answer. `wait_ready`, `probe` and `wait_exit`
ask whether an engine is well: they wait until the host answers again, and then ask again. All other
calls raise HostSilentError.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from partitiond.core.errors import HostSilentError, PartitiondError
from partitiond.core.profile.jobs import Progress
from partitiond.core.profile.record import Profile
from partitiond.core.replica.engine import EngineExit, EngineHandle, EngineLaunch, EngineReport
from partitiond.hosts.agents import ASK_AGAIN_SECONDS, Agents
from partitiond.ports import ProfileRequest
from partitiond.ports.host_agent import HostAgent

log = logging.getLogger(__name__)
T = TypeVar("T")


def on_host(handle: EngineHandle, host: str) -> EngineHandle:
    """Return the handle as of an engine on this host, whatever its stored launch says."""
    if handle.host == host:
        return handle
    return dataclasses.replace(handle, launch=dataclasses.replace(handle.launch, host=host))


class HostsEngines:
    """Implements `ports.EngineRunner` and `ports.ReturningEngines` over the agents of all hosts."""

    def __init__(self, agents: Agents, *, ask_again_seconds: float = ASK_AGAIN_SECONDS) -> None:
        self._agents = agents
        self._ask_again_seconds = ask_again_seconds
        self._unsearched: set[str] = {agent.name for agent in agents.all}
        self._silent: set[str] = set()

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        """Spawn on the launch's host. Raises HostSilentError: the engine may have been started."""
        agent = self._agents.of(launch.host)
        try:
            handle = await agent.engines.start(launch)
        except HostSilentError:
            self._unsearched.add(agent.name)  # the engine is found once the host answers
            raise
        return on_host(handle, agent.name)

    async def wait_ready(
        self,
        handle: EngineHandle,
        deadline_seconds: float,
        progress: Callable[[str], None] | None = None,
    ) -> EngineReport:
        """Wait for a real completion; the time of the deadline runs while the host answers."""
        return await self._patiently(
            lambda: self._of(handle).engines.wait_ready(handle, deadline_seconds, progress)
        )

    async def probe(self, handle: EngineHandle, timeout_seconds: float) -> bool:
        """Return whether the engine answers for one token within the time."""
        return await self._patiently(
            lambda: self._of(handle).engines.probe(handle, timeout_seconds)
        )

    async def report(self, handle: EngineHandle) -> EngineReport:
        """Return one scrape of its metrics."""
        return await self._of(handle).engines.report(handle)

    async def sleep(self, handle: EngineHandle, level: int) -> None:
        """Put the engine to sleep."""
        await self._of(handle).engines.sleep(handle, level)

    async def wake(self, handle: EngineHandle) -> None:
        """Wake the engine."""
        await self._of(handle).engines.wake(handle)

    async def sleep_level(self, handle: EngineHandle, timeout_seconds: float) -> int:
        """Return the sleep level; 0 is awake."""
        return await self._patiently(
            lambda: self._of(handle).engines.sleep_level(handle, timeout_seconds)
        )

    async def wait_exit(self, handle: EngineHandle) -> EngineExit:
        """Return once the process is gone, as its host says."""
        return await self._patiently(lambda: self._of(handle).engines.wait_exit(handle))

    async def stop(self, handle: EngineHandle, grace_seconds: float) -> EngineExit:
        """End the engine. Raises HostSilentError: it may live."""
        return await self._of(handle).engines.stop(handle, grace_seconds)

    async def find(self) -> Sequence[EngineHandle]:
        """Return the living engines of all hosts that answer; `returned` finds the others."""
        found = await asyncio.gather(*(self._search(agent) for agent in self._agents.all))
        return tuple(handle for handles in found for handle in handles)

    async def returned(self) -> Sequence[EngineHandle]:
        """Return the engines of the hosts that answer and were not searched since they were
        silent.
        """
        due = [a for a in self._agents.all if a.name in self._unsearched - self._silent]
        found: list[EngineHandle] = []
        for agent in due:
            try:
                found += await self._search(agent)
            except PartitiondError as error:  # its devices stay silent, and it is asked again
                log.warning("the engines of %s cannot be found: %s", agent.name, error)
        return tuple(found)

    def knows(self, host: str) -> bool:
        """Return whether it is known which engines run on the host."""
        return host not in self._unsearched

    def heard_of(self, host: str, *, silent: bool) -> None:
        """Note whether a host answers; the engines of one that did not are looked for anew."""
        if silent:
            self._unsearched.add(host)
            self._silent.add(host)
        else:
            self._silent.discard(host)

    def peak_memory_bytes(self, handle: EngineHandle) -> int:
        """Return the peak memory of the engine's processes so far; 0 if its host is gone."""
        try:
            return self._of(handle).engines.peak_memory_bytes(handle)
        except HostSilentError:
            return 0

    def _of(self, handle: EngineHandle) -> HostAgent:
        return self._agents.of(handle.host)

    async def _search(self, agent: HostAgent) -> tuple[EngineHandle, ...]:
        try:
            found = await agent.engines.find()
        except HostSilentError:
            self.heard_of(agent.name, silent=True)
            return ()
        self._unsearched.discard(agent.name)
        return tuple(on_host(handle, agent.name) for handle in found)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask()
            except HostSilentError:
                await asyncio.sleep(self._ask_again_seconds)


class HostsProfiler:
    """Implements `ports.ProfileRunner`: measures on the host of the device."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    async def run(self, request: ProfileRequest, progress: Callable[[Progress], None]) -> Profile:
        """Start an engine there, sweep, stop it."""
        return await self._agents.of(request.device.host).profiler.run(request, progress)

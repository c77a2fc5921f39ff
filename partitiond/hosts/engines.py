"""Runs the engines of several hosts (`ports.EngineRunner`), each by the agent of its host.

A host that does not answer, or cannot ask, is no engine that does not answer. What asks whether an
engine is well, and what may be told it twice, waits until the host answers again, and then asks
again: otherwise an engine would be ended for its host's sake. `start` and `stop` raise
HostSilentError.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from partitiond.core.errors import HostSilentError, PartitiondError, SilentError
from partitiond.core.profile.jobs import Progress
from partitiond.core.profile.record import Profile
from partitiond.core.replica.engine import EngineExit, EngineHandle, EngineLaunch, EngineReport
from partitiond.hosts.agents import ASK_AGAIN_SECONDS, Agents, HostRecord
from partitiond.ports import ProfileRequest
from partitiond.ports.host_agent import HostAgent

log = logging.getLogger(__name__)
T = TypeVar("T")

RETURNED_SECONDS: Final = 1.0
"""So long a pass of the loop waits for the engines of hosts that are back; the search itself goes
on. Chosen as the loop's patience with a look at the devices."""


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

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        """Spawn on the launch's host. Raises HostSilentError: the engine may have been started."""
        record = self._agents.need_record(launch.host)
        try:
            handle = await record.agent.engines.start(launch)
        except HostSilentError:
            record.engine_search.doubt()  # the engine is found once the host answers
            raise
        return on_host(handle, record.name)

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
        return await self._patiently(lambda: self._of(handle).engines.report(handle))

    async def sleep(self, handle: EngineHandle, level: int) -> None:
        """Put the engine to sleep."""
        await self._patiently(lambda: self._of(handle).engines.sleep(handle, level))

    async def wake(self, handle: EngineHandle) -> None:
        """Wake the engine."""
        await self._patiently(lambda: self._of(handle).engines.wake(handle))

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
        found = await asyncio.gather(*(self._search(record) for record in self._agents.all))
        return tuple(handle for handles in found for handle in handles)

    async def returned(self) -> Sequence[EngineHandle]:
        """Return the engines of the hosts that answer and were not searched since they were
        silent.
        """
        for record in self._agents.all:
            due = record.judged.answers and not record.engine_search.is_done
            if due and record.searching is None:
                search = self._search(record)
                record.searching = asyncio.create_task(search, name=f"engines of {record.name}")
        under_way = {one: one.searching for one in self._agents.all if one.searching is not None}
        if not under_way:
            return ()
        ended, _ = await asyncio.wait(under_way.values(), timeout=RETURNED_SECONDS)
        for record, task in under_way.items():
            if task in ended:
                record.searching = None
        return tuple(handle for task in ended if not task.cancelled() for handle in task.result())

    def knows(self, host: str) -> bool:
        """Return whether it is known which engines run on the host: a lost host's count as none."""
        record = self._agents.get(host)
        return record is None or record.engine_search.is_done or record.judged.gone

    def peak_memory_bytes(self, handle: EngineHandle) -> int:
        """Return the peak memory of the engine's processes so far; 0 if its host is gone."""
        try:
            return self._of(handle).engines.peak_memory_bytes(handle)
        except HostSilentError:
            return 0

    async def held_bytes(self, handle: EngineHandle) -> int:
        """Return what the engine's processes hold now, in bytes. Raises HostSilentError."""
        return await self._of(handle).engines.held_bytes(handle)

    def _of(self, handle: EngineHandle) -> HostAgent:
        return self._agents.of(handle.host)

    async def _search(self, record: HostRecord) -> tuple[EngineHandle, ...]:
        began = record.engine_search.reasons
        try:
            found = await record.agent.engines.find()
        except PartitiondError as error:  # its devices are not used, and it is asked again
            if record.is_own:
                raise
            log.warning("the engines of %s cannot be found: %s", record.name, error)
            return ()
        record.engine_search.note_search(began)
        return tuple(on_host(handle, record.name) for handle in found)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask()
            except SilentError:
                await asyncio.sleep(self._ask_again_seconds)


class HostsProfiler:
    """Implements `ports.ProfileRunner`: measures on the host of the device."""

    def __init__(self, agents: Agents, *, ask_again_seconds: float = ASK_AGAIN_SECONDS) -> None:
        self._agents = agents
        self._ask_again_seconds = ask_again_seconds

    async def run(self, request: ProfileRequest, progress: Callable[[Progress], None]) -> Profile:
        """Start an engine there, sweep, stop it.

        Raises:
            HostSilentError: the host is lost, or the call was; nothing is waited for any more.
        """
        host = request.device.host
        run = asyncio.ensure_future(self._agents.of(host).profiler.run(request, progress))
        try:
            while not run.done():
                await asyncio.wait([run], timeout=self._ask_again_seconds)
                record = self._agents.get(host)
                if not run.done() and (record is None or record.judged.gone):
                    raise HostSilentError(
                        f"the host {host} is lost.",
                        hint="Have it join again, or measure on another host.",
                        facts={"host": host},
                    )
            return run.result()
        except asyncio.CancelledError:
            run.cancel()
            await asyncio.wait([run])  # what a job started has ended before the job counts as ended
            raise
        finally:
            run.cancel()

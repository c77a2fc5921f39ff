"""Sees the devices of several hosts as one: devices, gauges, faults and shares.

A host that misses a look is late: its devices count as last seen, and nothing is begun there. The
devices of a silent host are silent, those of a lost host have failed (`core.hardware.host_state`).
"""

import asyncio
import concurrent.futures
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from partitiond.core.errors import (
    ConflictError,
    HostSilentError,
    InputError,
    NotFoundError,
    PartitiondError,
)
from partitiond.core.hardware.details import DeviceDetails, DeviceReading
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.host_state import (
    FINE,
    HostLimits,
    HostStanding,
    HostState,
    HostWords,
    asked_first,
    heard,
    host_standing,
    missed,
    overtaken_standing,
    refused,
)
from partitiond.core.hardware.kinds import Device, lost_device, short_device, silent_device
from partitiond.core.hardware.partition import ShareUse
from partitiond.core.instants import unix_seconds
from partitiond.core.numbers.grouping import grouped
from partitiond.hosts.agents import Agents
from partitiond.hosts.engines import HostsEngines
from partitiond.platform.clock import SystemClock
from partitiond.platform.deadline_calls import DeadlineCalls, PendingCall
from partitiond.ports.host import Clock, DeviceCare, PartialDevices
from partitiond.ports.host_agent import HeardHost, HostAgent
from partitiond.ports.partitions import PartitionWatch

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 20.0
"""Deadline of a look at one host: below that of a look at all devices, so that one host that hangs
hides no other, and above that of a look at one GPU in a host with several that hang. Chosen."""
LATE_SECONDS: Final = 3.0
"""So long all hosts wait for a look at one that has answered before; the look itself goes on.
Chosen: a look takes tens of milliseconds, and others are not to be seen late for its sake."""
GAUGES_SECONDS: Final = 3.0
"""Deadline for reading the gauges of one host, which has one of its own below this."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """What the last look at a host that brought something found.

    Attributes:
        at: monotonic seconds.
        utc: ISO 8601, by the head's clock.
        clock_offset_seconds: see `HostView`.
        problem: why its devices cannot be seen although it answers; empty if they can.
        unseen: as `PartialDevices.unseen`.
    """

    devices: tuple[Device, ...]
    at: float
    utc: str = ""
    clock_offset_seconds: float | None = None
    problem: str = ""
    unseen: str = ""


class HostsDevices:
    """Implements `ports.DeviceProvider`, `DeviceCare` and `HostedDevices` over the agents of all
    hosts. The control plane's own host always answers: what hangs there is a driver.

    Args:
        engines: a host that is back shows its devices once its engines are known: until then an
            engine that runs there already would be started again.
        look_seconds: deadline of a look at one host.
        late_seconds: how long a look at all of them waits for one that has answered before.
    """

    def __init__(
        self,
        agents: Agents,
        engines: HostsEngines,
        *,
        limits: HostLimits | None = None,
        look_seconds: float = LOOK_SECONDS,
        late_seconds: float = LATE_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        self._agents = agents
        self._engines = engines
        self._limits = limits or HostLimits()
        self._late_seconds = late_seconds
        self._clock: Clock = clock or SystemClock()
        self._looks = DeadlineCalls(look_seconds)
        self._pending: dict[str, PendingCall[_Seen]] = {}
        now = self._clock.monotonic()
        self._words: dict[str, HostWords] = {a.name: asked_first(now) for a in agents.all}
        self._seen: dict[str, _Seen] = {}
        self._fallen: set[str] = set()
        """Hosts whose engines have to be looked for before their devices count again."""
        self._overtaken = ""
        self._remembered: Mapping[str, Sequence[Device]] = {}
        self._host_of: dict[str, str] = {}
        """Host of each device that was seen or is remembered, by the device's id."""

    @property
    def unseen(self) -> str:
        """Why existing devices may be missing from the last look; empty if none are."""
        standings = self.hosts()
        why = [one.reason for one in standings.values() if not one.answers]
        for name, one in standings.items():
            seen = self._seen.get(name)
            if one.answers and seen is not None:
                why += filter(None, (seen.problem, seen.unseen))
        return "; ".join(why)

    def remember(self, devices: Sequence[Device]) -> None:
        """Remember earlier devices: those of a host that has not answered yet are silent."""
        self._remembered = grouped(devices, lambda device: device.host)
        for device in devices:
            self._host_of.setdefault(device.id, device.host)

    def overtaken(self, why: str) -> None:
        """Begin nothing on the own host any more, because this head was overtaken; empty: it was
        not.
        """
        self._overtaken = why

    def hosts(self) -> Mapping[str, HostStanding]:
        """Return what holds of each host now, by name. Returns at once."""
        now = self._clock.monotonic()
        return {agent.name: self._standing(agent, now) for agent in self._agents.all}

    def clock_offset_seconds(self, host: str) -> float | None:
        """Return by how much a host's clock is ahead, as of its last look; None if not known."""
        seen = self._seen.get(host)
        return seen.clock_offset_seconds if seen is not None else None

    def last_word(self, host: str) -> str:
        """Return when a host was looked at last with success, ISO 8601; empty if it never was."""
        seen = self._seen.get(host)
        return seen.utc if seen is not None else ""

    def of_host(self, host: str) -> Sequence[Device]:
        """Return the devices of a host as last seen."""
        seen = self._seen.get(host)
        return seen.devices if seen is not None else self._remembered.get(host, ())

    def _standing(self, agent: HostAgent, now: float) -> HostStanding:
        """Judge a host; one whose engines are not known yet is not fine yet."""
        if agent is self._agents.own:
            return overtaken_standing(self._overtaken) if self._overtaken else FINE
        words = self._with_word(agent, self._words.get(agent.name) or asked_first(now))
        found = host_standing(agent.name, words, now, self._limits)
        if not found.answers or self._engines.searched(agent.name):
            return found
        why = f"the engines on the host {agent.name} are being looked for."
        if agent.name in self._fallen:
            back = f"the host {agent.name} has just come back: {why}"
            return HostStanding(HostState.SILENT, back, found.silent_seconds, answers=False)
        return HostStanding(HostState.LATE, found.reason or why, found.silent_seconds)

    def _with_word(self, agent: HostAgent, words: HostWords) -> HostWords:
        """Return the words with what the host said since its last look, whatever that was."""
        at = agent.heard_at if isinstance(agent, HeardHost) else None
        if at is None or at <= words.heard_at or words.answers_since is None or words.refusal:
            return words
        return dataclasses.replace(
            heard(words, at, self._limits), problem=words.problem, missed_at=words.missed_at
        )

    def discover(self) -> Sequence[Device]:
        """Return the devices of all hosts; those of a host that does not answer as last seen, and
        marked as its state says.
        """
        agents = self._agents.all
        names = {agent.name for agent in agents}
        for name in self._words.keys() - names:  # it was taken out of the fleet
            self._words.pop(name, None)
            self._seen.pop(name, None)
            self._pending.pop(name, None)
        calls = [(agent, self._begin(agent)) for agent in agents]
        until = time.monotonic() + self._late_seconds
        found: list[Device] = []
        for agent, call in calls:
            end = until if self._has_answered(agent) else call.deadline
            if not call.future.cancelled():
                concurrent.futures.wait([call.future], max(0.0, end - time.monotonic()))
            self._take(agent, call)
        for agent, _ in calls:
            found += self._devices_of(agent)
        return tuple(found)

    def _begin(self, agent: HostAgent) -> PendingCall[_Seen]:
        """Begin a look at a host, unless one is under way still."""
        call = self._pending.get(agent.name)
        under_way = call is not None and not call.future.done()
        if call is None or not under_way or time.monotonic() >= call.deadline:
            call = self._looks.begin(agent.name, lambda: self._look(agent))
            self._pending[agent.name] = call
        return call

    def _look(self, agent: HostAgent) -> _Seen:
        before = unix_seconds(self._clock.utc_iso())
        problem, provider = "", agent.devices
        try:
            devices = tuple(provider.discover())
        except HostSilentError:
            raise
        except (InputError, ConflictError):
            raise
        except PartitiondError as error:  # it answers, but not about its devices
            devices = tuple(self.of_host(agent.name))
            problem = f"the host {agent.name}: {error.message}"
        after = self._clock.utc_iso()
        unseen = provider.unseen if isinstance(provider, PartialDevices) else ""
        there = agent.facts().utc
        offset = None
        if there and not problem:
            offset = unix_seconds(there) - (before + unix_seconds(after)) / 2
        return _Seen(devices, self._clock.monotonic(), after, offset, problem, unseen)

    def _has_answered(self, agent: HostAgent) -> bool:
        words = self._words.get(agent.name)
        return agent.name in self._seen or (words is not None and bool(words.problem))

    def _take(self, agent: HostAgent, call: PendingCall[_Seen]) -> None:
        """Note what a look brought, or that it brought nothing yet."""
        now, name = self._clock.monotonic(), agent.name
        words = self._with_word(agent, self._words.get(name) or asked_first(now))
        if call.future.cancelled():
            words = missed(words, now, "a call to it hangs.")
        elif not call.future.done():
            words = missed(words, now, f"a look at it takes longer than {self._late_seconds:g} s.")
        else:
            try:
                seen = call.future.result()
                self._refuse_twins(name, seen.devices, now)
            except HostSilentError as error:
                words = missed(words, now, error.message)
            except (InputError, ConflictError) as error:  # it is another, or obeys another
                words = refused(words, str(error))
            else:
                self._seen[name] = seen
                words = heard(words, seen.at, self._limits)
        self._words[name] = words
        standing = host_standing(name, words, now, self._limits)
        if agent is self._agents.own:
            standing = FINE
        elif not standing.answers:
            self._fallen.add(name)
        elif self._engines.searched(name):
            self._fallen.discard(name)
        # From here on the engines of a host that has just come back may be looked for.
        self._engines.heard_of(
            name,
            silent=not standing.answers,
            gone=standing.gone,
            late=standing.state is HostState.LATE,
        )

    def _refuse_twins(self, host: str, devices: Sequence[Device], now: float) -> None:
        """Note whose the devices are. Raises ConflictError: one is of another host, too."""
        for device in devices:
            other = self._host_of.get(device.id, host)
            words = self._words.get(other)
            if other == host or words is None:  # it was taken out of the fleet
                continue
            is_own = other == self._agents.own.name
            if not is_own and host_standing(other, words, now, self._limits).gone:
                continue
            raise ConflictError(
                f"its device {short_device(device.id)} is one of the host {other}, too.",
                hint=f"If {other} is this host's former name, or the device was moved: `partitiond "
                f"hosts forget {other}` on the head. Simulated hosts made from descriptions of the "
                'same "name" have the same ids: make one of them anew, with another name.',
                facts={"host": host, "other": other, "device": device.id},
            )
        for device in self.of_host(host):
            if self._host_of.get(device.id) == host:
                del self._host_of[device.id]
        self._host_of.update({device.id: host for device in devices})

    def _devices_of(self, agent: HostAgent) -> tuple[Device, ...]:
        now = self._clock.monotonic()
        standing, seen = self._standing(agent, now), self._seen.get(agent.name)
        known = tuple(self.of_host(agent.name))
        if standing.gone:
            # A device that another host shows now was moved there: it is that host's alone.
            left = (d for d in known if self._host_of.get(d.id, agent.name) == agent.name)
            return tuple(lost_device(device, standing.reason) for device in left)
        if not standing.answers:
            return tuple(silent_device(device, standing.reason, advice="") for device in known)
        problem = seen.problem if seen is not None else ""
        call = self._pending.get(agent.name)
        hangs = call is not None and (call.future.cancelled() or not call.future.done())
        if seen is not None and hangs and now - seen.at >= self._limits.silent_seconds:
            problem = f"the host {agent.name} answers, but a look at its devices does not end"
        if problem:
            return tuple(silent_device(device, problem, advice=_DRIVER) for device in known)
        unseen = seen.unseen if seen is not None else ""
        if not unseen:
            return known
        there = {device.id for device in known}
        earlier = (d for d in self._remembered.get(agent.name, ()) if d.id not in there)
        return (*known, *(silent_device(device, unseen) for device in earlier))

    def inspect(self, device_id: str) -> DeviceDetails:
        """Return everything that is known of one device."""
        agent, device = self._of(device_id)
        if isinstance(agent.devices, DeviceCare):
            return agent.devices.inspect(device_id)
        return DeviceDetails(device)

    def forgive(self, device_id: str) -> None:
        """Forget what was held against the device so far."""
        provider = self._of(device_id)[0].devices
        if isinstance(provider, DeviceCare):
            provider.forgive(device_id)

    def _of(self, device_id: str) -> tuple[HostAgent, Device]:
        for agent in self._agents.all:
            for device in self.of_host(agent.name):
                if device.id == device_id:
                    return agent, device
        raise NotFoundError(
            f"there is no device {short_device(device_id)}.",
            hint="`partitiond devices` lists them.",
            facts={"device": device_id},
        )


_DRIVER: Final = ": `dmesg` on that host may say why."


class HostsGauges:
    """Implements `ports.DeviceGauges` over the agents of all hosts."""

    def __init__(self, agents: Agents, *, seconds: float = GAUGES_SECONDS) -> None:
        self._agents = agents
        self._looks = DeadlineCalls(seconds)

    def read(self) -> Mapping[str, DeviceReading]:
        """Return readings by device id; those of a silent host are left out."""
        calls = [
            self._looks.begin(agent.name, agent.gauges.read)
            for agent in self._agents.all
            if agent.gauges is not None
        ]
        found: dict[str, DeviceReading] = {}
        for call in calls:
            try:
                found |= call.wait()
            except PartitiondError as error:  # the devices tell which hosts are silent
                log.debug("gauges of a host cannot be read: %s", error)
        return found


class HostsPartitions:
    """Implements `ports.PartitionWatch` over the agents of all hosts."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._faults: dict[str, tuple[DeviceFault, ...]] = {}

    async def faults(self) -> Sequence[DeviceFault]:
        """Return the faulted devices; of a silent host those that were known last."""

        async def of_host(name: str, watch: PartitionWatch) -> None:
            try:
                self._faults[name] = tuple(await watch.faults())
            except PartitiondError as error:  # of one host: it hides no other's
                log.debug("faults of %s stay as they were: %s", name, error)

        await self._each(of_host)
        there = {agent.name for agent in self._agents.all}
        self._faults = {name: found for name, found in self._faults.items() if name in there}
        return tuple(fault for faults in self._faults.values() for fault in faults)

    async def shares(self) -> Sequence[ShareUse]:
        """Return what engines hold of their shares; those of a silent host are left out."""
        found: list[ShareUse] = []

        async def of_host(_name: str, watch: PartitionWatch) -> None:
            try:
                found.extend(await watch.shares())
            except PartitiondError:  # nothing is known of its engines, so none has outgrown
                return

        await self._each(of_host)
        return tuple(found)

    async def clear(self) -> Sequence[str]:
        """Restore the devices as they were found; a silent host keeps its own."""
        left: list[str] = []

        async def of_host(name: str, watch: PartitionWatch) -> None:
            try:
                left.extend(await watch.clear())
            except PartitiondError as error:
                left.append(f"{name}: {error}")

        await self._each(of_host)
        return tuple(left)

    async def _each(self, ask: Callable[[str, PartitionWatch], Awaitable[None]]) -> None:
        watches = [(a.name, a.partitions) for a in self._agents.all if a.partitions is not None]
        await asyncio.gather(*(ask(name, watch) for name, watch in watches))

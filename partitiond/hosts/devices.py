"""Sees the devices of several hosts as one: devices, gauges, faults and shares.

A host that misses a look is late: its devices count as last seen, and nothing is begun there. The
devices of a silent host are silent, those of a lost host have failed (`core.hardware.host_state`).
"""

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from partitiond.core.errors import (
    ConflictError,
    HostSilentError,
    InputError,
    NotFoundError,
    PartitiondError,
)
from partitiond.core.hardware.details import DeviceDetails, DeviceReading
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.host_state import HostStanding, heard, missed, refused
from partitiond.core.hardware.kinds import Device, lost_device, short_device, silent_device
from partitiond.core.hardware.partition import ShareUse
from partitiond.core.instants import unix_seconds
from partitiond.core.numbers.grouping import grouped
from partitiond.hosts.agents import Agents, HostRecord, SeenHost
from partitiond.platform.deadline_calls import DeadlineCalls, PendingCall
from partitiond.ports.host import DeviceCare, PartialDevices
from partitiond.ports.host_agent import HostAgent
from partitiond.ports.partitions import PartitionWatch

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_SECONDS: Final = 20.0
"""Deadline of a look at one host: below that of a look at all devices, so that one host that hangs
hides no other, and above that of a look at one GPU in a host with several that hang. Chosen."""
LATE_SECONDS: Final = 3.0
"""So long all hosts wait for a look at one that has answered before; the look itself goes on.
Chosen: a look takes tens of milliseconds, and others are not to be seen late for its sake."""
GAUGES_SECONDS: Final = 3.0
"""Deadline for reading the gauges of one host, which has one of its own below this."""


class HostsDevices:
    """Implements `ports.DeviceProvider`, `DeviceCare` and `HostedDevices` over the agents of all
    hosts. The control plane's own host always answers: what hangs there is a driver.

    Args:
        look_seconds: deadline of a look at one host.
        late_seconds: how long a look at all of them waits for one that has answered before.
    """

    def __init__(
        self,
        agents: Agents,
        *,
        look_seconds: float = LOOK_SECONDS,
        late_seconds: float = LATE_SECONDS,
    ) -> None:
        self._agents = agents
        self._late_seconds = late_seconds
        self._clock = agents.clock
        self._looks = DeadlineCalls(look_seconds)
        self._remembered: Mapping[str, Sequence[Device]] = {}
        self._host_of: dict[str, str] = {}
        """Host of each device that was seen or is remembered, by the device's id."""

    @property
    def unseen(self) -> str:
        """Why existing devices may be missing from the last look; empty if none are."""
        why: list[str] = []
        for record in self._agents.all:
            standing, seen = self._agents.standing(record), record.seen
            if not standing.answers:
                why.append(standing.reason)
            elif seen is not None:
                why += filter(None, (seen.problem, seen.unseen))
        return "; ".join(why)

    def remember(self, devices: Sequence[Device]) -> None:
        """Remember earlier devices: those of a host that has not answered yet are silent."""
        self._remembered = grouped(devices, lambda device: device.host)
        for device in devices:
            self._host_of.setdefault(device.id, device.host)

    def hosts(self) -> Mapping[str, HostStanding]:
        """Return what holds of each host now, by name. Returns at once."""
        return self._agents.hosts()

    def devices_of(self, record: HostRecord) -> Sequence[Device]:
        """Return the devices of a host as last seen, or as they are remembered."""
        if record.seen is not None:
            return record.seen.devices
        return self._remembered.get(record.name, ())

    def discover(self) -> Sequence[Device]:
        """Return the devices of all hosts; those of a host that does not answer as last seen, and
        marked as its state says.
        """
        calls = [(record, self._begin(record)) for record in self._agents.all]
        until = time.monotonic() + self._late_seconds
        for record, call in calls:
            has_answered = record.seen is not None or bool(record.words.problem)
            end = until if has_answered else call.deadline
            if not call.future.cancelled():
                concurrent.futures.wait([call.future], max(0.0, end - time.monotonic()))
            self._take(record, call)
        return tuple(device for record, _ in calls for device in self._shown(record))

    def _begin(self, record: HostRecord) -> PendingCall[SeenHost]:
        """Begin a look at a host, unless one is under way still."""
        call = record.look
        if call is None or call.future.done() or time.monotonic() >= call.deadline:
            call = record.look = self._looks.begin(record.name, lambda: self._look(record))
        return call

    def _look(self, record: HostRecord) -> SeenHost:
        before = unix_seconds(self._clock.utc_iso())
        problem, provider = "", record.agent.devices
        try:
            devices = tuple(provider.discover())
        except (HostSilentError, InputError, ConflictError):
            raise
        except PartitiondError as error:  # it answers, but not about its devices
            devices = tuple(self.devices_of(record))
            problem = f"the host {record.name}: {error.message}"
        after = self._clock.utc_iso()
        unseen = provider.unseen if isinstance(provider, PartialDevices) else ""
        there = record.agent.facts().utc
        offset = None
        if there and not problem:
            offset = unix_seconds(there) - (before + unix_seconds(after)) / 2
        return SeenHost(devices, self._clock.monotonic(), after, offset, problem, unseen)

    def _take(self, record: HostRecord, call: PendingCall[SeenHost]) -> None:
        """Note what a look brought, or that it brought nothing yet."""
        now, words = self._clock.monotonic(), self._agents.heard_words(record)
        if call.future.cancelled():
            record.words = missed(words, now, "a call to it hangs.")
        elif not call.future.done():
            why = f"a look at it takes longer than {self._late_seconds:g} s."
            record.words = missed(words, now, why)
        else:
            try:
                seen = call.future.result()
                self._claim(record, seen.devices)
            except HostSilentError as error:
                record.words = missed(words, now, error.message)
            except (InputError, ConflictError) as error:  # it is another, or obeys another
                record.words = refused(words, str(error))
            else:
                record.seen = seen
                record.words = heard(words, seen.at, self._agents.limits)
        self._agents.judge(record)

    def _claim(self, record: HostRecord, devices: Sequence[Device]) -> None:
        """Note whose the devices are. The own host has what it shows, whoever showed it before.

        Raises:
            ConflictError: another host that is not lost has one of them, too.
        """
        for device in devices:
            other = self._agents.get(self._host_of.get(device.id, record.name))
            if other is None or other is record or record.is_own:  # or out of the fleet
                continue
            if not other.is_own and self._agents.heard_standing(other).gone:
                continue
            raise ConflictError(
                f"its device {short_device(device.id)} is one of the host {other.name}, too.",
                hint=f"If {other.name} is this host's former name, or the device was moved: "
                f"`partitiond hosts --forget {other.name}` on the head. Simulated hosts made from "
                'descriptions of the same "name" have the same ids: make one of them anew, with '
                "another name.",
                facts={"host": record.name, "other": other.name, "device": device.id},
            )
        for device in self.devices_of(record):
            if self._host_of.get(device.id) == record.name:
                del self._host_of[device.id]
        self._host_of.update({device.id: record.name for device in devices})

    def _shown(self, record: HostRecord) -> tuple[Device, ...]:
        """Return the devices of a host as they count now.

        A device that another host shows now was moved there: it is that host's alone.
        """
        name, standing, seen = record.name, self._agents.standing(record), record.seen
        known = tuple(d for d in self.devices_of(record) if self._host_of.get(d.id, name) == name)
        if standing.gone:
            return tuple(lost_device(device, standing.reason) for device in known)
        if not standing.answers:
            return tuple(silent_device(device, standing.reason, advice="") for device in known)
        problem = seen.problem if seen is not None else ""
        call = record.look
        hangs = call is not None and (call.future.cancelled() or not call.future.done())
        away = 0.0 if seen is None else self._clock.monotonic() - seen.at
        if hangs and away >= self._agents.limits.silent_seconds:
            problem = f"the host {name} answers, but a look at its devices does not end"
        if problem:
            return tuple(silent_device(device, problem, advice=_DRIVER) for device in known)
        unseen = seen.unseen if seen is not None else ""
        if not unseen:
            return known
        there = {device.id for device in known}
        earlier = (d for d in self._remembered.get(name, ()) if d.id not in there)
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
        for record in self._agents.all:
            for device in self.devices_of(record):
                if device.id == device_id and self._host_of.get(device_id) == record.name:
                    return record.agent, device
        raise NotFoundError(
            f"there is no device {short_device(device_id)}.",
            hint="`partitiond devices` lists them.",
            facts={"device": device_id},
        )


_DRIVER: Final = ": `dmesg` on that host may say why."


class HostsGauges:
    """Implements `ports.DeviceGauges` over the agents of all hosts."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._looks = DeadlineCalls(GAUGES_SECONDS)

    def read(self) -> Mapping[str, DeviceReading]:
        """Return readings by device id; those of a silent host are left out."""
        calls = [
            self._looks.begin(record.name, record.agent.gauges.read)
            for record in self._agents.all
            if record.agent.gauges is not None
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

    async def faults(self) -> Sequence[DeviceFault]:
        """Return the faulted devices; of a silent host those that were known last."""
        for record, found in await self._asked(lambda watch: watch.faults()):
            if not isinstance(found, PartitiondError):
                record.faults = tuple(found)
        return tuple(fault for record in self._agents.all for fault in record.faults)

    async def shares(self) -> Sequence[ShareUse]:
        """Return what engines hold of their shares; those of a silent host are left out."""
        told = await self._asked(lambda watch: watch.shares())
        return tuple(
            share for _, found in told if not isinstance(found, PartitiondError) for share in found
        )

    async def clear(self) -> Sequence[str]:
        """Restore the devices as they were found; a silent host keeps its own."""
        left: list[str] = []
        for record, found in await self._asked(lambda watch: watch.clear()):
            left += [f"{record.name}: {found}"] if isinstance(found, PartitiondError) else found
        return tuple(left)

    async def _asked(
        self, ask: Callable[[PartitionWatch], Awaitable[Sequence[T]]]
    ) -> list[tuple[HostRecord, Sequence[T] | PartitiondError]]:
        """Return what each host says, or why it says nothing: it hides no other's answer."""

        async def of_host(
            record: HostRecord, watch: PartitionWatch
        ) -> tuple[HostRecord, Sequence[T] | PartitiondError]:
            try:
                return record, await ask(watch)
            except PartitiondError as error:
                return record, error

        watches = [(record, record.agent.partitions) for record in self._agents.all]
        return await asyncio.gather(*(of_host(one, w) for one, w in watches if w is not None))

"""Sees the devices of several hosts as one: devices, gauges, faults and shares.

A host that does not answer has its devices still, of which nothing is known now.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from partitiond.core.errors import HostSilentError, NotFoundError, PartitiondError, SilentError
from partitiond.core.hardware.details import DeviceDetails, DeviceReading
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.kinds import Device, short_device, silent_device
from partitiond.core.hardware.partition import ShareUse
from partitiond.hosts.agents import Agents
from partitiond.hosts.engines import HostsEngines
from partitiond.platform.deadline_calls import DeadlineCalls, PendingCall
from partitiond.ports.host import DeviceCare, PartialDevices
from partitiond.ports.host_agent import HostAgent
from partitiond.ports.partitions import PartitionWatch

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 20.0
"""Deadline of a look at one host: below that of a look at all devices, so that one host that hangs
hides no other, and above that of a look at one GPU in a host with several that hang. Chosen."""
GAUGES_SECONDS: Final = 3.0
"""Deadline for reading the gauges of one host, which has one of its own below this."""
ADVICE: Final = ". What runs there goes on; `partitiond` on that host says more."


class HostsDevices:
    """Implements `ports.DeviceProvider` and `DeviceCare` over the agents of all hosts.

    Args:
        engines: a host that is back shows its devices once its engines are known: until then an
            engine that runs there already would be started again.
    """

    def __init__(
        self, agents: Agents, engines: HostsEngines, *, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._agents = agents
        self._engines = engines
        self._looks = DeadlineCalls(look_seconds)
        self._seen: dict[str, tuple[Device, ...]] = {}
        self._unseen: dict[str, str] = {}

    @property
    def unseen(self) -> str:
        """Why existing devices may be missing from the last look; empty if none are."""
        return "; ".join(self._unseen.values())

    def discover(self) -> Sequence[Device]:
        """Return the devices of all hosts; those of a host that is silent, or whose driver refuses,
        as last seen.
        """
        calls = [
            (agent, self._looks.begin(agent.name, agent.devices.discover))
            for agent in self._agents.all
        ]
        return tuple(device for agent, call in calls for device in self._host(agent, call))

    def _host(self, agent: HostAgent, call: PendingCall[Sequence[Device]]) -> tuple[Device, ...]:
        try:
            found = tuple(call.wait())
        except SilentError as error:
            self._engines.heard_of(agent.name, silent=True)
            return self._silent(agent.name, f"the host {agent.name} is silent: {error.message}")
        except PartitiondError as error:  # it answers, but not about its devices
            return self._silent(agent.name, f"the host {agent.name}: {error.message}")
        self._engines.heard_of(agent.name, silent=False)
        self._seen[agent.name] = found
        if not self._engines.knows(agent.name):
            return self._silent(agent.name, f"the host {agent.name} has just come back")
        provider = agent.devices
        self._unseen[agent.name] = provider.unseen if isinstance(provider, PartialDevices) else ""
        self._unseen = {name: why for name, why in self._unseen.items() if why}
        return found

    def _silent(self, host: str, why: str) -> tuple[Device, ...]:
        self._unseen[host] = why
        return tuple(silent_device(d, why, advice=ADVICE) for d in self._seen.get(host, ()))

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
        for host, devices in self._seen.items():
            for device in devices:
                if device.id == device_id:
                    return self._agents.of(host), device
        raise NotFoundError(
            f"there is no device {short_device(device_id)}.",
            hint="`partitiond devices` lists them.",
            facts={"device": device_id},
        )


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
            except SilentError:  # the devices tell which hosts are silent
                continue
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
            except HostSilentError as error:
                log.info("faults of %s stay as they were: %s", name, error)

        await self._each(of_host)
        return tuple(fault for faults in self._faults.values() for fault in faults)

    async def shares(self) -> Sequence[ShareUse]:
        """Return what engines hold of their shares; those of a silent host are left out."""
        found: list[ShareUse] = []

        async def of_host(_name: str, watch: PartitionWatch) -> None:
            try:
                found.extend(await watch.shares())
            except HostSilentError:  # nothing is known of its engines, so none has outgrown
                return

        await self._each(of_host)
        return tuple(found)

    async def clear(self) -> Sequence[str]:
        """Restore the devices as they were found; a silent host keeps its own."""
        left: list[str] = []

        async def of_host(name: str, watch: PartitionWatch) -> None:
            try:
                left.extend(await watch.clear())
            except HostSilentError as error:
                left.append(f"{name}: {error}")

        await self._each(of_host)
        return tuple(left)

    async def _each(self, ask: Callable[[str, PartitionWatch], Awaitable[None]]) -> None:
        watches = [(a.name, a.partitions) for a in self._agents.all if a.partitions is not None]
        await asyncio.gather(*(ask(name, watch) for name, watch in watches))

"""Makes and undoes what MPS shares and MIG slices write to a device; one sibling class each."""

import dataclasses
import logging
from collections.abc import Collection

from partitiond.core.hardware.kinds import MigInstance
from partitiond.core.hardware.partition import MigSlice, MpsShare
from partitiond.core.mig.geometry import Place
from partitiond.core.replica.engine import EngineLaunch
from partitiond.devices.mig.control import MigControl
from partitiond.devices.mps.control import MpsControl
from partitiond.devices.partitions.journal import (
    DeviceJournal,
    Entry,
    EntryKind,
    Key,
    place_of,
    place_text,
)

log = logging.getLogger(__name__)


class MpsShares:
    """Makes shares under one MPS control daemon per GPU."""

    def __init__(self, journal: DeviceJournal, daemons: MpsControl) -> None:
        self._journal = journal
        self._daemons = daemons

    async def make(self, launch: EngineLaunch, share: MpsShare) -> EngineLaunch:
        """Start the MPS daemon and put this engine's limits in the launch. Raises DeviceError.

        `device_memory_bytes` stays the GPU's. CUDA may show a client the whole GPU's memory or only
        its limit; in both cases the budget's share of the whole is free.
        """
        entry = self._journal.use(share.device_id, EntryKind.MPS, "", launch.replica_id)
        daemon = self._daemons.daemon(share.device_id)
        others = [user for user in entry.users if user != launch.replica_id]
        await daemon.ensure(launch.isolation_group, others)
        self._journal.done(entry)
        env = dict(daemon.client_env(share.sm_percent, share.memory_bytes))
        return dataclasses.replace(launch, extra_env=tuple((dict(launch.extra_env) | env).items()))

    async def undo(self, entry: Entry) -> None:
        """End the MPS daemon, or what is left of a dead one. Raises DeviceError."""
        await self._daemons.daemon(entry.device_id).quit()
        self._journal.drop([entry])

    async def why_outside(self, share: MpsShare, pids: Collection[int]) -> str:
        """Return why an engine's processes are not under MPS; empty if they are, or if unknown.

        A CUDA program that finds no MPS daemon silently runs without one: it is uncapped, and takes
        turns on the GPU with the whole MPS server.

        Raises:
            DeviceError: the MPS daemon does not answer.
        """
        clients = {client.pid for client in await self._daemons.daemon(share.device_id).clients()}
        if clients & set(pids):
            return ""
        if not pids or 0 in clients:
            log.info(
                "whether an engine on %s runs under MPS cannot be told from here: its clients are "
                "in another PID namespace",
                share.device_id,
            )
            return ""
        return (
            "none of its processes is a client of the MPS daemon: it found none and runs without "
            f"its {share.sm_percent} % cap."
        )


class MigSlices:
    """Makes a GPU instance for each engine."""

    def __init__(self, journal: DeviceJournal, instances: MigControl) -> None:
        self._journal = journal
        self._instances = instances

    async def make(self, launch: EngineLaunch, wanted: MigSlice) -> EngineLaunch:
        """Make the instance if missing, and point CUDA to it in the launch. Raises DeviceError.

        An existing instance that this daemon did not create is used but never destroyed.
        """
        device_id, place = wanted.device_id, _place(wanted)
        there = await self._there(device_id)
        ours = self._idle(device_id)
        entries = []
        if self._journal.get(*key_of(wanted)) is not None or place not in there:
            entries.append(self._journal.use(*key_of(wanted), launch.replica_id))
            ours |= {place}
        instance = await self._instances.ensure(wanted, ours)
        for entry in entries:
            self._journal.done(entry)
        await self._forget_destroyed(device_id)
        return dataclasses.replace(
            launch, visible_device=instance.uuid, device_memory_bytes=instance.memory_bytes
        )

    async def undo(self, entry: Entry) -> None:
        """Destroy the instance. Raises DeviceError."""
        if place_of(entry.what) in await self._there(entry.device_id):
            await self._instances.destroy(entry.device_id, place_of(entry.what))
        self._journal.drop([entry])

    async def _there(self, device_id: str) -> set[Place]:
        return {_place(instance) for instance in await self._instances.instances(device_id)}

    def _idle(self, device_id: str) -> frozenset[Place]:
        """Return our instances that no engine uses; they may be destroyed to make room."""
        return frozenset(
            place_of(entry.what)
            for entry in self._journal.of(device_id)
            if entry.kind is EntryKind.MIG_INSTANCE and not entry.users
        )

    async def _forget_destroyed(self, device_id: str) -> None:
        there = await self._there(device_id)
        self._journal.drop(
            entry
            for entry in self._journal.of(device_id)
            if entry.kind is EntryKind.MIG_INSTANCE
            and not entry.users
            and place_of(entry.what) not in there
        )


def key_of(partition: MigSlice) -> Key:
    """Return what the journal names the instance of a slice."""
    return partition.device_id, EntryKind.MIG_INSTANCE, place_text(_place(partition))


def _place(partition: MigSlice | MigInstance) -> Place:
    return partition.mig_profile, partition.slice_start, partition.slice_count

"""Implements `ports.PartitionControl` for this host: one lock per device; journal, then device."""

import asyncio
import collections
import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from partitiond.core.errors import DeviceError, PartitiondError, StartFailedError
from partitiond.core.hardware import partition_checks as checks
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.kinds import short_device
from partitiond.core.hardware.partition import (
    CpuCores,
    MemoryShare,
    MigSlice,
    MpsShare,
    Partition,
    ShareUse,
)
from partitiond.core.replica.engine import EngineHandle, EngineLaunch, EngineReport
from partitiond.devices.mig.control import MigControl
from partitiond.devices.mps.compute_mode import compute_mode_refusal
from partitiond.devices.mps.control import MpsControl
from partitiond.devices.nvml.processes import OWN_PROCESSES
from partitiond.devices.partitions.gpus import NvmlGpus
from partitiond.devices.partitions.journal import (
    DeviceJournal,
    Entry,
    EntryKind,
    EntryState,
    Key,
)
from partitiond.devices.partitions.kinds import MigSlices, MpsShares, key_of
from partitiond.devices.partitions.memory import Holder, Holders, partition_of
from partitiond.platform.deadline_calls import DeadlineCalls

log = logging.getLogger(__name__)

FAULT_SECONDS: Final = 1.0
"""Time between two checks for faults; each query of an MPS daemon starts a program."""
RETRY_SECONDS: Final = 10.0
"""Time between two tries to undo what could not be undone on a device."""
SETTLE_SECONDS: Final = 5.0
"""Undoing what a killed daemon left behind takes a second or two; MPS daemons are waited for."""
TERMINATE_SECONDS: Final = 10.0
"""Longest time MPS may take to end an engine's clients; then the engine is signalled anyway."""

_HINT_FOOTPRINT: Final = (
    "Profile the model again on this device, so that its footprint is measured, or give it more "
    "memory."
)
_HINT_OUTSIDE: Final = (
    "Check that the engine keeps the CUDA_MPS_* variables it is started with and runs as the user "
    "of partitiond, and look into the MPS daemon's control.log (`partitiond doctor` names it)."
)


class HostPartitions:
    """Prepares, verifies and releases partitions on this host's devices.

    Args:
        journal: records what is written to devices.
        gpus, daemons, instances: adapters of the devices.
        owners: tells the replica id by pid of our engines' processes.
        kv_tokens: returns how many KV tokens a launch's KV bytes hold; 0 if unknown.
        outside_env: environment that keeps an engine away from an operator's MPS daemon.
        looks: reads /proc, each read with a deadline; None uses the default deadline.
        settle_seconds: how long `settle` waits for leftovers to be undone; undoing then continues.
    """

    def __init__(
        self,
        journal: DeviceJournal,
        *,
        gpus: NvmlGpus,
        daemons: MpsControl,
        instances: MigControl,
        owners: Callable[[], Mapping[int, str]],
        kv_tokens: Callable[[EngineLaunch], int],
        outside_env: tuple[tuple[str, str], ...] = (),
        looks: DeadlineCalls | None = None,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._settle_seconds = settle_seconds
        self._undoing: asyncio.Task[list[str]] | None = None
        self._looks = looks or DeadlineCalls()
        self._journal = journal
        self._gpus = gpus
        self._daemons = daemons
        self._owners = owners
        self._kv_tokens = kv_tokens
        self._outside_env = outside_env
        self._mps = MpsShares(journal, daemons)
        self._mig = MigSlices(journal, instances)
        self._holders = Holders(gpus, self._owned)
        self._locks: dict[str, asyncio.Lock] = collections.defaultdict(asyncio.Lock)
        self._faults: tuple[DeviceFault, ...] = ()
        self._said: frozenset[str] = frozenset()
        self._looked_at = self._retried_at = float("-inf")

    def own_pids(self) -> Collection[int]:
        """Return pids whose device memory is ours: engines, MPS daemons and their servers."""
        mps = {
            pid
            for entry in self._journal.entries
            if entry.kind is EntryKind.MPS
            for pid in self._daemons.daemon(entry.device_id).pids()
        }
        return mps | self._owners().keys()

    async def _owned(self) -> Mapping[int, str]:
        """Return the replica id by pid. Raises SilentError if /proc does not answer."""
        return await self._looks.look(OWN_PROCESSES, self._owners)

    # -- from prepare to release -----------------------------------------------------------

    async def prepare(self, launch: EngineLaunch) -> EngineLaunch:
        """See `ports.PartitionControl`."""
        partition = partition_of(launch)
        if partition is None or isinstance(partition, CpuCores):
            return launch
        async with self._locks[partition.device_id]:
            try:
                return await self._make(launch, partition)
            except BaseException:
                self._holders.pop(launch.replica_id)
                await self._take_back(launch.replica_id, partition.device_id)
                raise

    async def _make(self, launch: EngineLaunch, partition: Partition) -> EngineLaunch:
        device_id = partition.device_id
        self._holders.require_mode(launch.replica_id, partition)
        await self._tidy(device_id, _in_the_way(partition))
        if isinstance(partition, MigSlice):
            made = await self._mig.make(self._outside_mps(launch), partition)
            self._holders.put(launch.replica_id, Holder(made, partition))
            return made
        if await asyncio.to_thread(self._gpus.mig_is_on, device_id):
            raise _mig_is_on(device_id)
        await asyncio.to_thread(self._require_compute_mode, partition)
        use = await self._holders.use(device_id)
        await self._holders.require_room(launch.replica_id, partition, use)
        if isinstance(partition, MpsShare):
            made = await self._mps.make(launch, partition)
        else:
            made = self._outside_mps(launch)
        holder = Holder(made, partition, use.used_bytes, starting=True)
        self._holders.put(launch.replica_id, holder)
        return made

    def _outside_mps(self, launch: EngineLaunch) -> EngineLaunch:
        env = dict(launch.extra_env) | dict(self._outside_env)
        return dataclasses.replace(launch, extra_env=tuple(env.items()))

    def _require_compute_mode(self, partition: Partition) -> None:
        device_id = partition.device_id
        refusal = compute_mode_refusal(self._gpus.compute_mode(device_id), partition.mode)
        if refusal:
            raise DeviceError(
                f"{short_device(device_id)} cannot be shared by {partition.mode.value!r}: "
                f"{refusal}.",
                hint="Changing the compute mode takes root; `partitiond doctor` shows it.",
                facts={"device": device_id},
            )

    async def verify(self, handle: EngineHandle, report: EngineReport) -> None:
        """See `ports.PartitionControl`. A device that does not answer counts as a failed start,
        too: an engine whose memory cannot be read may hold more than its share."""
        launch = handle.launch
        partition = partition_of(launch)
        if partition is None or isinstance(partition, CpuCores):
            return
        facts = {"kind": "partition", "device": partition.device_id, "log": handle.log_path}
        try:
            problem, hint = await self._problem(launch, report, partition)
        except DeviceError as error:
            raise StartFailedError(
                f"what {launch.replica_id} holds cannot be told: {error.message}",
                hint=error.hint,
                facts=error.facts | facts,
            ) from error
        if problem:
            raise StartFailedError(
                f"{launch.replica_id} does not keep to its partition: {problem}",
                hint=hint,
                facts=facts,
            )
        self._holders.started(launch.replica_id)

    async def _problem(
        self, launch: EngineLaunch, report: EngineReport, partition: Partition
    ) -> tuple[str, str]:
        """Return why a ready engine may not stay, and a hint; the reason is empty if it may."""
        problem = checks.kv_shortfall(self._kv_tokens(launch), report.kv_cache_tokens)
        if not problem and isinstance(partition, MemoryShare | MpsShare):
            # A whole device has no neighbours, and a GPU instance isolates memory in hardware.
            problem = await self._holders.overshoot(launch.replica_id, partition)
        if not problem and isinstance(partition, MpsShare):
            return await self._outside(launch.replica_id, partition), _HINT_OUTSIDE
        return problem, _HINT_FOOTPRINT

    async def _outside(self, name: str, share: MpsShare) -> str:
        """Return why a ready engine is not under MPS; empty if it is."""
        owners = await self._owned()
        return await self._mps.why_outside(share, [p for p, o in owners.items() if o == name])

    async def asleep(self, handle: EngineHandle, level: int) -> None:
        """See `ports.PartitionControl`."""
        self._holders.sleeps(handle.launch.replica_id, level)

    async def waking(self, handle: EngineHandle) -> None:
        """See `ports.PartitionControl`."""
        name = handle.launch.replica_id
        there = self._holders.sleeper(name)
        if there is None:
            return
        device_id = there.partition.device_id
        async with self._locks[device_id]:
            if isinstance(there.partition, MemoryShare | MpsShare):
                use = await self._holders.use(device_id)
                await self._holders.require_room(
                    name, there.partition, use, already=there.now.memory_bytes
                )
            self._holders.sleeps(name, 0)

    async def before_stop(self, handle: EngineHandle) -> None:
        """See `ports.PartitionControl`."""
        partition, name = partition_of(handle.launch), handle.launch.replica_id
        if not isinstance(partition, MpsShare):
            return
        try:
            daemon = self._daemons.daemon(partition.device_id)
            async with asyncio.timeout(TERMINATE_SECONDS):
                owners = await self._owned()
                if await daemon.running():
                    await daemon.terminate([pid for pid, o in owners.items() if o == name])
        except (PartitiondError, TimeoutError) as error:
            log.warning("MPS did not end the clients of %s: %s", name, error or "too slow")

    async def release(self, launch: EngineLaunch) -> None:
        """See `ports.PartitionControl`."""
        partition = partition_of(launch)
        if partition is None:
            self._journal.leave(launch.replica_id)
        if partition is None or isinstance(partition, CpuCores):
            return
        async with self._locks[partition.device_id]:
            self._holders.pop(launch.replica_id)
            self._journal.leave(launch.replica_id, partition.device_id)
            await self._tidy(partition.device_id)

    # -- the daemon's start and end ----------------------------------------------------------

    async def settle(self, alive: Sequence[EngineHandle]) -> Sequence[str]:
        """See `ports.PartitionControl`."""
        said = [self._journal.problem] if self._journal.problem else []
        self._journal_daemons()
        users: dict[Key, list[str]] = {}
        for handle in alive:
            for key in self._used_by(handle):
                users.setdefault(key, []).append(handle.launch.replica_id)
        self._journal.settle(users)
        # Awaited only briefly: a hanging driver must not keep living engines from being adopted.
        self._undoing = asyncio.create_task(self._undo_everywhere())
        await asyncio.wait([self._undoing], timeout=self._settle_seconds)
        if not self._undoing.done():
            return (*said, "What was left over on the devices is still being undone.")
        return (*said, *self._undoing.result())

    def _used_by(self, handle: EngineHandle) -> Sequence[Key]:
        """Adopt a living engine; return what it uses of devices. What one that cannot be read uses
        is unknown: everything on its device.
        """
        launch, partition = handle.launch, partition_of(handle.launch)
        known = [entry.key for entry in self._journal.entries]
        if handle.unread:
            return [key for key in known if not launch.device_id or key[0] == launch.device_id]
        if partition is None or isinstance(partition, CpuCores):
            return ()
        self._holders.put(launch.replica_id, Holder(launch, partition))
        if isinstance(partition, MpsShare):
            return [(partition.device_id, EntryKind.MPS, "")]
        if isinstance(partition, MigSlice):  # an instance that is not known is the operator's
            return [key for key in known if key == key_of(partition)]
        return ()

    def _journal_daemons(self) -> None:
        """Journal our MPS daemons missing from the journal (if it was lost, say) as left over."""
        for daemon in self._daemons.own_daemons():
            if self._journal.get(daemon.uuid, EntryKind.MPS) is None:
                self._journal.use(daemon.uuid, EntryKind.MPS, "", "")

    async def clear(self) -> Sequence[str]:
        """See `ports.PartitionControl`."""
        living = set((await self._owned()).values())
        users = {user for entry in self._journal.entries for user in entry.users}
        said = [f"{user} still runs; what it uses stays." for user in sorted(users & living)]
        for user in users - living:
            self._holders.pop(user)
            self._journal.leave(user)
        self._journal_daemons()
        await self._undo_everywhere()
        left = [entry for entry in self._journal.entries if not entry.users]
        return (*said, *(f"{_words(entry)} could not be undone." for entry in left))

    async def _undo_everywhere(self) -> list[str]:
        """Undo entries without users; return one sentence for each entry undone or refused."""
        said = []
        before = [entry for entry in self._journal.entries if not entry.users]
        for device_id in sorted({entry.device_id for entry in before}):
            async with self._locks[device_id]:
                try:
                    await self._tidy(device_id)
                except DeviceError as error:
                    said.append(str(error))
        self._journal.save()
        left = {entry.key for entry in self._journal.entries}
        return [f"{_words(e)} was left over; undone." for e in before if e.key not in left] + said

    # -- faults ------------------------------------------------------------------------------

    async def faults(self) -> Sequence[DeviceFault]:
        """See `ports.PartitionControl`. Checks at most once a second."""
        now = time.monotonic()
        if now - self._looked_at >= FAULT_SECONDS:
            self._looked_at = now
            found = {f.device_id: f for f in await self._mps_faults()}
            found |= {f.device_id: f for f in await asyncio.to_thread(self._gpus.faults)}
            self._faults = tuple(found[device_id] for device_id in sorted(found))
        if now - self._retried_at >= RETRY_SECONDS:
            self._retried_at = now
            said = await self._undo_everywhere()
            for sentence in said:
                # A failure that persists (on a removed device, say) is logged once, not every time.
                if sentence not in self._said:
                    log.warning("%s", sentence)
            self._said = frozenset(said)
        return self._faults

    async def shares(self) -> Sequence[ShareUse]:
        """See `ports.PartitionControl`."""
        return await self._holders.shares()

    async def _mps_faults(self) -> list[DeviceFault]:
        found = []
        for entry in self._journal.entries:
            used = entry.kind is EntryKind.MPS and entry.state is EntryState.DONE and entry.users
            if not used:
                continue
            daemon = self._daemons.daemon(entry.device_id)
            reason = await daemon.fault()
            if not reason and not await daemon.running():
                reason = f"The MPS control daemon of {short_device(entry.device_id)} is gone"
            now = self._journal.get(*entry.key)
            if reason and now is not None and now.users:
                found.append(
                    DeviceFault(
                        entry.device_id,
                        f"{reason.rstrip('.')}. All engines under MPS there are one fault domain: "
                        "they are started again once the last of them is gone.",
                    )
                )
        return found

    # -- parts -------------------------------------------------------------------------------

    async def _take_back(self, name: str, device_id: str) -> None:
        """Undo what a failed start left on the device; what cannot be undone stays journalled."""
        try:
            self._journal.leave(name, device_id)
            await self._tidy(device_id)
        except DeviceError as error:
            log.warning("after the failed start of %s: %s", name, error)

    async def _tidy(
        self, device_id: str, kinds: Collection[EntryKind] = frozenset(EntryKind)
    ) -> None:
        """Undo a device's entries without users. Raises the first DeviceError, after all tries."""
        errors: list[DeviceError] = []
        for entry in self._journal.of(device_id):
            if entry.users or entry.kind not in kinds:
                continue
            try:
                await (self._mps if entry.kind is EntryKind.MPS else self._mig).undo(entry)
            except DeviceError as error:
                errors.append(error)
        if errors:
            raise errors[0]


def _in_the_way(partition: Partition) -> Collection[EntryKind]:
    """Return kinds of leftovers to undo before a partition of this kind can be made."""
    match partition:
        case MpsShare():
            return frozenset({EntryKind.MIG_INSTANCE})
        case MigSlice():
            return frozenset({EntryKind.MPS})
        case _:
            return frozenset(EntryKind)


def _mig_is_on(device_id: str) -> DeviceError:
    return DeviceError(
        f"MIG is on for {short_device(device_id)}: only engines in GPU instances can use it.",
        hint="Plan MIG slices there, or turn MIG off (`nvidia-smi -i UUID -mig 0`).",
        facts={"device": device_id},
    )


def _words(entry: Entry) -> str:
    match entry.kind:
        case EntryKind.MPS:
            return f"The MPS daemon of {short_device(entry.device_id)}"
        case EntryKind.MIG_INSTANCE:
            return f"The GPU instance {entry.what} of {short_device(entry.device_id)}"

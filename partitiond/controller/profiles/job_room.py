"""Finds the devices that a job may take, and the room of the hosts while jobs measure. Pure.

A job that names a device, if there are others like it, runs only on that device. Any other job runs
on whichever device of the same hardware has room: a profile speaks for the hardware.
"""

import collections
import dataclasses
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Final

from partitiond.controller.runtime.watching import engine_bytes
from partitiond.core.hardware.hosts import on_each_host
from partitiond.core.hardware.kinds import Device, DeviceKind
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.record import Placement
from partitiond.core.profile.jobs import Job
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.replica.job_slots import MeasuringJob, Slots, Turn, WaitingJob, next_job
from partitiond.core.replica.leases import (
    LEAST_HOST_CORES,
    Held,
    Lease,
    LeaseDenied,
    PartitionRequest,
    lease_for,
    wish_of_job,
)
from partitiond.core.replica.observation import Unknown
from partitiond.core.units import format_bytes
from partitiond.planner.model.draw import ENGINE_HOST_BYTES

ONLY_THERE: Final = "only_there"
"""Parameter of a job that runs only on the device that it names, and on none like it."""
_HOW: Final = frozenset(
    {
        "device_id",
        ONLY_THERE,
        "max_batch",
        "time_limit_seconds",
        "seed",
        "confirm",
        "paper_requests",
    }
)
"""Parameters that say how a job measures; all others say what it measures."""

Lent = tuple[Job, Lease]


@dataclasses.dataclass(frozen=True, slots=True)
class JobHost:
    """The hosts as jobs find them at one moment.

    Attributes:
        devices: as last seen.
        room: memory for engines by device, in bytes.
        held: (name, partition) of all holders, except jobs.
        busy_cores: by host, the cores of engines that run, except those of jobs.
        host_bytes: by host, the memory for engines on GPUs that none of them takes; of some hosts
            it is not known.
        starting: by host, the names of engines that start there: no job begins beside them.
        slots: how many jobs may run, on each device and on each host.
        groups: isolation group by model, of models with one.
    """

    devices: tuple[Device, ...]
    room: Mapping[str, int | Unknown]
    held: Held
    busy_cores: Mapping[str, Collection[int]] = dataclasses.field(default_factory=dict)
    host_bytes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    starting: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    slots: Slots = dataclasses.field(default_factory=Slots)
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)


def turn_of(
    queue: Sequence[Job],
    running: Sequence[Lent],
    host: JobHost,
    held_back: Callable[[Job], str] = lambda _: "",
) -> Turn[Lease]:
    """Return the next job that begins, and where.

    Args:
        queue: jobs that wait, in their order.
        running: jobs that run, with what is lent to them.
        host: the room that there is.
        held_back: returns why a job may not begin yet on any device; empty if it may.
    """
    alike = DeviceMatcher(host.devices)
    host_of = {device.id: device.host for device in host.devices}
    waiting = []
    for job in queue:
        problem = _unreadable(job)
        if problem:
            why = f"waits for the release that queued it: this one cannot read {problem}"
            waiting.append(WaitingJob(job.id, job.id, None, (), held_back=why))
            continue
        waiting.append(
            WaitingJob(
                id=job.id,
                work=alike.work(job),
                needs=wish_of_job(job, host.groups.get(job.subject, "")),
                devices=alike.devices(job),
                first=job.device_id,
                held_back=held_back(job),
            )
        )
    measuring = [
        MeasuringJob(job.id, alike.work(job), lease.partition.device_id) for job, lease in running
    ]
    return next_job(waiting, measuring, host.slots, _Room(host, running), host_of)


def waits_for(starting: Sequence[str]) -> str:
    """Return what a job waits for while these engines start on its host."""
    return f"waits until {' and '.join(starting)} serve{'s' * (len(starting) == 1)}"


def _unreadable(job: Job) -> str:
    """Return why this release cannot do a job, for example a later release's; empty if it can."""
    if job.kind != "profile":
        return f"jobs of the kind {job.kind}"
    try:
        wish_of_job(job)
        return "" if dict(job.params)["device_id"] else "which device it is for"
    except (KeyError, ValueError) as error:
        return f"what it asks for ({error})"


class DeviceMatcher:
    """Knows which devices suit a job as well as the device that it names."""

    def __init__(self, devices: Iterable[Device]) -> None:
        self._hardware: dict[str, str] = {}
        self._usable: dict[str, tuple[str, ...]] = {}
        for device in devices:
            self._hardware[device.id] = device.hardware
            if not device.cordoned:
                before = self._usable.get(device.hardware, ())
                self._usable[device.hardware] = (*before, device.id)

    def hardware(self, job: Job) -> str:
        """Return the hardware that a job measures; empty if its device is gone."""
        return job.hardware or self._hardware.get(dict(job.params)["device_id"], "")

    def devices(self, job: Job) -> tuple[str, ...]:
        """Return where a job may run: not on a cordoned device, unless there is no other."""
        params = dict(job.params)
        named = (params["device_id"],)
        return named if ONLY_THERE in params else self._usable.get(self.hardware(job)) or named

    def work(self, job: Job) -> Hashable:
        """Return what a job measures, which is never measured on two devices at the same time."""
        what = tuple(pair for pair in job.params if pair[0] not in _HOW)
        where = self.hardware(job) or dict(job.params)["device_id"]
        return job.kind, job.subject, where, what


def busy_cores(
    launches: Iterable[EngineLaunch], devices: Sequence[Device]
) -> dict[str, frozenset[int]]:
    """Return the host cores of these engines, by host."""
    there = on_each_host(devices, launches, lambda launch: launch.device_id)
    return {
        host: frozenset(core for launch in own for core in launch.cores)
        for host, own in there.items()
    }


def host_bytes_left(
    devices: Sequence[Device], stated: Mapping[str, int], placements: Iterable[Placement]
) -> dict[str, int]:
    """Return by host, where it is known, the memory for engines on GPUs that no placement takes.

    Args:
        devices: of all hosts; a CPU device says how much its host has.
        stated: how much a host has, if no CPU device says it.
        placements: those that run or are to run.
    """
    cpus = {device.id: device for device in devices if device.kind is DeviceKind.CPU}
    totals = dict(stated) | {cpu.host: engine_bytes(cpu) for cpu in cpus.values()}
    return {
        host: totals[host]
        - sum(
            p.partition.memory_bytes if p.device_id in cpus else p.candidate.host_memory_bytes
            for p in own
        )
        for host, own in on_each_host(devices, placements, lambda p: p.device_id).items()
        if host in totals
    }


def same_request(one: Job, other: Job) -> bool:
    """Whether two jobs were asked for the same, on any device of the same hardware."""
    if (one.kind, one.subject) != (other.kind, other.subject):
        return False
    if one.params == other.params or not one.hardware:
        return one.params == other.params
    mine, its = dict(one.params), dict(other.params)
    if not (mine.pop("device_id", "") and its.pop("device_id", "")):
        return False
    alike = one.hardware == other.hardware != ""
    return alike and mine == its and ONLY_THERE not in mine


class _Room:
    """Implements `core.replica.job_slots.JobRoom` for the hosts at one moment; it memoises its
    answers."""

    def __init__(self, host: JobHost, running: Sequence[Lent]) -> None:
        self._host = host
        self._devices = {device.id: device for device in host.devices}
        # Counted once: many GPUs are near the same cores, and each is asked about for each job.
        self._gpus_near: dict[str, collections.Counter[tuple[int, ...]]] = collections.defaultdict(
            collections.Counter
        )
        for device in host.devices:
            if device.kind is DeviceKind.GPU:
                self._gpus_near[device.host][device.cores] += 1
        self._running = running
        self._held = by_key((holder[1].device_id, holder) for holder in host.held)
        self._answers: dict[tuple[Hashable, str], Lease | LeaseDenied] = {}

    def lease(self, needs: Hashable, device_id: str) -> Lease | str:
        """Return what a job gets on a device now, or what it waits for."""
        device = self._devices.get(device_id)
        starting = self._host.starting.get(device.host) if device is not None else None
        if starting:
            return waits_for(starting)
        key = needs, device_id
        if key not in self._answers:
            assert isinstance(needs, PartitionRequest)
            self._answers[key] = self._find_lease(needs, device_id)
        found = self._answers[key]
        return found.reason if isinstance(found, LeaseDenied) else found

    def _find_lease(self, wish: PartitionRequest, device_id: str) -> Lease | LeaseDenied:
        device, room = self._devices.get(device_id), self._host.room.get(device_id)
        if device is None or room is None or isinstance(room, Unknown):
            reason = room.reason if isinstance(room, Unknown) else "it is not there"
            return LeaseDenied(f"waits for the device {device_id}: {reason}")
        running = [one for one in self._running if self._may_be_on(device.host, one[1])]
        here = [(job.id, lent.partition) for job, lent in running]
        on_cpu = device.kind is DeviceKind.CPU
        lease = lease_for(
            device,
            wish,
            room_bytes=room - (self._host_bytes_on_gpus(running) if on_cpu else 0),
            held=[*self._held[device_id], *here],
            busy_cores=self._host.busy_cores.get(device.host, ()),
            lent_cores={
                core: job.id
                for job, lent in running
                if not on_cpu or lent.partition.device_id != device_id
                for core in lent.cores
            },
            most_cores=self._most_cores(device),
        )
        if isinstance(lease, Lease) and not on_cpu and running:
            return self._host_memory(device.host, running) or lease
        return lease

    def _host_memory(self, host: str, running: Sequence[Lent]) -> LeaseDenied | None:
        """Why a job on a GPU waits for host memory beside other jobs; None if there is room."""
        total = self._host.host_bytes.get(host)
        if total is None:
            return None
        on_cpu = sum(lent.memory_bytes for _, lent in running if self._on_cpu(lent))
        left = total - on_cpu - self._host_bytes_on_gpus(running)
        if left >= ENGINE_HOST_BYTES:
            return None
        return LeaseDenied(
            f"waits for {format_bytes(ENGINE_HOST_BYTES)} of host memory: "
            f"{format_bytes(max(0, left))} are not held"
        )

    def _host_bytes_on_gpus(self, running: Sequence[Lent]) -> int:
        """Return the host memory that engines of jobs on GPUs take."""
        return ENGINE_HOST_BYTES * sum(not self._on_cpu(lent) for _, lent in running)

    def _may_be_on(self, host: str, lease: Lease) -> bool:
        """Whether a lease is of this host, or of a device that is not known any more."""
        device = self._devices.get(lease.partition.device_id)
        return device is None or device.host == host

    def _on_cpu(self, lease: Lease) -> bool:
        device = self._devices.get(lease.partition.device_id)
        return device is not None and device.kind is DeviceKind.CPU

    def _most_cores(self, device: Device) -> int:
        """Return a job engine's host cores: the same beside any jobs, so that profiles compare.

        They are each slot's part of the cores that the GPU shares with others, and at least two.
        """
        near = set(device.cores)
        here = self._gpus_near[device.host].items()
        sharing = sum(gpus for cores, gpus in here if not near.isdisjoint(cores))
        slots = max(1, sharing) * self._host.slots.per_device
        return max(LEAST_HOST_CORES, len(device.cores) // slots)

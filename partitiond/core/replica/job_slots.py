"""Chooses the next profile job to begin, and its device. Pure.

A device has slots, which limit the jobs that measure on it at a time; jobs on different devices run
side by side. The rules, in the order in which they are applied:

1. The number of jobs on each host is limited, since one event loop of that host generates the load
   of all of them. Hosts do not limit each other.
2. Two jobs with the same work never run at the same time, on any devices.
3. The first job in the queue that finds a device with a free slot and room begins. A job that fits
   nowhere does not hold up the jobs behind it.
4. Of several devices a job takes the one on which it was interrupted, else the one with the fewest
   jobs.
"""

import collections
import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Generic, Protocol, TypeVar

_ONE_HOST: Final[Mapping[str, str]] = MappingProxyType({})
L = TypeVar("L")
L_co = TypeVar("L_co", covariant=True)

NAMED_MOST: Final = 8
"""Most jobs that a reason to wait names: hundreds run on a hundred hosts, and the reason is stored
for each waiting job. Chosen: two hosts' jobs with the default limits."""


@dataclasses.dataclass(frozen=True, slots=True)
class Slots:
    """Limits on the jobs that run at a time.

    Attributes:
        per_device: on one device.
        per_host: on all devices of one host together.
    """

    per_device: int = 1
    per_host: int = 4


@dataclasses.dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job in the queue.

    Attributes:
        work: what the job measures; jobs of equal work never run at the same time.
        needs: the room that the job asks for; jobs of equal needs get equal answers.
        devices: on which the job may run.
        first: the preferred one of `devices`; empty for none.
        held_back: why the job may not begin yet on any device; empty if it may.
    """

    id: str
    work: Hashable
    needs: Hashable
    devices: tuple[str, ...]
    first: str = ""
    held_back: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class MeasuringJob:
    """A job that runs."""

    id: str
    work: Hashable
    device_id: str


class JobRoom(Protocol[L_co]):
    """Room of the devices."""

    def lease(self, needs: Hashable, device_id: str) -> L_co | str:
        """Return the job's lease on the device now, or what it waits for ("waits for ...")."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Turn(Generic[L]):
    """The next step in the queue.

    Attributes:
        begins: id of the job that begins; None if none does.
        lease: of the job that begins.
        waits: why each job before that one waits (each job, if none begins), by id.
    """

    begins: str | None
    lease: L | None
    waits: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class _Found(Generic[L]):
    lease: L


def next_job(
    queue: Sequence[WaitingJob],
    running: Sequence[MeasuringJob],
    slots: Slots,
    room: JobRoom[L],
    host_of: Mapping[str, str] = _ONE_HOST,
) -> Turn[L]:
    """Return the next job that begins, if any; call again after each job that began.

    Args:
        queue: jobs in the order of their requests.
        running: jobs that run.
        slots: limits on running jobs.
        room: free room now.
        host_of: hosts by device. A job on a device that is not listed counts on every host.
    """
    waits: dict[str, str] = {}
    hosts = set(host_of.values()) or {""}
    jobs = {h: sum(host_of.get(one.device_id, h) == h for one in running) for h in hosts}
    full = frozenset(host for host in hosts if jobs[host] >= slots.per_host)
    search = _Search(running, slots, room, host_of, full)
    for job in queue:
        found = search.place(job)
        if isinstance(found, _Found):
            return Turn(job.id, found.lease, waits)
        waits[job.id] = found
    return Turn(None, None, waits)


class _Search(Generic[L]):
    """Search for places for a queue's jobs; local to one call, so everything else stays pure."""

    def __init__(
        self,
        running: Sequence[MeasuringJob],
        slots: Slots,
        room: JobRoom[L],
        host_of: Mapping[str, str],
        full_hosts: frozenset[str],
    ) -> None:
        self._running = running
        self._room = room
        self._host_of = host_of
        self._full_hosts = full_hosts
        self._jobs = collections.Counter(job.device_id for job in running)
        self._full = {one for one, count in self._jobs.items() if count >= slots.per_device}
        self._known: dict[Hashable, _Found[L] | str] = {}

    def place(self, job: WaitingJob) -> _Found[L] | str:
        """Find the device on which a job begins, or why the job waits."""
        if job.held_back:
            return job.held_back
        same = next((other for other in self._running if other.work == job.work), None)
        if same is not None:
            return f"waits for {same.id}, which measures the same"
        # Memoised: hundreds of models ask for the same on the same devices. A reused answer is
        # always to wait, as the first job that begins ends the turn.
        key = job.needs, job.devices, job.first
        if key not in self._known:
            self._known[key] = self._find_lease(job)
        return self._known[key]

    def _find_lease(self, job: WaitingJob) -> _Found[L] | str:
        reasons = []
        for device_id in sorted(job.devices, key=lambda d: (d != job.first, self._jobs[d])):
            if device_id in self._full or self._host_of.get(device_id, "") in self._full_hosts:
                continue
            lease = self._room.lease(job.needs, device_id)
            if not isinstance(lease, str):
                return _Found(lease)
            reasons.append(lease)
        return self._why(job, reasons)

    def _why(self, job: WaitingJob, reasons: Sequence[str]) -> str:
        full = self._full_hosts.intersection(self._host_of.get(one, "") for one in job.devices)
        before = [
            one.id
            for one in self._running
            if (one.device_id in job.devices and one.device_id in self._full)
            or (full and self._host_of.get(one.device_id) in {*full, None})
        ]
        if before:
            more = f", or {reasons[0].removeprefix('waits ')}" if reasons else ""
            return _either(before) + more
        others = len(job.devices) - 1
        return reasons[0] + (f"; {others} like it have no room either" if others else "")


def _either(names: Sequence[str]) -> str:
    more = len(names) - NAMED_MOST
    named = [*names[:NAMED_MOST], f"{more} others"] if more > 1 else names
    return f"waits for {' or '.join(named)}"

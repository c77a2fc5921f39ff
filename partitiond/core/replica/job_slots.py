"""Chooses the next profile job to begin, and its device. Pure.

A device has slots, which limit the jobs that measure on it at a time; jobs on different devices run
side by side. The rules, in the order in which they are applied:

1. The number of jobs on each host is limited, since one event loop of that host generates the load
   of all of them. Hosts do not limit each other.
2. Two jobs with the same work never run at the same time, on any devices.
3. The first job in the queue that finds a device with a free slot and room begins. A job that fits
   nowhere does not hold up the jobs behind it: they pass it over.
4. A job that was passed over `MOST_PASSED` times, and would have room if no job measured, is not
   passed over again: no job behind it begins on a device that could take it. It therefore begins
   once the jobs there have ended, each within its time limit. Room held by replicas bars no job.
5. Of several devices a job takes the one on which it was interrupted, else the one with the fewest
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

MOST_PASSED: Final = 4
"""A guess: with time limits of 15 minutes and two slots, jobs queued later delay a job by an hour
at most."""
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
        also: other devices whose jobs take from what the job needs, such as host cores.
        held_back: why the job may not begin yet on any device; empty if it may.
        passed: how often a later job has begun on a device that could have taken this job.
    """

    id: str
    work: Hashable
    needs: Hashable
    devices: tuple[str, ...]
    first: str = ""
    also: tuple[str, ...] = ()
    held_back: str = ""
    passed: int = 0


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

    def fits_without_jobs(self, needs: Hashable, device_id: str) -> bool:
        """Return whether the device would have room if no job measured."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Turn(Generic[L]):
    """The next step in the queue.

    Attributes:
        begins: id of the job that begins; None if none does.
        lease: of the job that begins.
        waits: why each job before that one waits (each job, if none begins), by id.
        passed: jobs passed over that could have begun on the same device.
    """

    begins: str | None
    lease: L | None
    waits: Mapping[str, str]
    passed: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class _Waits:
    """Why a job finds no device, and the devices with room for it if no job measured."""

    reason: str
    could: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class _Found(Generic[L]):
    device_id: str
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
    busy = frozenset(host for host in hosts if jobs[host] >= slots.per_host)
    search = _Search(running, slots, room, host_of, busy)
    passed: list[tuple[str, frozenset[str]]] = []
    for job in queue:
        found = search.place(job)
        if isinstance(found, _Found):
            over = tuple(name for name, could in passed if found.device_id in could)
            return Turn(job.id, found.lease, waits, over)
        waits[job.id] = found.reason
        if found.could:
            passed.append((job.id, found.could))
            if job.passed >= MOST_PASSED:
                search.bar(job.id, found.could)
    return Turn(None, None, waits)


class _Search(Generic[L]):
    """Search for places for a queue's jobs; local to one call, so everything else stays pure."""

    def __init__(
        self,
        running: Sequence[MeasuringJob],
        slots: Slots,
        room: JobRoom[L],
        host_of: Mapping[str, str],
        busy_hosts: frozenset[str],
    ) -> None:
        self._running = running
        self._slots = slots
        self._room = room
        self._host_of = host_of
        self._busy_hosts = busy_hosts  # those that take no further job
        self._jobs = collections.Counter(job.device_id for job in running)
        self._barred: dict[str, str] = {}
        self._known: dict[Hashable, _Found[L] | _Waits] = {}

    def bar(self, job_id: str, devices: frozenset[str]) -> None:
        """Keep jobs behind this one from its devices."""
        self._barred = dict.fromkeys(devices, job_id) | self._barred

    def place(self, job: WaitingJob) -> _Found[L] | _Waits:
        """Find the device on which a job begins, or why the job waits."""
        if job.held_back:
            return _Waits(job.held_back)
        same = next((other for other in self._running if other.work == job.work), None)
        if same is not None:
            return _Waits(f"waits for {same.id}, which measures the same")
        # Memoised: hundreds of models ask for the same on the same devices. A reused answer is
        # always to wait, as the first job that begins ends the turn: later bars do not change it.
        key = job.needs, job.devices, job.first, job.also
        if key not in self._known:
            self._known[key] = self._look(job)
        return self._known[key]

    def _look(self, job: WaitingJob) -> _Found[L] | _Waits:
        open_ones = [
            device_id
            for device_id in job.devices
            if not self._is_full(device_id)
            and device_id not in self._barred
            and self._host_of.get(device_id, "") not in self._busy_hosts
        ]
        open_ones.sort(key=lambda device_id: (device_id != job.first, self._jobs[device_id]))
        reasons = []
        for device_id in open_ones:
            lease = self._room.lease(job.needs, device_id)
            if not isinstance(lease, str):
                return _Found(device_id, lease)
            reasons.append(lease)
        return _Waits(self._why(job, reasons), self._could(job))

    def _is_full(self, device_id: str) -> bool:
        return self._jobs[device_id] >= self._slots.per_device

    def _could(self, job: WaitingJob) -> frozenset[str]:
        """Return devices on which only jobs are in the job's way, and devices of these jobs."""
        places = {
            device_id
            for device_id in job.devices
            if self._room.fits_without_jobs(job.needs, device_id)
        }
        return frozenset(places | set(job.also)) if places else frozenset()

    def _why(self, job: WaitingJob, reasons: Sequence[str]) -> str:
        here = [one.id for one in self._running if one.device_id in job.devices]
        busy = self._busy_hosts.intersection(self._host_of.get(one, "") for one in job.devices)
        full = [
            one.id
            for one in self._running
            if (one.device_id in job.devices and self._is_full(one.device_id))
            or (busy and self._host_of.get(one.device_id) in {*busy, None})
        ]
        if full:
            more = f", or {reasons[0].removeprefix('waits ')}" if reasons else ""
            return _either(full) + more
        if reasons:
            others = len(job.devices) - 1
            return reasons[0] + (f"; {others} like it have no room either" if others else "")
        first = next(self._barred[one] for one in job.devices if one in self._barred)
        beside = f" and {' and '.join(here)}" if here else ""
        return f"waits for {first}{beside}: {first} was passed over {MOST_PASSED} times"


def _either(names: Sequence[str]) -> str:
    more = len(names) - NAMED_MOST
    named = [*names[:NAMED_MOST], f"{more} others"] if more > 1 else names
    return f"waits for {' or '.join(named)}"

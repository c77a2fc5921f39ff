"""Which profile job begins next, and on which device. Pure.

A device has slots: so many jobs measure on it at a time, and jobs on different devices run side by
side. The rules, in the order in which they are asked:

1. So many jobs run on a host at most, since they share its event loop, which is the load generator
   of all of them.
2. The same is never measured twice at a time, on whatever devices.
3. The first job in the queue that finds a device with a free slot and room begins. A job that fits
   nowhere holds up none behind it: they pass it over.
4. A job that was passed over `MOST_PASSED` times, and would have room if no job measured, is passed
   over no more: nothing behind it begins where it could. So it begins once the jobs that run there
   have ended, each within its time limit. What replicas hold is theirs, and bars nobody.
5. Of several devices a job takes the one on which it was interrupted, else the one with the fewest
   jobs.
"""

import collections
import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar

L = TypeVar("L")
L_co = TypeVar("L_co", covariant=True)

MOST_PASSED: Final = 4
"""A guess: with time limits of 15 minutes, and two slots, a job waits for an hour at most because
of jobs that were queued after it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Slots:
    """How many jobs run at a time.

    Attributes:
        per_device: on one device.
        per_host: on all of them together.
    """

    per_device: int = 1
    per_host: int = 4


@dataclasses.dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job in the queue.

    Attributes:
        work: what it measures; jobs of equal work never run at the same time.
        needs: the room that it asks for; jobs of equal needs get equal answers.
        devices: where it may run.
        first: the one among them that it takes if it can; empty for none.
        also: other devices whose jobs take from what it needs, as host cores.
        held_back: why it may not begin yet, wherever; empty where it may.
        passed: how often a job behind it has begun where it could have.
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
    """What devices have room for."""

    def lease(self, needs: Hashable, device_id: str) -> L_co | str:
        """What a job gets there now, or what it waits for ("waits for ...")."""
        ...

    def fits_without_jobs(self, needs: Hashable, device_id: str) -> bool:
        """Whether there would be room if no job measured."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Turn(Generic[L]):
    """What happens next in the queue.

    Attributes:
        begins: id of the job that begins; None where none does.
        lease: what it gets.
        waits: why each job before it waits, or each of all, by id.
        passed: jobs that it passes over where they could have begun.
    """

    begins: str | None
    lease: L | None
    waits: Mapping[str, str]
    passed: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class _Waits:
    """Why a job finds no device, and where it would find room if no job measured."""

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
) -> Turn[L]:
    """The next job that begins, if one does; to be asked again after each that did.

    Args:
        queue: the job that was asked for first comes first.
        running: jobs that run.
        slots: how many may.
        room: what is free now.
    """
    waits: dict[str, str] = {}
    if len(running) >= slots.per_host:
        every = _either([job.id for job in running])
        return Turn(None, None, {job.id: job.held_back or every for job in queue})
    search = _Search(running, slots, room)
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
    """Places for the jobs of one queue; local to one call, so that all the rest stays pure."""

    def __init__(self, running: Sequence[MeasuringJob], slots: Slots, room: JobRoom[L]) -> None:
        self._running = running
        self._slots = slots
        self._room = room
        self._jobs = collections.Counter(job.device_id for job in running)
        self._barred: dict[str, str] = {}
        self._known: dict[Hashable, _Found[L] | _Waits] = {}

    def bar(self, job_id: str, devices: frozenset[str]) -> None:
        """Keep jobs behind this one from its devices."""
        self._barred = dict.fromkeys(devices, job_id) | self._barred

    def place(self, job: WaitingJob) -> _Found[L] | _Waits:
        """Where a job begins, or why it waits."""
        if job.held_back:
            return _Waits(job.held_back)
        same = next((other for other in self._running if other.work == job.work), None)
        if same is not None:
            return _Waits(f"waits for {same.id}, which measures the same")
        # Hundreds of models ask for the same of the same devices: one answer does for all. It is
        # always to wait, as the first that begins ends the turn; so bars put up since change none.
        key = job.needs, job.devices, job.first, job.also
        if key not in self._known:
            self._known[key] = self._look(job)
        return self._known[key]

    def _look(self, job: WaitingJob) -> _Found[L] | _Waits:
        open_ones = [
            device_id
            for device_id in job.devices
            if self._jobs[device_id] < self._slots.per_device and device_id not in self._barred
        ]
        open_ones.sort(key=lambda device_id: (device_id != job.first, self._jobs[device_id]))
        reasons = []
        for device_id in open_ones:
            lease = self._room.lease(job.needs, device_id)
            if not isinstance(lease, str):
                return _Found(device_id, lease)
            reasons.append(lease)
        return _Waits(self._why(job, reasons), self._could(job))

    def _could(self, job: WaitingJob) -> frozenset[str]:
        """Devices on which jobs alone are in its way, and those whose jobs are."""
        places = {
            device_id
            for device_id in job.devices
            if self._room.fits_without_jobs(job.needs, device_id)
        }
        return frozenset(places | set(job.also)) if places else frozenset()

    def _why(self, job: WaitingJob, reasons: Sequence[str]) -> str:
        here = [one.id for one in self._running if one.device_id in job.devices]
        full = [
            one.id
            for one in self._running
            if one.device_id in job.devices and self._jobs[one.device_id] >= self._slots.per_device
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
    return f"waits for {' or '.join(names)}"

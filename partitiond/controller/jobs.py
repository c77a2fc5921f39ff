"""The job queue: profile jobs, each on a leased partition, one at a time unless more are allowed.

A job waits visibly: its progress says what for. The first queued job whose lease can be had runs
next, so a job that waits for a busy device does not hold up one for a free device.
"""

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final

from partitiond.controller.diagnosis import explain, first_line
from partitiond.controller.journal import Journal
from partitiond.controller.leases import Lease, Waits
from partitiond.controller.watchers import Watchers
from partitiond.core.errors import PartitiondError
from partitiond.core.partition import Partition
from partitiond.fault_points import FaultPoint, reached
from partitiond.ports import ENDED, Clock, Job, JobState, Progress, Store
from partitiond.ports.actor import alone

log = logging.getLogger(__name__)

Tell = Callable[[Progress], None]
Neighbours = Callable[[], tuple[str, ...]]
"""Jobs that have run on the same device meanwhile, by id; asked when the work is done."""
Execute = Callable[[Job, Lease, Tell, Neighbours], Awaitable[str]]
"""Does the work and returns the id of its result. Cancelling it leaves nothing running."""

_CUT_SHORT: Final = "interrupted: the daemon ended while it ran."
INTERRUPTED: Final = (
    f"{_CUT_SHORT} Ask for it again: it resumes with the trials that it had finished."
)
"""For a job that is not queued again by itself (`auto` off, or interrupted too often): its finished
trials are in its checkpoint, and an equal request goes on from there."""
REPEATS: Final = 2
"""How often in a row an interrupted job is queued again by itself: a job that takes the daemon down
each time must not do so for ever."""
KEEP_PROGRESS_SECONDS: Final = 2.0
"""Progress comes several times a second; the store needs it only now and then."""


@dataclasses.dataclass(slots=True)
class _Running:
    """A job that runs now.

    Attributes:
        kept_at: when its progress was stored last, in seconds of the clock.
        neighbours: jobs that have run on the same device meanwhile.
    """

    job: Job
    lease: Lease
    kept_at: float
    neighbours: list[str] = dataclasses.field(default_factory=list)
    task: "asyncio.Task[None] | None" = None
    cancelled: bool = False


class JobQueue:
    """Owns the jobs.

    Args:
        at_once: how many may run at the same time, where their leases can be had together.

    Attributes:
        paused: why no job begins now; empty where one may.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        journal: Journal,
        lease: Callable[[Job], Lease | Waits],
        execute: Execute,
        ended: Callable[[Job], None],
        at_once: int = 1,
    ) -> None:
        self._store = store
        self._clock = clock
        self._journal = journal
        self._lease = lease
        self._execute = execute
        self._ended = ended
        self._at_once = at_once
        self._queued: dict[str, Job] = {}
        self._running: dict[str, _Running] = {}
        self._watchers = Watchers()
        self._closed = False
        self.paused: Callable[[], str] = str

    @property
    def busy(self) -> bool:
        """Whether a job runs now."""
        return bool(self._running)

    @property
    def running(self) -> str:
        """Id of the job that has run longest of those that run now; empty while none does."""
        return next(iter(self._running), "")

    def leases(self) -> tuple[Partition, ...]:
        """Partitions lent out now."""
        return tuple(lent.lease.partition for lent in self._running.values())

    def starting(self) -> tuple[str, ...]:
        """Devices on which a job starts its engine now, once for each such job."""
        return tuple(
            lent.lease.partition.device_id
            for lent in self._running.values()
            if lent.job.progress.phase == "starting"
        )

    def lent(self) -> tuple[tuple[str, Partition], ...]:
        """The same, each with the id of its job."""
        return tuple((name, lent.lease.partition) for name, lent in self._running.items())

    def recover(self) -> None:
        """Take up the queue of the daemon before: what ran has failed, what waited waits on."""
        for job in reversed(self._store.jobs(limit=None)):
            if job.state is JobState.RUNNING:
                self._finish(job, JobState.FAILED, error=INTERRUPTED)
            elif job.state is JobState.QUEUED:
                self._queued[job.id] = job

    def submit(
        self, kind: str, subject: str, params: Sequence[tuple[str, str]], *, reason: str = ""
    ) -> Job:
        """Queue a job. An equal one that waits or runs already is returned instead.

        Args:
            reason: why it is queued without being asked for; it may be withdrawn when the reason
                vanishes. Empty where somebody asked.
        """
        for job in self.open_jobs(subject):
            if (job.kind, job.params) == (kind, tuple(params)):
                return self._asked_for(job) if job.reason and not reason else job
        now = self._clock.utc_iso()
        job = Job(
            id=f"job-{self._store.next_counter('job')}",
            kind=kind,
            subject=subject,
            state=JobState.QUEUED,
            created_at=now,
            updated_at=now,
            progress=Progress("queued", "waits for its turn"),
            params=tuple(params),
            reason=reason,
        )
        self._queued[job.id] = job
        self._store.put_job(job)
        reached(FaultPoint.JOB_QUEUED)
        why = f"{kind} of {subject}: {reason}." if reason else f"{kind} of {subject}."
        self._journal.note("job-queued", job.id, why)
        self.poke()
        return self.job(job.id)

    def jobs(self) -> tuple[Job, ...]:
        """The newest and all open ones, newest first, with the latest progress."""
        newest = self._store.jobs()
        listed = {job.id for job in newest}
        running = [lent.job for lent in self._running.values()]
        older = [job for job in (*running, *self._queued.values()) if job.id not in listed]
        older.reverse()  # the queue keeps the order of creation, which their times alone need not
        older.sort(key=lambda job: job.created_at, reverse=True)
        return tuple(self._latest(job) for job in (*newest, *older))

    def job(self, job_id: str) -> Job:
        """Raises NotFoundError."""
        return self._latest(self._store.job(job_id))

    def watch(self, job_id: str) -> AsyncGenerator[Job, None]:
        """The job now and each time it changes, until it has ended or the daemon ends.

        Raises:
            NotFoundError: there is no such job; raised here, not at the first step.
        """
        self.job(job_id)
        return self._watchers.watch(
            job_id, lambda: self.job(job_id), lambda job: job.state in ENDED
        )

    def replaced(self, old: Job, new: Job) -> None:
        """Say of an interrupted job which one was queued in its place."""
        error = f"{_CUT_SHORT} {new.id} was queued in its place."
        self._store.put_job(dataclasses.replace(old, error=error))
        self._watchers.changed(old.id)

    def withdraw(self, job: Job, reason: str) -> None:
        """Take a waiting job out of the queue because nothing needs it any more."""
        queued = self._queued.pop(job.id, None)
        if queued is not None:
            self._ended(self._finish(queued, JobState.CANCELLED, error=f"withdrawn: {reason}"))

    def open_jobs(self, subject: str) -> tuple[Job, ...]:
        """Jobs of a model that wait or run, the running ones last: cancelled in this order, none
        of the waiting ones starts meanwhile.
        """
        running = [lent.job for lent in self._running.values()]
        return tuple(j for j in (*self._queued.values(), *running) if j.subject == subject)

    def ended(self, subject: str) -> tuple[Job, ...]:
        """Jobs of a model that have ended, newest first."""
        kept = self._store.jobs(limit=None)
        return tuple(job for job in kept if job.subject == subject and job.state in ENDED)

    async def cancel(self, job_id: str) -> Job:
        """Cancel; returns once nothing of it runs. A job that has ended stays as it is."""
        queued = self._queued.pop(job_id, None)
        if queued is not None:
            self._ended(self._finish(queued, JobState.CANCELLED))
        running = self._running.get(job_id)
        if running is not None:
            self._journal.note("job-cancel-asked", job_id, "it is ended.")
            running.cancelled = True
            await self._stop(running)
        return self.job(job_id)

    def poke(self) -> None:
        """Start the next job if its lease can be had; say of the others what they wait for."""
        if self._closed:
            return
        paused = self.paused() if self._queued else ""
        for job in tuple(self._queued.values()):
            if paused:
                self._say_waiting(job, paused)
                continue
            if len(self._running) >= self._at_once:
                self._say_waiting(job, f"waits for {' or '.join(self._running)}")
                continue
            lease = self._lease(job)
            if isinstance(lease, Waits):
                self._say_waiting(job, lease.reason)
            else:
                del self._queued[job.id]
                self._start(job, lease)

    async def close(self) -> None:
        """End the running job; queued ones stay queued for the next daemon."""
        self._closed = True
        for running in tuple(self._running.values()):
            await self._stop(running)
        self._watchers.close()

    def _asked_for(self, job: Job) -> Job:
        """Somebody asked for what was queued by itself: it stays whatever changes."""
        was = f"{job.kind} of {job.subject}: asked for; it was queued by itself, {job.reason}."
        self._journal.note("job-wanted", job.id, was)
        job = dataclasses.replace(job, reason="")
        if job.id in self._queued:
            self._queued[job.id] = job
        elif job.id in self._running:
            self._running[job.id].job = job
        self._store.put_job(job)
        return job

    def _latest(self, job: Job) -> Job:
        running = self._running.get(job.id)
        if running is not None:
            return running.job
        return self._queued.get(job.id, job)

    def _say_waiting(self, job: Job, reason: str) -> None:
        if job.progress.message != reason:
            job = dataclasses.replace(job, progress=Progress("queued", reason))
            self._queued[job.id] = job
            self._store.put_job(job)
            self._watchers.changed(job.id)

    def _start(self, job: Job, lease: Lease) -> None:
        job = dataclasses.replace(
            job,
            state=JobState.RUNNING,
            updated_at=self._clock.utc_iso(),
            progress=Progress("starting", "starts"),
        )
        self._store.put_job(job)
        reached(FaultPoint.JOB_STARTED)
        running = _Running(job, lease, self._clock.monotonic())
        for name, other in self._running.items():
            if other.lease.partition.device_id == lease.partition.device_id:
                running.neighbours.append(name)
                other.neighbours.append(job.id)
        self._running[job.id] = running
        self._journal.note("job-started", job.id, f"{job.kind} of {job.subject}.")
        # What the job leads to is nobody's request, whoever is being served at this moment.
        running.task = asyncio.create_task(self._run(running), name=job.id, context=alone())
        self._watchers.changed(job.id)

    async def _run(self, running: _Running) -> None:
        def tell(progress: Progress) -> None:
            self._tell(running, progress)

        state, error = JobState.FAILED, ""
        result: str | None = None
        try:
            result = await self._execute(
                running.job, running.lease, tell, lambda: tuple(running.neighbours)
            )
            state = JobState.SUCCEEDED
        except asyncio.CancelledError:
            state, error = _cut_short(running)
        except PartitiondError as broke:
            error = explain(broke)
        except Exception as broke:
            # A defect in one job must end that job, not the queue.
            log.exception("job %s broke", running.job.id)
            error = f"{type(broke).__name__}: {broke}"
        self._end(running, state, error, result)

    def _end(self, running: _Running, state: JobState, error: str, result: str | None) -> None:
        del self._running[running.job.id]
        self._ended(self._finish(running.job, state, error=error, result=result))
        self.poke()

    async def _stop(self, running: _Running) -> None:
        """Cancel the running job; returns once nothing of it runs."""
        if running.task is None:
            return
        running.task.cancel()
        await asyncio.wait([running.task])
        if running.job.id in self._running:  # cancelled before its first step: nobody has ended it
            self._end(running, *_cut_short(running), result=None)

    def _tell(self, running: _Running, progress: Progress) -> None:
        running.job = dataclasses.replace(running.job, progress=progress)
        now = self._clock.monotonic()
        if now - running.kept_at >= KEEP_PROGRESS_SECONDS:
            running.kept_at = now
            self._store.put_job(running.job)
        self._watchers.changed(running.job.id)

    def _finish(
        self, job: Job, state: JobState, *, error: str = "", result: str | None = None
    ) -> Job:
        progress = job.progress
        if state is JobState.SUCCEEDED:
            progress = Progress("done", "done", 1.0, 0.0)
        job = dataclasses.replace(
            job,
            state=state,
            updated_at=self._clock.utc_iso(),
            progress=progress,
            result=result,
            error=error,
        )
        self._store.put_job(job)
        reached(FaultPoint.JOB_FINISHED)
        what = f"{job.kind} of {job.subject}"
        self._journal.note(
            f"job-{state.value}", job.id, f"{what}: {first_line(error)}" if error else what
        )
        self._watchers.changed(job.id)
        return job


def _cut_short(running: _Running) -> tuple[JobState, str]:
    """How a job ends whose task was cancelled: by somebody, or with the daemon."""
    if running.cancelled:
        return JobState.CANCELLED, ""
    return JobState.FAILED, INTERRUPTED


def interrupted_jobs(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """The jobs to queue again after a restart, oldest first.

    Of each piece of work the newest job counts: it was interrupted, and that happened no more than
    `REPEATS` times in a row.

    Args:
        jobs: of all daemons, newest first.
    """
    works: dict[object, list[Job]] = {}
    for job in jobs:
        works.setdefault((job.kind, job.subject, job.params), []).append(job)
    again = []
    for same in works.values():
        in_a_row = list(itertools.takewhile(_was_interrupted, same))
        if 1 <= len(in_a_row) <= REPEATS:
            again.append(same[0])
    return tuple(reversed(again))


def _was_interrupted(job: Job) -> bool:
    return job.state is JobState.FAILED and job.error.startswith(_CUT_SHORT)

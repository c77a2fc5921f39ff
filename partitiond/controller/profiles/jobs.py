"""Queues and runs profile jobs, each on a leased partition, side by side on different devices.

The progress of a waiting job says what the job waits for. `core.replica.job_slots` decides which
job begins next, and where.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from partitiond.controller.journal import Journal
from partitiond.controller.profiles.job_room import Lent, same_request
from partitiond.controller.runtime.diagnosis import explain, first_line
from partitiond.controller.runtime.interrupted_jobs import repeats_elsewhere
from partitiond.core.errors import HostSilentError, PartitiondError, StoreError
from partitiond.core.hardware.partition import Partition
from partitiond.core.profile.jobs import (
    ENDED,
    LATER,
    AwaitedLook,
    Job,
    JobCause,
    JobState,
    Progress,
    awaited_looks,
    job_place,
    looked_at,
)
from partitiond.core.replica.job_slots import Turn
from partitiond.core.replica.leases import Lease
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.ports import Clock
from partitiond.ports.actor import alone
from partitiond.store import Store

log = logging.getLogger(__name__)

Tell = Callable[[Progress], None]
Neighbours = Callable[[], tuple[str, ...]]
"""Returns the ids of jobs that ran on the same device meanwhile; called when the work is done."""
Execute = Callable[[Job, Lease, Tell, Neighbours], Awaitable[str]]
"""Does the work and returns the id of its result. Cancelling it leaves nothing running."""

Write = Callable[[Callable[[], None]], Awaitable[None]]
"""Writes what must not be lost, and waits while another process has locked the store."""

WRITE_AGAIN_SECONDS: Final = 5.0
"""Pause before the end of a job is written again to a store that could not be written."""

CUT_SHORT: Final = "interrupted: the daemon ended while it ran."
_INTERRUPTED: Final = (
    JobState.FAILED,
    f"{CUT_SHORT} Ask for it again.",
    JobCause.INTERRUPTED,
)
"""How a job ends with the daemon, in words for one that is not queued again by itself (`auto` off,
or interrupted too often)."""
_CANCELLED: Final = JobState.CANCELLED, "", JobCause.NONE

KEEP_PROGRESS_SECONDS: Final = 2.0
"""Pause between two writes of a job's progress, which changes several times a second."""


@dataclasses.dataclass(slots=True)
class _Running:
    """A job that runs now.

    Attributes:
        kept_at: when its progress was stored last, in seconds of the clock.
        neighbours: jobs that have run on the same device meanwhile.
        starts_at: since when it starts an engine, in seconds of the clock; None if it does not.
        ends: how it ends if its task is cancelled.
    """

    job: Job
    lease: Lease
    kept_at: float
    starts_at: float | None = None
    neighbours: list[str] = dataclasses.field(default_factory=list)
    task: "asyncio.Task[None] | None" = None
    ends: tuple[JobState, str, JobCause] = _INTERRUPTED


class JobQueue:
    """Owns the jobs.

    Args:
        turn: decides which job begins next, by the waiting jobs and the running ones.
        hardware_of: the hardware of a device; empty if there is no such device.
        host_of: the host of a device; empty if there is no such device, or only one host.
        paused: returns why no job may begin now; empty if one may.
        start_seconds: time for a job to start its engine. Then it fails, and others may start on
            its device even if it does not end.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        journal: Journal,
        turn: Callable[[Sequence[Job], Sequence[Lent]], Turn[Lease]],
        execute: Execute,
        ended: Callable[[Job], None],
        write: Write,
        paused: Callable[[], str],
        start_seconds: float,
        hardware_of: Callable[[str], str] = lambda _: "",
        host_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._start_seconds = start_seconds
        self._store = store
        self._clock = clock
        self._journal = journal
        self._turn = turn
        self._execute = execute
        self._ended = ended
        self._write = write
        self._hardware_of = hardware_of
        self._host_of = host_of
        self._queued: dict[str, Job] = {}
        self._running: dict[str, _Running] = {}
        self._closed = False
        self._paused = paused

    @property
    def awaited(self) -> bool:
        """Whether a job runs that plans wait for: what a first look left open is not awaited."""
        return any(one.job.reason not in LATER for one in self._running.values())

    def first_look_beside(self, job: Job) -> str:
        """Id of a running first look at what a job is a first look at, too; empty if none runs."""
        look = looked_at(job)
        running = (one.job for one in self._running.values() if one.job.subject == job.subject)
        return next((other.id for other in running if look and looked_at(other) == look), "")

    def looks(self) -> dict[str, AwaitedLook]:
        """Return what models that are not measured yet wait for, by model."""
        running = (one.job for one in self._running.values())
        return awaited_looks(running, self._queued.values())

    @property
    def running(self) -> str:
        """Id of the job that has run longest of those that run now; empty while none does."""
        return next(iter(self._running), "")

    def leases(self) -> tuple[Partition, ...]:
        """Partitions lent out now."""
        return tuple(lent.lease.partition for lent in self._running.values())

    def lent(self) -> tuple[Lease, ...]:
        """All that is lent to jobs now: partitions, and host cores beside GPUs."""
        return tuple(running.lease for running in self._running.values())

    def starting(self) -> tuple[str, ...]:
        """Devices on which a job starts its engine now, once for each such job."""
        return tuple(
            lent.lease.partition.device_id
            for lent in self._running.values()
            if lent.starts_at is not None
        )

    def recover(self) -> None:
        """Take over the previous daemon's queue: running jobs failed, queued ones stay queued."""
        for job in reversed(self._store.jobs(limit=None)):
            if job.state is JobState.RUNNING:
                self._finish(job, *_INTERRUPTED)
            elif job.state is JobState.QUEUED:
                self._queued[job.id] = job

    def submit(
        self,
        kind: str,
        subject: str,
        params: Sequence[tuple[str, str]],
        *,
        reason: str = "",
        drift_of: str = "",
    ) -> Job:
        """Queue a job. If an equal job is queued or runs already, return that job instead.

        Args:
            reason, drift_of: as in `Job`; empty if an operator asked for the job.
        """
        job = self._queue_up(
            Job(
                id="",
                kind=kind,
                subject=subject,
                state=JobState.QUEUED,
                created_at="",
                updated_at="",
                progress=Progress("queued", "waits for its turn"),
                params=tuple(params),
                reason=reason,
                hardware=self._hardware_of(dict(params).get("device_id", "")),
                drift_of=drift_of,
            )
        )
        self.begin_due()
        return self.job(job.id)

    def go_on(self, interrupted: Sequence[Job]) -> None:
        """Queue interrupted jobs again, before all others: they have measured something.

        Args:
            interrupted: in the order in which they go on.
        """
        for old in interrupted:
            new = self._queue_up(old)
            error = f"{CUT_SHORT} {new.id} was queued in its place."
            self._store.put_job(dataclasses.replace(old, error=error))
        self.begin_due()

    def _queue_up(self, asked: Job) -> Job:
        """Queue a job as a new one: what was asked for, without what came of it before."""
        for same in self.open_jobs(asked.subject):
            if same_request(same, asked) and not self._is_being_cancelled(same.id):
                return self._asked_for(same) if same.reason and not asked.reason else same
        now = self._clock.utc_iso()
        job = dataclasses.replace(
            asked,
            id=f"job-{self._store.next_counter('job')}",
            state=JobState.QUEUED,
            created_at=now,
            updated_at=now,
            progress=Progress("queued", "waits for its turn"),
            result=None,
            error="",
            host="",
            cause=JobCause.NONE,
        )
        self._store.put_job(job)  # first: a job that the store refuses is not queued
        self._queued[job.id] = job
        reached(FaultPoint.JOB_QUEUED)
        why = f": {job.reason}" if job.reason else ""
        self._journal.note("job-queued", job.id, f"{job.kind} of {job.subject}{why}.")
        return job

    def jobs(self) -> tuple[Job, ...]:
        """Return the newest and all open jobs, newest first, with their latest progress."""
        newest = self._store.jobs()
        listed = {job.id for job in newest}
        running = [lent.job for lent in self._running.values()]
        older = [job for job in (*running, *self._queued.values()) if job.id not in listed]
        older.reverse()  # the queue is in order of creation; the sort keeps it for equal times
        older.sort(key=lambda job: job.created_at, reverse=True)
        return tuple(self._latest(job) for job in (*newest, *older))

    def job(self, job_id: str) -> Job:
        """Raises NotFoundError."""
        return self._latest(self._store.job(job_id))

    def withdraw(self, job: Job, reason: str) -> None:
        """Take a waiting job out of the queue because nothing needs it any more."""
        if job.id in self._queued:
            self._take_out(job.id, f"withdrawn: {reason}", JobCause.WITHDRAWN)

    def open_jobs(self, subject: str) -> tuple[Job, ...]:
        """Return a model's jobs that are queued or run, the running ones last: if they are
        cancelled in this order, no queued job starts meanwhile.
        """
        running = [lent.job for lent in self._running.values()]
        return tuple(j for j in (*self._queued.values(), *running) if j.subject == subject)

    def ended(self, subject: str) -> tuple[Job, ...]:
        """Jobs of a model that have ended, newest first."""
        kept = self._store.jobs(limit=None)
        return tuple(job for job in kept if job.subject == subject and job.state in ENDED)

    def forgive(self, subject: str) -> None:
        """Count a model's failed jobs as not done: what they failed for is gone."""
        for job in self.ended(subject):
            if job.state is JobState.FAILED:
                self._store.put_job(dataclasses.replace(job, cause=JobCause.WITHDRAWN))

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job; returns once nothing of it runs. A job that has ended stays as it is.

        Raises NotFoundError.
        """
        if job_id in self._queued:
            self._take_out(job_id)
        running = self._running.get(job_id)
        if running is not None:
            self._journal.note("job-cancel-asked", job_id, "it is ended.")
            running.ends = _CANCELLED
            await self._stop(running)
        return self.job(job_id)

    def begin_due(self) -> None:
        """Start the jobs that may begin; say of each other job what it waits for. End jobs whose
        engines do not start in time."""
        if self._closed:
            return
        latest = self._clock.monotonic() - self._start_seconds
        for one in self._running.values():
            if one.task is not None and one.starts_at is not None and one.starts_at < latest:
                late = f"its engine did not start in {self._start_seconds:g} s. See its log."
                one.starts_at, one.ends = None, (JobState.FAILED, late, JobCause.NONE)
                one.task.cancel()
        paused = self._paused() if self._queued else ""
        if paused:
            self._say_waiting(dict.fromkeys(self._queued, paused))
            return
        while self._queued:
            running = [(one.job, one.lease) for one in self._running.values()]
            # What models wait for comes before what looks left open. Of each, interrupted jobs
            # come first: what they have measured is worth most while it is recent.
            queue = sorted(
                self._queued.values(),
                key=lambda job: (LATER.get(job.reason, 0), not job.device_id),
            )
            turn = self._turn(queue, running)
            if turn.begins is None or turn.lease is None:
                self._say_waiting(turn.waits)
                return
            self._start(self._queued[turn.begins], turn.lease)
            del self._queued[turn.begins]

    async def close(self) -> None:
        """End the running jobs; queued ones stay queued for the next daemon."""
        self._closed = True
        for running in tuple(self._running.values()):
            await self._stop(running)

    def _take_out(self, job_id: str, error: str = "", cause: JobCause = JobCause.NONE) -> None:
        """End a queued job; if the store refuses its end, the job stays queued."""
        ended = self._finish(self._queued[job_id], JobState.CANCELLED, error, cause)
        del self._queued[job_id]
        self._ended(ended)

    def _is_being_cancelled(self, job_id: str) -> bool:
        return job_id in self._running and self._running[job_id].ends is _CANCELLED

    def _asked_for(self, job: Job) -> Job:
        """Mark a job that was queued by itself as asked for: no change withdraws it any more."""
        was = f"{job.kind} of {job.subject}: asked for; it was queued by itself, {job.reason}."
        self._journal.note("job-wanted", job.id, was)
        return self.change_reason(dataclasses.replace(job, drift_of=""), "")

    def change_reason(self, job: Job, reason: str) -> Job:
        """Give an open job another reason, on which depends who waits for it."""
        job = dataclasses.replace(job, reason=reason)
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

    def _say_waiting(self, reasons: Mapping[str, str]) -> None:
        for name, reason in reasons.items():
            job = self._queued[name]
            if job.progress.message != reason:
                job = dataclasses.replace(job, progress=Progress("queued", reason))
                self._queued[name] = job
                self._keep_progress(job)

    def _keep_progress(self, job: Job) -> None:
        """Store how far a job is; a failing store must end neither the job nor the loop's pass."""
        try:
            self._store.put_job(job)
        except StoreError as error:
            log.warning("the progress of %s is not kept: %s", job.id, error)

    def _start(self, job: Job, lease: Lease) -> None:
        job = dataclasses.replace(
            job,
            state=JobState.RUNNING,
            updated_at=self._clock.utc_iso(),
            progress=Progress("fetching", "looks for its files"),
            device_id=lease.partition.device_id,
            host=self._host_of(lease.partition.device_id),
        )
        self._store.put_job(job)
        reached(FaultPoint.JOB_STARTED)
        running = _Running(job, lease, self._clock.monotonic())
        for name, other in self._running.items():
            if other.lease.partition.device_id == lease.partition.device_id:
                running.neighbours.append(name)
                other.neighbours.append(job.id)
        self._running[job.id] = running
        self._journal.note("job-started", job.id, f"{_what(job)}.")
        # What the job leads to belongs to no request, even if one is being served at this moment.
        running.task = asyncio.create_task(self._run(running), name=job.id, context=alone())

    async def _run(self, running: _Running) -> None:
        def tell(progress: Progress) -> None:
            self._tell(running, progress)

        state, error, cause = JobState.FAILED, "", JobCause.NONE
        result: str | None = None
        try:
            result = await self._execute(
                running.job, running.lease, tell, lambda: tuple(running.neighbours)
            )
            state = JobState.SUCCEEDED
        except asyncio.CancelledError:
            state, error, cause = running.ends
        except HostSilentError as broke:
            error = f"its host did not answer any more while it ran. {explain(broke)}"
            cause = JobCause.HOST_LOST
        except PartitiondError as broke:
            error = explain(broke)
        except Exception as broke:
            # A defect in one job must end that job, not the queue.
            log.exception("job %s broke", running.job.id)
            error = f"{type(broke).__name__}: {broke}"
        await self._end(running, state, error, cause, result)

    async def _end(
        self,
        running: _Running,
        state: JobState,
        error: str,
        cause: JobCause,
        result: str | None = None,
    ) -> None:
        """Write how a job ended, as soon as the store accepts it; this frees the job's slot."""
        name = running.job.id
        ended: list[Job] = []

        def end() -> None:
            ended.append(self._finish(running.job, state, error, cause, result))

        while not (ended or self._closed):
            with contextlib.suppress(asyncio.CancelledError):  # the canceller waits for the end
                try:
                    await self._write(end)
                except StoreError as broke:
                    log.warning("the end of %s is not written yet: %s", name, broke)
                    await asyncio.sleep(WRITE_AGAIN_SECONDS)
        try:
            if not ended:
                end()
        except StoreError as broke:
            log.warning("the end of %s is not written; the next daemon says it: %s", name, broke)
        if self._running.pop(name, None) is not None:  # two may cancel before its first step
            for job in ended:
                self._repeat(job)
                self._ended(job)
            self.begin_due()

    def _repeat(self, ended: Job) -> None:
        """Queue a job again whose host was lost, for any device like the one that it was on."""
        if self._closed or ended.cause is not JobCause.HOST_LOST:
            return
        try:
            if repeats_elsewhere(ended, self._store.jobs(limit=None)):
                self._queue_up(dataclasses.replace(ended, device_id=""))
        except StoreError as error:
            log.warning("%s is not queued again: %s", ended.id, error)

    async def _stop(self, running: _Running) -> None:
        """Cancel the running job; returns once nothing of it runs."""
        if running.task is None:
            return
        running.task.cancel()
        await asyncio.wait([running.task])
        if running.job.id in self._running:  # cancelled before its first step: nothing ended it
            await self._end(running, *running.ends)

    def _tell(self, running: _Running, progress: Progress) -> None:
        running.job = dataclasses.replace(running.job, progress=progress)
        now = self._clock.monotonic()
        if progress.phase != "starting":
            running.starts_at = None
        elif running.starts_at is None:
            running.starts_at = now
        if now - running.kept_at >= KEEP_PROGRESS_SECONDS:
            running.kept_at = now
            self._keep_progress(running.job)

    def _finish(
        self,
        job: Job,
        state: JobState,
        error: str,
        cause: JobCause,
        result: str | None = None,
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
            cause=cause,
        )
        self._store.put_job(job)
        reached(FaultPoint.JOB_FINISHED)
        what = _what(job)
        self._journal.note(
            f"job-{state.value}", job.id, f"{what}: {first_line(error)}" if error else what
        )
        return job


def _what(job: Job) -> str:
    where = f" on {job_place(job)}" if job.device_id else ""
    return f"{job.kind} of {job.subject}{where}"

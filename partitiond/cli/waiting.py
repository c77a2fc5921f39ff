"""Waiting for the daemon's work with visible progress: jobs, and replicas that start."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console

from partitiond.cli.output import say
from partitiond.cli.render_progress import Reporter, reporting
from partitiond.core.errors import (
    DaemonUnreachableError,
    PartitiondError,
    StartFailedError,
    StartTimedOutError,
)
from partitiond.ports import Job, JobState, ReplicaView

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient

POLL_SECONDS: Final = 0.5
BLOCKED_SECONDS: Final = 10.0
"""A queue that does not move for so long waits for replicas, not for other jobs."""
FINISHED: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class JobFailedError(PartitiondError):
    """A job ended without a result."""

    code = "job_failed"


def wait_for_job(
    client: "ControlClient", job_id: str, console: Console, *, leave_when_blocked: bool = False
) -> Job:
    """Show progress until the job ends. Interrupted, the job goes on.

    Args:
        leave_when_blocked: return the queued job once it has waited a while and nothing runs that
            it could wait for: what serves holds its room, and nobody knows for how long.

    Raises:
        JobFailedError: it failed or was cancelled; the message is the job's own.
    """
    with reporting(console) as report, _telling_how_to_go_on(job_id):
        if leave_when_blocked:
            job = _polled_unless_blocked(client, job_id, report)
        else:
            job = _streamed(client, job_id, report)
    if job.state in FINISHED and job.state is not JobState.SUCCEEDED:
        raise JobFailedError(
            f"job {job.id} for {job.subject} {job.state.value}. {job.error}".strip(),
            hint=f"`partitiond events` says what happened; try again: "
            f"partitiond profile {job.subject}",
        )
    return job


def _streamed(client: "ControlClient", job_id: str, report: Reporter) -> Job:
    """Follow the daemon's events; where the stream breaks, ask again and again instead."""
    try:
        for job in client.watch_job(job_id):
            _show(job, report)
            if job.state in FINISHED:
                return job
    except DaemonUnreachableError:
        pass  # something between us does not let streams pass, or the daemon ends: the poll says
    while (job := client.job(job_id)).state not in FINISHED:
        _show(job, report)
        time.sleep(POLL_SECONDS)
    return job


def _polled_unless_blocked(client: "ControlClient", job_id: str, report: Reporter) -> Job:
    """Ask again and again until the job has ended or nothing moves in the queue."""
    blocked_since = None
    while (job := client.job(job_id)).state not in FINISHED:
        blocked_since = _blocked_since(client, job, blocked_since)
        if blocked_since is not None and time.monotonic() - blocked_since > BLOCKED_SECONDS:
            return job
        _show(job, report)
        time.sleep(POLL_SECONDS)
    return job


def _show(job: Job, report: Reporter) -> None:
    progress = job.progress
    waits = "waits for its turn" if job.state is JobState.QUEUED else ""
    text = ": ".join(part for part in (progress.phase, progress.message) if part)
    report.update(text or waits or job.state.value, progress.fraction, progress.seconds_left)


def _blocked_since(client: "ControlClient", job: Job, before: float | None) -> float | None:
    """Since when the job is queued and no job runs; None while it is not so."""
    if job.state is not JobState.QUEUED:
        return None
    if any(other.state is JobState.RUNNING for other in client.jobs()):
        return None
    return time.monotonic() if before is None else before


@contextmanager
def _telling_how_to_go_on(job_id: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say(f"{job_id} goes on: `partitiond jobs watch {job_id}`, or `jobs cancel {job_id}`.")
        raise


def wait_until_serving(
    client: "ControlClient",
    wanted: Collection[str],
    console: Console,
    *,
    deadline_seconds: float,
    give_up_after_starts: int = 3,
) -> list[ReplicaView]:
    """Show start progress until all `wanted` replicas serve.

    Raises:
        StartFailedError: one failed `give_up_after_starts` times; with its diagnosis.
        StartTimedOutError: the deadline passed.
    """
    started = time.monotonic()
    with reporting(console) as report:
        while True:
            views = [view for view in client.replicas() if view.replica_id in wanted]
            waiting = [view for view in views if view.state != "serving"]
            if not waiting and len(views) == len(set(wanted)):
                return views
            for view in waiting:
                if view.state == "failed" and view.starts >= give_up_after_starts:
                    raise _start_failed(view)
            if time.monotonic() - started > deadline_seconds:
                raise StartTimedOutError(
                    f"{', '.join(sorted(v.replica_id for v in waiting)) or 'replicas'} did not "
                    f"serve within {deadline_seconds:.0f} s.",
                    hint="`partitiond status` shows what each waits for; the daemon goes on "
                    "trying.",
                )
            done = (len(views) - len(waiting)) / max(1, len(set(wanted)))
            report.update(_start_line(waiting), done)
            time.sleep(POLL_SECONDS)


def _start_failed(view: ReplicaView) -> StartFailedError:
    return StartFailedError(
        f"{view.replica_id} does not start: {view.last_error or 'no diagnosis'}",
        hint=f"Its log: {view.log_path}" if view.log_path else "`partitiond events` says more.",
    )


def _start_line(waiting: list[ReplicaView]) -> str:
    moving = [view for view in waiting if view.state == "starting"] or waiting
    if not moving:
        return "waiting for the first engine to start"
    view = moving[0]
    return f"{view.replica_id} {view.state}: {view.start_progress}".rstrip(": ")

"""Waits for the daemon's jobs and for plans to run, with visible progress."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console

from partitiond.cli.output import say
from partitiond.cli.progress import Reporter, reporting
from partitiond.core.errors import (
    ConflictError,
    DaemonUnreachableError,
    DeviceError,
    ModelSourceError,
    PartitiondError,
    StartFailedError,
)
from partitiond.core.events import EventFilter
from partitiond.core.numbers.grouping import by_key
from partitiond.core.profile.jobs import Job, JobState
from partitiond.core.replica.convergence import (
    NOTHING_APPLIED,
    Cause,
    Convergence,
    PlanState,
    ReplicaProgress,
    Standing,
)
from partitiond.core.units import format_duration

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient

POLL_SECONDS: Final = 0.5
BLOCKED_SECONDS: Final = 10.0
"""A queue that has not moved for this time waits for replicas, not for other jobs."""
STALL_STEP_SECONDS: Final = 15
"""Step of the reported time without change: a line each second would say nothing more."""
FINISHED: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class JobFailedError(PartitiondError):
    """A job ended without a result."""

    code = "job_failed"


def wait_for_job(
    client: "ControlClient", job_id: str, console: Console, *, leave_when_blocked: bool = False
) -> Job:
    """Show progress until the job ends. An interrupt ends the wait, not the job.

    Args:
        leave_when_blocked: return the queued job once it has waited a while and no job runs that
            it could wait for: serving replicas hold its room for an unknown time.

    Raises:
        JobFailedError: the job failed or was cancelled; the message is the job's own.
    """
    with reporting(console) as report, _telling_how_to_go_on(job_id):
        job = _followed(client, job_id, report, leave_when_blocked=leave_when_blocked)
    if job.state in FINISHED and job.state is not JobState.SUCCEEDED:
        raise JobFailedError(
            f"job {job.id} for {job.subject} {job.state.value}. {job.error}".strip(),
            hint=f"`partitiond events` says what happened; try again: "
            f"partitiond profile {job.subject}",
        )
    return job


def _followed(
    client: "ControlClient", job_id: str, report: Reporter, *, leave_when_blocked: bool
) -> Job:
    """Ask until the job has ended or, where that is to end the wait, nothing moves in the queue."""
    blocked_since = None
    while (job := client.job(job_id)).state not in FINISHED:
        if leave_when_blocked:
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
    """The time since which the job is queued and no job runs; None otherwise."""
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
        say(f"{job_id} goes on: `partitiond profile jobs {job_id} --watch`, or `--cancel`.")
        raise


def wait_for_plan(client: "ControlClient", plan_id: str, console: Console) -> Convergence:
    """Show how far a plan is until it runs. After an interrupt, the daemon continues the plan.

    If the daemon replaces the plan by itself, or by a plan that wants the same engines, the wait
    continues with the new plan. Failures are reported as they come; they end the wait once all
    other replicas are done.

    Raises:
        ConflictError: a user applied another plan.
        StartFailedError, ModelSourceError, DeviceError: replicas failed, or a model went back to
            an earlier release.
        DaemonUnreachableError: the daemon is gone.
    """
    with reporting(console) as report, _telling_that_it_goes_on(plan_id):
        shown = _Shown(report, console)
        lost: list[ReplicaProgress] = []
        now = shown.followed(client, plan_id)
        while now.state is PlanState.SUPERSEDED:
            assert now.replaced is not None
            if now.replaced.actor and not now.replaced.same:
                raise ConflictError(
                    f"{now.why}, before all of it ran.",
                    hint=f"`partitiond apply {now.replaced.plan_id}` waits for that one.",
                )
            shown.line(f"{now.why}; this waits for {now.replaced.plan_id} now.")
            lost += shown.failures
            now = shown.followed(client, now.replaced.plan_id)
    failures = (*now.failures, *_still_lost(client, now, lost))
    _raise_what_failed(client, now, shown, failures)
    return now


def _still_lost(
    client: "ControlClient", now: Convergence, lost: Sequence[ReplicaProgress]
) -> list[ReplicaProgress]:
    """Failures of an earlier plan, of models that the daemon left out of the present plan."""
    known = {failure.replica_id for failure in now.failures}
    serving = {view.record.spec.name for view in client.models() if view.replicas_serving}
    return [f for f in lost if f.replica_id not in known and f.model not in serving]


def wait_for_change(client: "ControlClient", before: Convergence, console: Console) -> None:
    """Show the effects of a change until they are done or wait for the user; say which.

    Args:
        before: the state before the change.

    Raises:
        StartFailedError, ModelSourceError, DeviceError: replicas failed that did not before, or a
            model went back to an earlier release.
        DaemonUnreachableError: the daemon is gone.
    """
    with reporting(console) as report, _telling_that_it_goes_on(""):
        shown = _Shown(report, console, before)
        now = shown.followed(client, None)
    known = {f.replica_id for f in before.failures if f.model not in shown.moved}
    fresh = [failure for failure in now.failures if failure.replica_id not in known]
    _raise_what_failed(client, now, shown, fresh)
    if now.ahead.measuring:
        job = now.ahead.measuring
        say(f"A plan is made once {job} has measured: `partitiond profile jobs {job} --watch`.")
    elif now.ahead.note:
        say(f"{now.ahead.note.rstrip('.')}.")
    elif now.plan_id == before.plan_id:
        say("Nothing that runs changes by that; `partitiond plan` shows a fresh plan.")
    elif now.failures:
        why = "; ".join(f"{failure.replica_id} {failure.why}" for failure in now.failures)
        serving = f"{now.serving} of {now.wanted - now.asleep} replicas serve"
        say(f"{serving} ({now.plan_id}). As before: {why}.")
    else:
        say(f"{all_serve(now)} ({now.plan_id}).")


def all_serve(now: Convergence) -> str:
    """The sentence that all replicas of a plan serve, without the full stop."""
    asleep = f"; {now.asleep} asleep" if now.asleep else ""
    if now.serving == 1:
        return f"The 1 replica serves{asleep}"
    return f"All {now.serving} replicas serve{asleep}" if now.serving else f"Nothing serves{asleep}"


def by_reason(failures: Sequence[ReplicaProgress]) -> Iterator[str]:
    """Yield each reason once, after the replicas that have it."""
    for why, names in by_key((f.why, f.replica_id) for f in failures).items():
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        yield f"{names[0]}{more} {why}"


class _Shown:
    """Shows the convergence of a plan as it comes.

    Attributes:
        first: the first convergence that was seen.
        failures: the failed replicas of the last plan that was seen as the applied one.
        moved: models that had replicas on their way meanwhile.
    """

    def __init__(
        self, report: Reporter, console: Console, first: Convergence = NOTHING_APPLIED
    ) -> None:
        self.first = first
        self.failures: tuple[ReplicaProgress, ...] = ()
        self.moved: set[str] = set()
        self._report = report
        self._console = console
        self._told = {failure.why for failure in first.failures}

    def line(self, text: str) -> None:
        """Print a line that stays above the progress."""
        self._console.print(text, markup=False, soft_wrap=not self._console.is_terminal)

    def followed(self, client: "ControlClient", plan_id: str | None) -> Convergence:
        """The first state in which a plan no longer converges; earlier states are shown.

        Raises:
            DaemonUnreachableError: the daemon is gone.
        """
        now = NOTHING_APPLIED
        try:
            for now in client.watch_convergence(plan_id):
                self._show(now)
            while now is NOTHING_APPLIED or now.state is PlanState.CONVERGING:
                now = client.convergence(plan_id)  # no stream comes through: poll
                self._show(now)
                if now.state is PlanState.CONVERGING:
                    time.sleep(POLL_SECONDS)
        except DaemonUnreachableError as error:
            raise _gone(now, error) from error
        return now

    def _show(self, now: Convergence) -> None:
        if self.first is NOTHING_APPLIED:
            self.first = now
        if now.state is not PlanState.SUPERSEDED:
            self.failures = now.failures
        self.moved |= {r.model for r in now.replicas if r.standing is not Standing.FAILED}
        new = [failure for failure in now.failures if failure.why not in self._told]
        self._told |= {failure.why for failure in new}
        for words in by_reason(new):
            self.line(words)
        still = now.still_seconds - now.still_seconds % STALL_STEP_SECONDS
        stall = f" (unchanged for {format_duration(still)})" if still else ""
        why = f": {now.why}{stall}" if now.why else ""
        self._report.update(f"{now.serving}/{now.wanted} serve{why}", now.fraction)


def _gone(now: Convergence, error: DaemonUnreachableError) -> DaemonUnreachableError:
    """The error for a daemon that ended during a wait."""
    way = f" while {now.plan_id} was on its way" if now.plan_id else ""
    return DaemonUnreachableError(
        f"the daemon is gone{way}: {error.message}",
        hint="Engines that serve go on. Start it again with `partitiond serve`: it goes on with "
        "the plan.",
    )


_ERRORS: Final = {
    Cause.ENGINE: (
        StartFailedError,
        "`partitiond status` shows its error, `partitiond doctor` what the host lacks. "
        "The daemon goes on trying.",
    ),
    Cause.FILES: (
        ModelSourceError,
        "The daemon tries again by itself; `partitiond models remove NAME` gives the model up.",
    ),
    Cause.DEVICE: (DeviceError, "`partitiond apply` makes a plan without it."),
}
"""The error class of each cause of failure, and what to do about it."""


def _raise_what_failed(
    client: "ControlClient",
    now: Convergence,
    shown: _Shown,
    failures: Sequence[ReplicaProgress],
) -> None:
    """Raise an error for failures since the first look; return if there are none."""
    wanted = EventFilter(kinds=("model-rolled-back", "model-failed"))
    for event in client.events(after=shown.first.last_event, wanted=wanted):
        # Skips events that a user asked for, and events of models that this plan leaves alone.
        if not event.actor and event.subject in shown.moved:
            raise StartFailedError(
                f"{event.subject}: {event.message}",
                hint=f"`partitiond models show {event.subject}` lists its releases.",
            )
    if failures:
        kind, hint = _ERRORS[failures[0].cause]
        why = "; ".join(by_reason(failures))
        raise kind(
            f"{now.serving} of {now.wanted} replicas serve. {why.rstrip('.')}.",
            hint=hint.replace("NAME", failures[0].model),
        )


@contextmanager
def _telling_that_it_goes_on(plan_id: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        again = f"`partitiond apply {plan_id}` waits for it again, " if plan_id else ""
        say(
            f"The daemon goes on with {plan_id or 'the change'}: {again}`partitiond status` "
            "shows how far it is."
        )
        raise

"""Finds what a killed daemon left half done, by what is in its store. Pure functions."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from partitiond.core.model.record import ModelRecord
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.record import Placement
from partitiond.core.profile.jobs import Job, JobCause

REPEATS: Final = 2
"""How often in a row an interrupted job is queued again by itself: a job that takes the daemon down
each time must not do so for ever. Chosen."""


def removed_models(desired: Sequence[Placement], records: Sequence[ModelRecord]) -> tuple[str, ...]:
    """Models that the applied plan has and the store lacks: they were being removed."""
    registered = {record.spec.name for record in records}
    return tuple(sorted({placement.model for placement in desired} - registered))


def interrupted_jobs(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """Return the jobs to queue again after a restart, oldest first.

    Of each piece of work the newest job is queued again if it was interrupted, and if no more than
    `REPEATS` jobs in a row were.

    Args:
        jobs: of all daemons, newest first.
    """
    works = by_key(((job.kind, job.subject, job.params), job) for job in jobs).values()
    again = [s[0] for s in works if 1 <= _in_a_row(s, JobCause.INTERRUPTED) <= REPEATS]
    return tuple(reversed(again))


def without_interrupted(ended: Sequence[Job], work_of: Callable[[Job], object]) -> list[Job]:
    """Return the jobs without those of work that is to be done again: its newest jobs were
    interrupted, `REPEATS` in a row at most.

    Args:
        ended: of one model, newest first.
        work_of: tells what a job measures.
    """
    works = by_key((work_of(job), job) for job in ended)
    again = {
        work
        for work, same in works.items()
        if 1 <= _in_a_row(same, JobCause.INTERRUPTED) <= REPEATS
    }
    return [job for job in ended if work_of(job) not in again]


def repeats_elsewhere(ended: Job, jobs: Sequence[Job]) -> bool:
    """Return whether a job that has ended is queued again, for a device like its own: its host was
    lost, and this did not happen more than `REPEATS` times in a row.

    Args:
        ended: the newest job of its work.
        jobs: of all daemons, newest first; it may be among them.
    """
    same = [ended, *(j for j in jobs if j.id != ended.id and _same_work(j, ended))]
    return 1 <= _in_a_row(same, JobCause.HOST_LOST) <= REPEATS


def _same_work(one: Job, other: Job) -> bool:
    return (one.kind, one.subject, one.params) == (other.kind, other.subject, other.params)


def _in_a_row(jobs: Iterable[Job], cause: JobCause) -> int:
    return sum(1 for _ in itertools.takewhile(lambda job: job.cause is cause, jobs))

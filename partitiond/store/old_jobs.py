"""Reads rows of jobs that a release without `Job.cause` and `Job.drift_of` stored.

Goes with release 0.2: no job that waits or is resumed is older than 0.1 then.
"""

import dataclasses
from typing import Final

from partitiond.core.profile.jobs import Job, JobCause, JobState

_CAUSES: Final = (
    (JobState.FAILED, "interrupted: the daemon ended while it ran.", JobCause.INTERRUPTED),
    (JobState.FAILED, "its host did not answer any more while it ran.", JobCause.HOST_LOST),
    (JobState.CANCELLED, "withdrawn:", JobCause.WITHDRAWN),
)
"""How that release worded the errors of such jobs."""
_DRIFT: Final = "drift of "


def with_facts(job: Job) -> Job:
    """Return a stored job with the facts that an old row holds only in its sentences."""
    cause, drift_of = job.cause, job.drift_of
    if cause is JobCause.NONE:
        for state, words, told in _CAUSES:
            if job.state is state and job.error.startswith(words):
                cause = told
    if not drift_of and job.reason.startswith(_DRIFT):
        drift_of = job.reason.removeprefix(_DRIFT).partition(": ")[0]
    if (cause, drift_of) == (job.cause, job.drift_of):
        return job
    return dataclasses.replace(job, cause=cause, drift_of=drift_of)

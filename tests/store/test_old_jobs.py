"""Jobs that a release without `cause` and `drift_of` stored are read with both."""

import dataclasses
import json

import pytest
from sqlmodel import Session, select

from partitiond.controller.runtime.interrupted_jobs import interrupted_jobs
from partitiond.core.profile.jobs import Job, JobCause, JobState
from partitiond.store.repository import SqlStore
from partitiond.store.tables import JobRow
from tests.store.make import make_job

CUT_SHORT = "interrupted: the daemon ended while it ran. Ask for it again: it resumes."
GONE = "its host did not answer any more while it ran. No route to host."


def stored_before(store: SqlStore, state: JobState, error: str = "", reason: str = "") -> Job:
    job = dataclasses.replace(make_job("job-1"), state=state, error=error, reason=reason)
    store.put_job(job)
    with Session(store._engine) as session:
        row = session.exec(select(JobRow)).one()
        body = json.loads(row.body)
        body.pop("cause", None)
        body.pop("drift_of", None)
        row.body = json.dumps(body)
        session.add(row)
        session.commit()
    (read,) = store.jobs()
    assert read == store.job("job-1")
    return read


@pytest.mark.parametrize(
    ("state", "error", "cause"),
    [
        (JobState.FAILED, CUT_SHORT, JobCause.INTERRUPTED),
        (JobState.FAILED, GONE, JobCause.HOST_LOST),
        (JobState.CANCELLED, "withdrawn: the drift is over.", JobCause.WITHDRAWN),
        (JobState.FAILED, f"out of memory. {CUT_SHORT}", JobCause.NONE),
        (JobState.CANCELLED, CUT_SHORT, JobCause.NONE),
        (JobState.FAILED, "withdrawn: by its engine", JobCause.NONE),
    ],
)
def test_how_an_old_job_ended(
    store: SqlStore, state: JobState, error: str, cause: JobCause
) -> None:
    job = stored_before(store, state, error)
    assert job.cause is cause
    assert interrupted_jobs([job]) == ((job,) if cause is JobCause.INTERRUPTED else ())


@pytest.mark.parametrize(
    ("reason", "profile"),
    [
        ("drift of prof-1@cores:4: it is slow: 1.50 times.", "prof-1@cores:4"),
        ("no profile on this hardware; drift of x: y", ""),
        ("", ""),
    ],
)
def test_whose_drift_asked_for_an_old_job(store: SqlStore, reason: str, profile: str) -> None:
    assert stored_before(store, JobState.QUEUED, reason=reason).drift_of == profile

"""Implements `partitiond profile jobs`: lists, shows, watches and cancels jobs."""

from typing import TYPE_CHECKING

import typer

from partitiond.cli.ids import JobArgument, with_id
from partitiond.cli.options import JsonOption, client_of
from partitiond.cli.output import emit, err, tell
from partitiond.cli.tables import jobs_table
from partitiond.cli.waiting import wait_for_job
from partitiond.core.profile.jobs import Job

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient


def list_jobs(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List jobs, newest first."""
    with client_of(ctx) as client:
        jobs = client.jobs()
    emit(jobs, as_json=as_json, render=lambda: jobs_table(jobs))


def show(ctx: typer.Context, job_id: JobArgument, as_json: JsonOption = False) -> None:
    """Show one job."""
    with client_of(ctx) as client:
        job = _job(client, job_id)
    emit(job, as_json=as_json, render=lambda: jobs_table([job]))


def watch(ctx: typer.Context, job_id: JobArgument, as_json: JsonOption = False) -> None:
    """Show a job's progress until it ends; fails when the job fails."""
    with client_of(ctx) as client:
        job = wait_for_job(client, _job(client, job_id).id, err())
    emit(job, as_json=as_json, render=lambda: jobs_table([job]))


def cancel(ctx: typer.Context, job_id: JobArgument, as_json: JsonOption = False) -> None:
    """Cancel a job; returns once nothing of it runs."""
    with client_of(ctx) as client:
        job = client.cancel_job(_job(client, job_id).id)
    tell(job, f"Job {job.id} is {job.state.value}.", as_json=as_json)


def _job(client: "ControlClient", given: str) -> Job:
    """Find a job by id, number or prefix of the id. Raises NotFoundError, InputError."""
    return with_id("job", given, client.job, lambda: (job.id for job in client.jobs()))

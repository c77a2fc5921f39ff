"""Implements `partitiond profile jobs`: lists jobs, watches one, or cancels it."""

import typer

from partitiond.cli.ids import JobArgument, with_id
from partitiond.cli.options import JsonOption, client_of, option, spread
from partitiond.cli.output import emit, err, tell
from partitiond.cli.tables import jobs_table
from partitiond.cli.waiting import wait_for_job
from partitiond.core.errors import InputError


@spread
def jobs(
    ctx: typer.Context,
    job_id: JobArgument = None,
    *,
    watch: bool = option("Show its progress until it ends; fails when the job fails."),
    cancel: bool = option("Cancel it; returns once nothing of it runs."),
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first; watch one, or cancel it."""
    if (watch or cancel) and (job_id is None or watch is cancel):
        raise InputError(
            "--watch and --cancel are for one job.", hint="Write JOB --watch, or JOB --cancel."
        )
    with client_of(ctx) as client:
        if job_id is None:
            found = client.jobs()
            emit(found, as_json=as_json, render=lambda: jobs_table(found))
            return
        job = with_id("job", job_id, client.job, lambda: (job.id for job in client.jobs()))
        if cancel:
            job = client.cancel_job(job.id)
            tell(job, f"Job {job.id} is {job.state.value}.", as_json=as_json)
            return
        if watch:
            job = wait_for_job(client, job.id, err())
    emit(job, as_json=as_json, render=lambda: jobs_table([job]))

"""`partitiond jobs`: what is being done."""

from typing import Annotated

import typer

from partitiond.cli.options import JsonOption, client_of
from partitiond.cli.output import emit, err, print_json, say


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Jobs: profiles that are being measured.")
    group.command("list")(list_jobs)
    group.command("show")(show)
    group.command("watch")(watch)
    group.command("cancel")(cancel)
    app.add_typer(group, name="jobs")


JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]


def list_jobs(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List jobs, newest first."""
    from partitiond.cli.render import jobs_table

    with client_of(ctx) as client:
        jobs = client.jobs()
    emit(jobs, as_json=as_json, render=lambda: jobs_table(jobs))


def show(ctx: typer.Context, job_id: JobArgument, as_json: JsonOption = False) -> None:
    """Show one job."""
    from partitiond.cli.render import jobs_table

    with client_of(ctx) as client:
        job = client.job(job_id)
    emit(job, as_json=as_json, render=lambda: jobs_table([job]))


def watch(ctx: typer.Context, job_id: JobArgument, as_json: JsonOption = False) -> None:
    """Show a job's progress until it ends; fails when the job fails."""
    from partitiond.cli.render import jobs_table
    from partitiond.cli.waiting import wait_for_job

    with client_of(ctx) as client:
        job = wait_for_job(client, job_id, err())
    emit(job, as_json=as_json, render=lambda: jobs_table([job]))


def cancel(ctx: typer.Context, job_id: JobArgument, as_json: JsonOption = False) -> None:
    """Cancel a job; returns once nothing of it runs."""
    with client_of(ctx) as client:
        job = client.cancel_job(job_id)
    if as_json:
        print_json(job)
        return
    say(f"Job {job.id} is {job.state.value}.")

"""`partitiond jobs` and `partitiond events`: what is being done, and what happened."""

import time
from typing import Annotated

import typer

from partitiond.cli.options import JsonOption, client_of
from partitiond.cli.output import emit, err, out, print_json, say


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Jobs: profiles that are being measured.")
    group.command("list")(list_jobs)
    group.command("show")(show)
    group.command("watch")(watch)
    group.command("cancel")(cancel)
    app.add_typer(group, name="jobs")
    app.command("events")(events)


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


def events(
    ctx: typer.Context,
    after: Annotated[int, typer.Option(help="Only events with a larger id.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they happen.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what happened and why."""
    from partitiond.cli.render import events_table

    with client_of(ctx) as client:
        found = client.events(after=after, limit=limit)
        emit(found, as_json=as_json, render=lambda: events_table(found))
        last = found[-1].id if found else after
        while follow:
            time.sleep(1.0)
            for event in client.events(after=last, limit=limit):
                last = event.id
                line = f"{event.at[:19]} {event.kind} {event.subject}: {event.message}"
                out().print(line, markup=False, soft_wrap=True)

"""Serves /jobs: long-running work, with progress."""

from fastapi import APIRouter, Response

from partitiond.api.given import JobControl
from partitiond.api.replies import Route, problems, reply
from partitiond.core.profile.jobs import Job

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=Route)


@router.get(
    "",
    operation_id="listJobs",
    summary="List jobs",
    response_model=list[Job],
)
async def list_jobs(jobs: JobControl) -> Response:
    """Jobs, newest first."""
    return reply(list(jobs.jobs()))


@router.get(
    "/{job_id}",
    operation_id="getJob",
    summary="Show a job",
    response_model=Job,
    responses=problems(404),
)
async def get_job(job_id: str, jobs: JobControl) -> Response:
    """One job: its state, progress (a fraction where it can be known), result or error."""
    return reply(jobs.job(job_id))


@router.delete(
    "/{job_id}",
    operation_id="cancelJob",
    summary="Cancel a job",
    response_model=Job,
    responses=problems(404, 409),
)
async def cancel_job(job_id: str, jobs: JobControl) -> Response:
    """Cancel a job; the answer comes once nothing of it runs."""
    return reply(await jobs.cancel(job_id))

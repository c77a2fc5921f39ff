"""Serves /models/NAME/releases: a model's release history, and the rollback."""

from fastapi import APIRouter, Response
from pydantic import ConfigDict, Field

from partitiond.api.given import Releases
from partitiond.api.replies import Route, problems, reply
from partitiond.core.replica.releases import Release
from partitiond.fleet.parts import Body

router = APIRouter(prefix="/models", tags=["models"], route_class=Route)


class RollbackBody(Body):
    """Where to go back to."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"version": 1}]})

    version: int | None = Field(
        None, ge=1, description="Of the release; null for the one that served before."
    )


@router.get(
    "/{name}/releases",
    operation_id="listReleases",
    summary="List the releases of a model",
    response_model=list[Release],
    responses=problems(404),
)
async def list_releases(name: str, releases: Releases) -> Response:
    """What its engines were and are made of, newest first: coming, serving, replaced or failed."""
    return reply(list(releases.history(name)))


@router.post(
    "/{name}/rollback",
    operation_id="rollBackModel",
    summary="Go back to an earlier release",
    response_model=Release,
    responses=problems(404, 409),
)
async def roll_back(name: str, releases: Releases, body: RollbackBody | None = None) -> Response:
    """Engines of the earlier release take the place of those that run, as in any other change.

    Demand, SLO, rules, names and limits stay what they are.
    """
    return reply(await releases.roll_back(name, (body or RollbackBody()).version))

"""Serves /models/fit: whether a model would fit, before it is registered."""

from fastapi import APIRouter, Response

from partitiond.api.given import FitCheck, Options
from partitiond.api.replies import Route, problems, reply
from partitiond.core.views.fit import Fit
from partitiond.fleet.registration import ModelBody
from partitiond.serde import closed

router = APIRouter(prefix="/models", tags=["models"], route_class=Route)


@router.post(
    "/fit",
    operation_id="checkFit",
    summary="See whether a model fits",
    response_model=closed(Fit),
    responses=problems(503),
)
async def check_fit(body: ModelBody, fit: FitCheck, options: Options) -> Response:
    """The plan as it would be with this model. Nothing is registered, started or kept.

    It rests on what was measured of that model before, else on an estimate. The body is that of
    `POST /models`; a name that is registered shows what changing that model would do.
    """
    return reply(await fit.check(body.to_spec(options)))

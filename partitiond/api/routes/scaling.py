"""Serves /scaling: models with autoscaling."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from partitiond.api.given import Scalings
from partitiond.api.replies import Route, problems, reply
from partitiond.core.views.scaling import ScalingView
from partitiond.serde import closed

router = APIRouter(prefix="/scaling", tags=["scaling"], route_class=Route)


@router.get(
    "/{model}",
    operation_id="getScaling",
    summary="Show how a model scales",
    response_model=closed(ScalingView),
    responses=problems(404, 409),
)
async def get_scaling(
    scaling: Scalings,
    model: Annotated[str, Path(max_length=200, description="Registered model.")],
) -> Response:
    """One model; 409 where it does not scale by itself."""
    return reply(scaling.view(model))

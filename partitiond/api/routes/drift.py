"""Serves /drift: measured against predicted figures."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from partitiond.api.given import DriftControl
from partitiond.api.replies import Route, problems, reply
from partitiond.core.drift.correction import Correction
from partitiond.core.views.drift import DriftReport
from partitiond.serde import closed

router = APIRouter(prefix="/drift", tags=["drift"], route_class=Route)


@router.get(
    "",
    operation_id="getDrift",
    summary="Show what replicas do beside what was predicted",
    response_model=closed(DriftReport),
)
async def get_drift(drift: DriftControl) -> Response:
    """Each serving replica with its last full window, the corrections that plans use, and what is
    to be measured again. A prediction is made at the load that was seen, from the replica's
    profile.
    """
    return reply(drift.report())


@router.delete(
    "/corrections/{profile_id}",
    operation_id="liftCorrection",
    summary="Take a correction off",
    response_model=closed(Correction),
    responses=problems(404),
)
async def lift_correction(
    drift: DriftControl,
    profile_id: Annotated[str, Path(max_length=400, description="Profile whose figures it is on.")],
) -> Response:
    """Plans take the profile's own figures again; its replicas are judged anew."""
    return reply(drift.lift(profile_id))

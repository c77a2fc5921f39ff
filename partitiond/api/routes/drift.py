"""Serves /drift: measured against predicted figures."""

from fastapi import APIRouter, Response

from partitiond.api.given import DriftControl
from partitiond.api.replies import reply
from partitiond.core.views.drift import DriftReport
from partitiond.serde import closed

router = APIRouter(prefix="/drift", tags=["drift"])


@router.get(
    "",
    operation_id="getDrift",
    summary="Show what replicas do beside what was predicted",
    response_model=closed(DriftReport),
)
async def get_drift(drift: DriftControl) -> Response:
    """Each serving replica with its last full window, and what is to be measured again. A
    prediction is made at the load that was seen, from the replica's profile.
    """
    return reply(drift.report())

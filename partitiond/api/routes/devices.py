"""/devices: what engines can run on."""

from fastapi import APIRouter, Response

from partitiond.api.replies import Service, problems, reply
from partitiond.core.hardware import Device

router = APIRouter(prefix="/devices", tags=["devices"])


@router.get(
    "",
    operation_id="listDevices",
    summary="List devices",
    response_model=list[Device],
    responses=problems(503),
)
async def list_devices(service: Service) -> Response:
    """The devices of this host: its GPUs and its CPU."""
    return reply(list(service.devices()))

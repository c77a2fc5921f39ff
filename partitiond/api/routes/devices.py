"""Serves /devices: the devices that engines can run on."""

from fastapi import APIRouter, Response

from partitiond.api.given import CordonControl, DeviceControl
from partitiond.api.replies import Route, problems, reply
from partitiond.api.schemas import CordonBody
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.kinds import Device

router = APIRouter(prefix="/devices", tags=["devices"], route_class=Route)


@router.get(
    "",
    operation_id="listDevices",
    summary="List devices",
    response_model=list[Device],
    responses=problems(503),
)
async def list_devices(devices: DeviceControl) -> Response:
    """The devices of all hosts: GPUs and CPUs."""
    return reply(list(devices.devices))


@router.get(
    "/{device_id}",
    operation_id="getDevice",
    summary="Show a device",
    response_model=DeviceDetails,
    responses=problems(404, 503),
)
async def get_device(device_id: str, devices: DeviceControl) -> Response:
    """One device with everything that its driver tells: health, processes, links, power.

    The beginning of an id is enough where only one begins so.
    """
    return reply(await devices.inspect(device_id))


@router.put(
    "/{device_id}/cordon",
    operation_id="cordonDevice",
    summary="Cordon a device",
    response_model=Device,
    responses=problems(404),
)
async def cordon_device(
    device_id: str, cordons: CordonControl, body: CordonBody | None = None
) -> Response:
    """Place nothing on a device from now on; plans move away what is on it.

    It is kept over restarts. Repeating it changes the reason.
    """
    return reply(cordons.set(device_id, (body or CordonBody()).reason))


@router.delete(
    "/{device_id}/cordon",
    operation_id="uncordonDevice",
    summary="Take a cordon off",
    response_model=Device,
    responses=problems(404, 503),
)
async def uncordon_device(device_id: str, cordons: CordonControl) -> Response:
    """Let plans use the device again, and hold its earlier Xid messages against it no longer.

    A device that its driver says has failed stays cordoned: the answer says why.
    """
    return reply(await cordons.lift(device_id))

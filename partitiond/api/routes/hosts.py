"""Serves /hosts: the hosts of the fleet."""

from fastapi import APIRouter, Response

from partitiond.api.given import FleetHosts
from partitiond.api.replies import Route, problems, reply
from partitiond.core.hardware.host_state import HostView

router = APIRouter(prefix="/hosts", tags=["hosts"], route_class=Route)


@router.get(
    "",
    operation_id="listHosts",
    summary="List hosts",
    response_model=list[HostView],
)
async def list_hosts(hosts: FleetHosts) -> Response:
    """All hosts, the control plane's first; with one host, that one."""
    return reply(list(hosts.views()))


@router.delete(
    "/{name}",
    operation_id="forgetHost",
    summary="Forget a lost host",
    status_code=204,
    responses=problems(404, 409),
)
async def forget_host(name: str, hosts: FleetHosts) -> Response:
    """Count a lost host as no part of the fleet any more. If it comes back, it joins anew.

    A host that answers, is only silent, or is the control plane's own is not forgotten (409).
    """
    hosts.forget(name)
    return Response(status_code=204)

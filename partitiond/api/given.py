"""Gives each route the use cases of its subject, and no others."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request

from partitiond.api.schemas import ApiOptions
from partitiond.ports import cluster, convergence, drift, fit, overview, releases, scaling, usage
from partitiond.ports import service as ports


def _of(part: Callable[[ports.ControlService], object]) -> Any:
    async def given(request: Request) -> object:
        return part(request.app.state.service)

    return Depends(given)


async def _options(request: Request) -> ApiOptions:
    options: ApiOptions = request.app.state.options
    return options


Options = Annotated[ApiOptions, Depends(_options)]

ModelControl = Annotated[ports.ModelControl, _of(lambda service: service.models)]
JobControl = Annotated[ports.JobControl, _of(lambda service: service.jobs)]
ProfileControl = Annotated[ports.ProfileControl, _of(lambda service: service.profiles)]
PlanControl = Annotated[ports.PlanControl, _of(lambda service: service.plans)]
DeviceControl = Annotated[ports.DeviceControl, _of(lambda service: service.devices)]
CordonControl = Annotated[ports.CordonControl, _of(lambda service: service.cordons)]
FleetHosts = Annotated[cluster.FleetHosts, _of(lambda service: service.hosts)]
EventLog = Annotated[ports.EventLog, _of(lambda service: service.events)]
KeyControl = Annotated[ports.KeyControl, _of(lambda service: service.keys)]
Overviews = Annotated[overview.Overviews, _of(lambda service: service.overview)]
DriftControl = Annotated[drift.DriftControl, _of(lambda service: service.drift)]
FitCheck = Annotated[fit.FitCheck, _of(lambda service: service.fit)]
Usages = Annotated[usage.Usages, _of(lambda service: service.usage)]
Scalings = Annotated[scaling.Scalings, _of(lambda service: service.scaling)]
Releases = Annotated[releases.Releases, _of(lambda service: service.releases)]
Convergences = Annotated[convergence.Convergences, _of(lambda service: service.convergence)]
ReadinessCheck = Annotated[ports.ReadinessCheck, _of(lambda service: service.readiness)]
MetricsSource = Annotated[ports.MetricsSource, _of(lambda service: service.metrics)]
DaemonControl = Annotated[ports.DaemonControl, _of(lambda service: service.daemon)]

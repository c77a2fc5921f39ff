"""Gives each route the use cases of its subject, and no others."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request

from partitiond.controller.demand.scaling import Scaling
from partitiond.controller.drift.use_cases import DriftUseCases
from partitiond.controller.keys.usage import UsageUseCases
from partitiond.controller.keys.use_cases import Keys
from partitiond.controller.models.fit import FitUseCases
from partitiond.controller.models.registry import Registry
from partitiond.controller.models.releases import ReleaseUseCases
from partitiond.controller.plans.convergence import ConvergenceUseCases
from partitiond.controller.plans.use_cases import Plans
from partitiond.controller.profiles.catalog import ProfileCatalog
from partitiond.controller.profiles.jobs import JobQueue
from partitiond.controller.runtime.cordons import Cordons
from partitiond.controller.runtime.watching import DeviceWatch
from partitiond.controller.service import Daemon, Service
from partitiond.controller.views.health import MetricsText, Readiness
from partitiond.controller.views.hosts import HostUseCases
from partitiond.controller.views.overview import OverviewUseCases
from partitiond.fleet.registration import RegistrationRules
from partitiond.store import Store


def _of(part: Callable[[Service], object]) -> Any:
    async def given(request: Request) -> object:
        return part(request.app.state.service)

    return Depends(given)


async def _options(request: Request) -> RegistrationRules:
    options: RegistrationRules = request.app.state.options
    return options


Options = Annotated[RegistrationRules, Depends(_options)]

ModelControl = Annotated[Registry, _of(lambda service: service.models)]
JobControl = Annotated[JobQueue, _of(lambda service: service.jobs)]
ProfileControl = Annotated[ProfileCatalog, _of(lambda service: service.profiles)]
PlanControl = Annotated[Plans, _of(lambda service: service.plans)]
DeviceControl = Annotated[DeviceWatch, _of(lambda service: service.devices)]
CordonControl = Annotated[Cordons, _of(lambda service: service.cordons)]
FleetHosts = Annotated[HostUseCases, _of(lambda service: service.hosts)]
EventLog = Annotated[Store, _of(lambda service: service.events)]
KeyControl = Annotated[Keys, _of(lambda service: service.keys)]
Overviews = Annotated[OverviewUseCases, _of(lambda service: service.overview)]
DriftControl = Annotated[DriftUseCases, _of(lambda service: service.drift)]
FitCheck = Annotated[FitUseCases, _of(lambda service: service.fit)]
Usages = Annotated[UsageUseCases, _of(lambda service: service.usage)]
Scalings = Annotated[Scaling, _of(lambda service: service.scaling)]
Releases = Annotated[ReleaseUseCases, _of(lambda service: service.releases)]
Convergences = Annotated[ConvergenceUseCases, _of(lambda service: service.convergence)]
ReadinessCheck = Annotated[Readiness, _of(lambda service: service.readiness)]
MetricsSource = Annotated[MetricsText, _of(lambda service: service.metrics)]
DaemonControl = Annotated[Daemon, _of(lambda service: service.daemon)]

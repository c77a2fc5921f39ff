"""Provides the real overview over a control plane that only remembers calls."""

from typing import TYPE_CHECKING

from partitiond.controller.views.overview import OverviewDesk, Sources
from partitiond.core.demand.traffic import NO_WINDOW, TrafficWindow
from partitiond.core.model.spec import ModelSpec
from partitiond.core.views.fit import Fit

if TYPE_CHECKING:
    from tests.api.fake_service import FakeService


def overview_of(service: "FakeService") -> OverviewDesk:
    def window(seconds: float) -> TrafficWindow:
        service.windows.append(seconds)
        return NO_WINDOW

    desk = OverviewDesk(
        Sources(
            store=service.store,
            clock=service.clock,
            devices=service.devices,
            plan=service.current_plan,
            models=service.models,
            placed=tuple,
            jobs=service.jobs,
            window=window,
            waiting_plan=str,
        )
    )
    desk.problems = service.readiness
    return desk


class FakeFit:
    """Everything fits that is not called "huge"."""

    def __init__(self, service: "FakeService") -> None:
        self._service = service

    async def check(self, spec: ModelSpec) -> Fit:
        known = {record.spec.name for record in self._service.store.models()}
        fits = spec.name != "huge"
        preview = await self._service.plan()
        return Fit(spec.name, fits, ("as told.",), spec.name in known, preview, ())

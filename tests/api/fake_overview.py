"""Provides the real overview over a control plane that only remembers calls."""

from collections.abc import Callable, Mapping, Sequence

from partitiond.controller.views.overview import OverviewUseCases, Sources
from partitiond.core.demand.traffic import NO_WINDOW, TrafficWindow
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.model.spec import ModelSpec
from partitiond.core.units import Bytes
from partitiond.core.views.fit import Fit
from partitiond.core.views.lists import ReplicaView
from partitiond.ports import Store
from tests.api.fake_models import FakeModels
from tests.api.fake_plans import FakePlans
from tests.controller.fakes import FakeClock
from tests.hosts.fleet import FakeHosts


class FakeOverview(OverviewUseCases):
    """Shows no replicas in its overviews, and lists two; `windows` are those asked for."""

    def __init__(
        self,
        store: Store,
        clock: FakeClock,
        models: FakeModels,
        plans: FakePlans,
        *,
        problems: Callable[[], Mapping[str, str]],
        hosts: FakeHosts,
    ) -> None:
        self.windows: list[float] = []
        super().__init__(
            Sources(
                store=store,
                clock=clock,
                devices=lambda: plans.devices,
                plan=plans.applied,
                models=models.models,
                placed=tuple,
                jobs=store.jobs,
                window=self._window,
                problems=problems,
                waiting_plan=str,
                hosts=hosts.views,
            )
        )

    def _window(self, seconds: float) -> TrafficWindow:
        self.windows.append(seconds)
        return NO_WINDOW

    def replicas(self) -> Sequence[ReplicaView]:
        partition = CpuCores("cpu", Bytes(1 << 30), (0,))
        return [
            ReplicaView(
                f"{m}-1", f"{m}-1", m, "cpu", partition, "serving", 7, 0, 8, 1 << 30, 1, False
            )
            for m in ("a", "b")
        ]


class FakeFit:
    """Everything fits that is not called "huge"."""

    def __init__(self, store: Store, plans: FakePlans) -> None:
        self._store = store
        self._plans = plans

    async def check(self, spec: ModelSpec) -> Fit:
        known = {record.spec.name for record in self._store.models()}
        fits = spec.name != "huge"
        preview = await self._plans.preview()
        return Fit(spec.name, fits, ("as told.",), spec.name in known, preview, ())

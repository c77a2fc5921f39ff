"""The loop with everything around it faked but the store."""

import asyncio
import dataclasses

from partitiond.controller.journal import Journal
from partitiond.controller.runtime.launches import launch_for
from partitiond.controller.runtime.loop import Controller, LoopCallbacks
from partitiond.controller.runtime.proxy_process import Endpoint
from partitiond.controller.runtime.routes import RoutePolicy
from partitiond.controller.runtime.sleeping import SleepController
from partitiond.controller.runtime.watching import DeviceWatch, ModelFiles
from partitiond.controller.views.records import PlacedView, placed_views
from partitiond.core.hardware.kinds import Device
from partitiond.core.plan.record import Placement
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.replica.states import ReplicaState
from partitiond.ports import EngineRunner
from partitiond.store import Store
from tests.controller.fakes import (
    POLICY,
    FakeClock,
    FakeEngine,
    FakeProxy,
    FakeResolver,
    FakeRunner,
    a_moment,
    ignored,
)
from tests.controller.samples import cpu, plan
from tests.devices.fake import FakeDevices
from tests.hosts.pipes import SeveralHosts


class Bench:
    """A controller with everything around it faked but the store.

    Args:
        proxy: one that runs already, as a former daemon left it.
        device: of this host.
        several: hosts in place of one; runner, proxy and devices are then its own host's.
    """

    def __init__(
        self,
        store: Store,
        runner: EngineRunner | None = None,
        resolver: FakeResolver | None = None,
        *,
        clock: FakeClock | None = None,
        proxy: FakeProxy | None = None,
        device: Device | None = None,
        several: SeveralHosts | None = None,
    ) -> None:
        self.store = store
        self.clock = clock or FakeClock()
        own = None if several is None else next(iter(several.agents.values()))
        engines = runner or (FakeRunner() if own is None else own.runner)
        self._runner = engines if isinstance(engines, FakeRunner) else None
        self.proxy = proxy or (FakeProxy() if own is None else own.proxy)
        self.devices = FakeDevices([device or cpu()]) if own is None else own.devices
        hosts = None if several is None else several.hosts
        wake = asyncio.Event()
        self.journal = journal = Journal(store, self.clock)
        self.resolver = resolver or FakeResolver()
        self.files = ModelFiles(self.resolver, self.clock, wake.set, 30.0)
        self.watch = DeviceWatch(
            self.devices if hosts is None else hosts.devices,
            self.clock,
            marked=tuple,
            after_look=ignored,
            troubled=ignored,
        )
        self.after_passes = 0
        self.endpoint = endpoint = Endpoint(
            self.proxy if hosts is None else hosts.proxy,
            store=store,
            clock=self.clock,
            journal=journal,
            wake=wake.set,
        )
        self.controller = Controller(
            store=store,
            runner=engines if hosts is None else hosts.engines,
            endpoint=endpoint,
            devices=self.watch,
            files=self.files,
            clock=self.clock,
            journal=journal,
            policy=POLICY,
            routes=RoutePolicy(),
            wake=wake,
            sleep=SleepController(
                store=store,
                endpoint=endpoint,
                clock=self.clock,
                journal=journal,
                policy=POLICY,
                wake=wake.set,
                changed=ignored,
                make_room=frozenset,
            ),
            callbacks=LoopCallbacks(
                lent=tuple,
                measuring=tuple,
                awaited=dict,
                spec_for=lambda spec, _: spec,
                withheld=lambda: lambda _: False,
                failed_before=lambda _: 0,
                after_pass=self._after_pass,
                looked=ignored,
                replacing=ignored,
            ),
        )

    @property
    def runner(self) -> FakeRunner:
        """Its engines, if these are fake."""
        assert self._runner is not None
        return self._runner

    def _after_pass(self) -> None:
        self.after_passes += 1

    async def passes(self, count: int = 6) -> None:
        for _ in range(count):
            await self.controller.one_pass()
            assert not self.controller.problem
            await a_moment()

    async def run(self, *placements: Placement, plan_id: str = "plan-1") -> None:
        self.controller.apply(plan(*placements, plan_id=plan_id))
        await self.passes()

    def states(self) -> dict[str, ReplicaState]:
        return {engine.name: engine.state for engine in self.controller.engines}

    def routed(self) -> dict[str, bool]:
        """Engine name to whether it drains."""
        return {route.replica_id: route.draining for route in self.proxy.table.replicas}

    def launch(self, wanted: Placement, name: str = "") -> EngineLaunch:
        model = self.files.get(self.store.model(wanted.model).spec)
        assert model is not None
        return launch_for(wanted, model, cpu(), name=name or wanted.replica_id)

    def placed(self) -> tuple[PlacedView, ...]:
        here = self.controller
        return placed_views(
            here.desired,
            here.engines,
            name_for=here.name_for,
            asleep=here.sleep.levels,
            fetching={},
            hosts={"cpu": "h"},
        )

    async def found(self, wanted: Placement, name: str = "", **changes: object) -> FakeEngine:
        """An engine that a former daemon left running, as its launch says or otherwise."""
        self.files.get(self.store.model(wanted.model).spec)
        await a_moment()
        launch = self.launch(wanted, name)
        return self.runner.add(dataclasses.replace(launch, **changes))  # type: ignore[arg-type]

    def silence(self) -> None:
        """The driver does not answer from now on."""
        self.devices.refuse()
        self.clock.now += POLICY.device_seconds

    async def close(self) -> None:
        await self.controller.detach()
        await self.files.close()

    def kinds(self) -> list[str]:
        return [event.kind for event in self.store.events()]

"""A control plane with a real store and planner, and everything else faked."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from partitiond.controller.limits import ControllerPolicy
from partitiond.controller.plans.planning import PlanOptions, Solve
from partitiond.controller.service import Adapters, Service, ServiceOptions, service_of
from partitiond.core.errors import EngineUnavailableError
from partitiond.core.plan.record import Plan
from partitiond.core.profile.jobs import Job, JobState
from partitiond.store import Store, open_store
from tests.controller.fakes import (
    POLICY,
    FakeClock,
    FakeProfiler,
    FakeProxy,
    FakeResolver,
    FakeRunner,
    solved,
)
from tests.controller.samples import cpu, measured_profile, spec
from tests.devices.fake import FakeDevices
from tests.hosts.fleet import FakeHosts
from tests.hosts.pipes import FakePartitions
from tests.machine import until


class Host:
    """A service and its fakes; `restart` is what a new daemon finds.

    Attributes:
        tick_seconds: how much of the fake clock passes at each turn of `passes`.
    """

    tick_seconds = 0.5

    def __init__(
        self,
        store: Store | None = None,
        cores: int = 2,
        *,
        solve: Solve = solved,
        runner: FakeRunner | None = None,
        policy: ControllerPolicy = POLICY,
        clock: FakeClock | None = None,
        devices: FakeDevices | None = None,
    ) -> None:
        self.policy = policy
        self.store = open_store(":memory:") if store is None else store
        self.runner = runner or FakeRunner()
        self.solve = solve
        self.resolver = FakeResolver()
        self.proxy = FakeProxy()
        self.profiler = FakeProfiler()
        self.clock = clock or FakeClock()
        self.devices = devices or FakeDevices([cpu(cores)])
        self.partitions = FakePartitions()
        self.fleet = FakeHosts()
        self.engine_problem: EngineUnavailableError | None = None
        self.service = self._make()

    def _adapters(self) -> Adapters:
        return Adapters(
            store=self.store,
            runner=self.runner,
            devices=self.devices,
            resolver=self.resolver,
            proxy=self.proxy,
            profiler=self.profiler,
            partitions=self.partitions,
            hosts=self.fleet,
            solve=lambda *one, **told: self.solve(*one, **told),  # noqa: PLW0108 - a test sets another
            clock=self.clock,
            engine_problem=lambda: self.engine_problem,
            group_warning=lambda group: f"no group {group}" if group else "",
        )

    def _options(self) -> ServiceOptions:
        return ServiceOptions(policy=self.policy, planning=PlanOptions(time_limit_seconds=1.0))

    def _make(self) -> Service:
        return service_of(self._adapters(), self._options())

    async def restart(self) -> None:
        await self.service.daemon.shutdown(stop_engines=False)
        self.service = self._make()
        await self.service.daemon.start()

    def measured(self, *names: str, cores: tuple[int, ...] = (1, 2), **how: str) -> None:
        """Profiles of these models are kept already."""
        for name in names:
            for count in cores:
                self.store.add_profile(measured_profile(name, cores=count, **how))  # type: ignore[arg-type]

    async def register(self, name: str, **changes: object) -> None:
        await self.service.models.register(spec(name, **changes))

    async def serve(self, name: str, **changes: object) -> None:
        """A model that was measured is registered, planned, and serves."""
        self.measured(name)
        await self.register(name, **changes)
        await self.serves(name)

    def serving(self, name: str) -> int:
        return self.service.models.model(name).replicas_serving

    def kinds(self) -> list[str]:
        return [event.kind for event in self.store.events(limit=1000)]

    def applied(self) -> Plan:
        plan = self.service.plans.applied()
        assert plan is not None
        return plan

    def jobs(self, *states: JobState) -> list[Job]:
        return [job for job in self.service.jobs.jobs() if job.state in states or not states]

    async def serves(self, *names: str) -> None:
        """All planned replicas of the models serve."""

        def all_serve() -> bool:
            views = [self.service.models.model(name) for name in names]
            return all(
                0 < view.replicas_planned == view.replicas_serving
                and view.availability == "serving"
                for view in views
            )

        await until(all_serve)

    async def passes(
        self, condition: Callable[[], bool], tick_seconds: float | None = None
    ) -> None:
        """Let the clock run on until something holds."""

        def holds() -> bool:
            self.clock.now += self.tick_seconds if tick_seconds is None else tick_seconds
            return condition()

        await until(holds)

    async def lives(self, seconds: float, tick_seconds: float = 1.0) -> None:
        """Let the clock run on so far, by one tick for each pass of the loop: what is decided in
        that time does not depend on the machine's speed.
        """
        end, controller = self.clock.now + seconds, self.service.parts.controller
        while self.clock.now < end:
            self.clock.now += tick_seconds
            await until(lambda: controller.passed_at >= self.clock.now)


HostT = TypeVar("HostT", bound=Host)


@contextlib.asynccontextmanager
async def serving(here: HostT) -> AsyncIterator[HostT]:
    """The service of a host runs; at the end nothing of it is left."""
    await here.service.daemon.start()
    try:
        yield here
    finally:
        here.profiler.gate.set()
        here.proxy.waiting = {}
        await here.service.daemon.shutdown(stop_engines=True)
        here.store.close()
    assert here.runner.running() == []

"""How the parts of the control plane are put together: who is given what, in which order."""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine

from partitiond.controller.cordons import MARK as CORDON
from partitiond.controller.cordons import Cordons, with_cordons
from partitiond.controller.endpoint import Endpoint
from partitiond.controller.figures import CpuSpeed
from partitiond.controller.jobs import JobQueue
from partitiond.controller.journal import Journal
from partitiond.controller.keys import Keys
from partitiond.controller.leases import Lease, Waits, lease_of
from partitiond.controller.loop import Controller
from partitiond.controller.planning import PlanDesk, PlanOptions, Solve
from partitiond.controller.plans import Plans
from partitiond.controller.policy import ControllerPolicy
from partitiond.controller.profiling import ProfileWork, ProfilingOptions
from partitiond.controller.registry import Registry
from partitiond.controller.routes import RoutePolicy
from partitiond.controller.shelf import ProfileShelf
from partitiond.controller.traffic import TrafficWatch
from partitiond.controller.watching import DeviceWatch, ModelFiles, room_on
from partitiond.core.spec import ModelSpec
from partitiond.metrics import Metrics
from partitiond.ports import (
    Clock,
    DeviceProvider,
    EngineRunner,
    Job,
    ModelResolver,
    PartitionControl,
    ProfileRunner,
    ProxyControl,
    Store,
)


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Everything a user can set about the control plane."""

    policy: ControllerPolicy = dataclasses.field(default_factory=ControllerPolicy)
    routes: RoutePolicy = dataclasses.field(default_factory=RoutePolicy)
    planning: PlanOptions = dataclasses.field(default_factory=PlanOptions)
    profiling: ProfilingOptions = dataclasses.field(default_factory=ProfilingOptions)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """The world outside the control plane: adapters of the ports, and what only the host can say.

    Attributes:
        solve: makes a plan, out of process.
        accept: refuses a spec that this host cannot run, by an InputError.
        engine_problem: why no engine of the kind "vllm" can start; empty when it can. May look.
        engine_version: of that engine; empty while it is not known. Does not look.
        cpu_speed: measures what the host's CPU reaches, for estimates; None assumes it.
        partitions: what devices are cut into; None where nobody writes to devices.
    """

    store: Store
    runner: EngineRunner
    devices: DeviceProvider
    resolver: ModelResolver
    proxy: ProxyControl
    profiler: ProfileRunner
    solve: Solve
    clock: Clock
    accept: Callable[[ModelSpec], None]
    engine_problem: Callable[[], str]
    engine_version: Callable[[], str]
    cpu_speed: CpuSpeed | None
    partitions: PartitionControl | None = None


class Parts:
    """The parts, each made of those before it.

    Attributes:
        wake: set to make the loop look now.
        background: what runs beside the loop, from its start until the shutdown.
    """

    background: list[Callable[[], Coroutine[None, None, None]]]

    def __init__(self, adapters: Adapters, options: ServiceOptions) -> None:
        self._given = adapters
        self._options = options
        self.metrics = Metrics()
        self.wake = asyncio.Event()
        self.journal = Journal(adapters.store, adapters.clock, self.metrics.happened)
        self.devices = DeviceWatch(
            adapters.devices,
            adapters.clock,
            lambda seen: with_cordons(seen, adapters.store.marks(CORDON)),
        )
        self.files = ModelFiles(
            adapters.resolver, adapters.clock, self.wake.set, options.policy.fetch_retry_seconds
        )
        self.endpoint = Endpoint(
            adapters.proxy,
            store=adapters.store,
            clock=adapters.clock,
            journal=self.journal,
            wake=self.wake.set,
        )
        self.traffic = TrafficWatch(adapters.proxy)
        self.background = [self.traffic.run]
        self.controller = self._make_controller()
        self.jobs = self._make_jobs()
        self.controller.leases = self.jobs.leases
        self.shelf = self._make_shelf()
        self.plans = self._make_plans()
        self.registry = self._make_registry()
        self.keys = Keys(
            store=adapters.store,
            clock=adapters.clock,
            journal=self.journal,
            endpoint=self.endpoint,
            controller=self.controller,
        )
        self.controller.sleep.changed = self._slept_or_woke
        self.cordons = Cordons(
            store=adapters.store,
            devices=self.devices,
            clock=adapters.clock,
            journal=self.journal,
            changed=self.plan_again,
        )
        self.devices.after_look = self.cordons.looked

    def plan_again(self) -> None:
        """What plans are made from has changed."""
        self.plans.chain.changed()
        self.wake.set()

    def _slept_or_woke(self, model: str, asleep: bool) -> None:
        """Whether a plan is due: somebody waits for the room, or the model has lost its own.

        A model that falls asleep is no reason by itself: models that take all there is would fill
        its room at once, and it could not be woken without stopping some of them.
        """
        plan = self.controller.plan
        if asleep:
            due = plan is not None and bool(plan.unplaced)
        else:
            due = plan is None or all(p.model != model for p in plan.placements)
        if due:
            self.plan_again()

    def _lease(self, job: Job) -> Lease | Waits:
        device_id = dict(job.params)["device_id"]
        watch, plan = self.devices, self.controller.plan
        room = dict(room_on(watch.devices, plan, watch.problem)).get(device_id)
        held = self.controller.held()
        return lease_of(job, watch.find(device_id), room, held, self._busy_cores())

    def _busy_cores(self) -> frozenset[int]:
        """Host cores of engines that run."""
        handles = [engine.handle for engine in self.controller.engines if engine.live]
        return frozenset(core for h in handles if h is not None for core in h.launch.cores)

    def _make_controller(self) -> Controller:
        given = self._given
        return Controller(
            store=given.store,
            runner=given.runner,
            endpoint=self.endpoint,
            devices=self.devices,
            files=self.files,
            clock=given.clock,
            journal=self.journal,
            policy=self._options.policy,
            routes=self._options.routes,
            wake=self.wake,
            observer=self.metrics,
            partitions=given.partitions,
        )

    def _make_jobs(self) -> JobQueue:
        given = self._given
        work = ProfileWork(
            store=given.store,
            resolver=given.resolver,
            profiler=given.profiler,
            find_device=self.devices.find,
            options=self._options.profiling,
        )
        return JobQueue(
            store=given.store,
            clock=given.clock,
            journal=self.journal,
            lease=self._lease,
            execute=work,
            ended=lambda _: self.plan_again(),
        )

    def _make_shelf(self) -> ProfileShelf:
        return ProfileShelf(
            store=self._given.store,
            journal=self.journal,
            devices=self.devices,
            files=self.files,
            engine_version=self._given.engine_version,
            changed=self.plan_again,
        )

    def _make_plans(self) -> Plans:
        given = self._given
        desk = PlanDesk(
            store=given.store,
            clock=given.clock,
            solve=given.solve,
            options=self._options.planning,
            stale=self.shelf.staleness.reasons,
            architecture_of=given.resolver.architecture,
        )
        return Plans(
            store=given.store,
            runner=given.runner,
            clock=given.clock,
            journal=self.journal,
            devices=self.devices,
            controller=self.controller,
            jobs=self.jobs,
            desk=desk,
        )

    def _make_registry(self) -> Registry:
        given = self._given
        return Registry(
            store=given.store,
            resolver=given.resolver,
            clock=given.clock,
            journal=self.journal,
            devices=self.devices,
            files=self.files,
            endpoint=self.endpoint,
            controller=self.controller,
            jobs=self.jobs,
            plans=self.plans,
            staleness=self.shelf.staleness,
            profiling=self._options.profiling,
            accept=given.accept,
            cpu_speed=given.cpu_speed,
        )

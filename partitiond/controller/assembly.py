"""Puts the parts of the control plane together: which part is given what, in which order."""

import asyncio
import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from partitiond.controller.demand.room_maker import RoomMaker
from partitiond.controller.demand.scaling import Scaling, ScalingOptions
from partitiond.controller.demand.traffic import TrafficWatch
from partitiond.controller.drift.remeasure import Remeasures
from partitiond.controller.drift.use_cases import DriftUseCases
from partitiond.controller.journal import Journal
from partitiond.controller.keys.usage import UsageUseCases
from partitiond.controller.keys.use_cases import Keys
from partitiond.controller.limits import ControllerPolicy
from partitiond.controller.models.fit import FitUseCases
from partitiond.controller.models.registry import Registry
from partitiond.controller.models.releases import ReleaseUseCases
from partitiond.controller.plans.convergence import ConvergenceUseCases
from partitiond.controller.plans.derived import Derivations
from partitiond.controller.plans.obstacles import ObstacleUseCases
from partitiond.controller.plans.planning import PlanMaker, PlanOptions, Solve
from partitiond.controller.plans.use_cases import Plans
from partitiond.controller.profiles.catalog import ProfileCatalog
from partitiond.controller.profiles.job_room import (
    JobHost,
    Lent,
    busy_cores,
    host_bytes_left,
    turn_of,
)
from partitiond.controller.profiles.jobs import JobQueue
from partitiond.controller.profiles.params import ProfilingOptions
from partitiond.controller.profiles.profiling import ProfileWork
from partitiond.controller.runtime.cordons import MARK as CORDON
from partitiond.controller.runtime.cordons import Cordons, with_cordons
from partitiond.controller.runtime.engine_matching import first_starts
from partitiond.controller.runtime.loop import Controller, LoopCallbacks
from partitiond.controller.runtime.proxy_process import Endpoint
from partitiond.controller.runtime.routes import RoutePolicy
from partitiond.controller.runtime.sleeping import SleepController
from partitiond.controller.runtime.watching import DeviceWatch, ModelFiles
from partitiond.controller.store_waits import StoreWaits
from partitiond.controller.views.health import MetricsText, Readiness
from partitiond.controller.views.hosts import HostUseCases, OneHost
from partitiond.controller.views.overview import OverviewUseCases, Sources
from partitiond.controller.views.records import PlacedView, placed_views
from partitiond.core.demand.traffic import TrafficSample
from partitiond.core.drift.options import DriftOptions
from partitiond.core.errors import EngineUnavailableError
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.hosts import memory_by_host
from partitiond.core.hardware.kinds import Device
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Placement
from partitiond.core.profile.jobs import IN_FULL, LATER, Job, JobState
from partitiond.core.replica.job_slots import Slots, Turn
from partitiond.core.replica.leases import Lease
from partitiond.core.replica.lost import cut_off, is_missed
from partitiond.core.replica.observation import HOPELESS_FAILURES
from partitiond.core.replica.states import ENDING, ReplicaState
from partitiond.metrics.exposition import Metrics
from partitiond.platform.background import Work
from partitiond.ports import (
    Clock,
    DeviceGauges,
    DeviceProvider,
    EngineRunner,
    ModelResolver,
    PartitionWatch,
    ProfileRunner,
    ProxyControl,
)
from partitiond.ports.cluster import FleetHosts
from partitiond.ports.host import FleetProxies
from partitiond.store import Store


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Everything a user can set about the control plane."""

    policy: ControllerPolicy = dataclasses.field(default_factory=ControllerPolicy)
    routes: RoutePolicy = dataclasses.field(default_factory=RoutePolicy)
    planning: PlanOptions = dataclasses.field(default_factory=PlanOptions)
    profiling: ProfilingOptions = dataclasses.field(default_factory=ProfilingOptions)
    scaling: ScalingOptions = dataclasses.field(default_factory=ScalingOptions)
    drift: DriftOptions = dataclasses.field(default_factory=DriftOptions)
    usage_keep_days: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """The world outside the control plane: adapters of the ports, and what only the host can say.

    Attributes:
        solve: makes a plan, out of process.
        accept: refuses a spec that this host cannot run, by an InputError.
        group_warning: returns why engines of an isolation group do not run as its user here; empty
            if they do.
        engine_problem: returns why no engine of the kind "vllm" can start, or None; may do I/O.
        engine_version: of that engine, by host; empty while it is not known. Does no I/O.
        host_memory: memory for engines, by name of those hosts that tell it. Does no I/O.
        partitions: what devices are cut into; None if nothing writes to devices.
        gauges: what devices report of themselves now; None if nothing reads them.
        hosts: the hosts of the fleet; None if there is only this one.
    """

    store: Store
    runner: EngineRunner
    devices: DeviceProvider
    resolver: ModelResolver
    proxy: ProxyControl
    profiler: ProfileRunner
    solve: Solve
    clock: Clock
    accept: Callable[[ModelSpec], None] = lambda _: None
    group_warning: Callable[[str], str] = lambda _: ""
    engine_problem: Callable[[], EngineUnavailableError | None] = lambda: None
    engine_version: Callable[[str], str] = lambda _: ""
    host_memory: Callable[[], Mapping[str, int]] = dict
    partitions: PartitionWatch | None = None
    gauges: DeviceGauges | None = None
    hosts: FleetHosts | None = None


class Parts:
    """Makes the parts, each of those before it; what a part asks of a later one is looked up then.

    Attributes:
        wake: set to make the loop look now.
        background: what runs beside the loop, from its start until the shutdown.
    """

    def __init__(self, adapters: Adapters, options: ServiceOptions) -> None:
        self._given = adapters
        self.store, self.partitions = adapters.store, adapters.partitions
        self.store_waits = StoreWaits(adapters.store)
        self._options = options
        self.metrics = Metrics()
        self._known_cut_off: frozenset[str] = frozenset()
        self._known_others: frozenset[tuple[str, int]] = frozenset()
        self._refusals = collections.Counter[str]()  # plans made because of them, by replica id
        self.wake = asyncio.Event()
        self.journal = Journal(adapters.store, adapters.clock, self.metrics.happened, self._host_of)
        self.devices = self._make_devices()
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
        self.traffic = TrafficWatch(
            adapters.proxy,
            after_look=(
                lambda seen: self.drift.take_sample(seen),
                lambda seen: self.scaling.take_sample(seen),
            ),
        )
        self.jobs = self._make_jobs()
        self.controller = self._make_controller()
        self.drift = self._make_drift()
        self.shelf = self._make_shelf()
        self.scaling = self._make_scaling()
        self.obstacles = self._make_obstacles()
        self.room = self._make_room()
        self._derivations = Derivations(adapters.resolver.architecture)
        self.plans = self._make_plans()
        self.releases = ReleaseUseCases(
            store=adapters.store,
            clock=adapters.clock,
            journal=self.journal,
            controller=self.controller,
            plans=self.plans,
            files=self.files,
            restore=lambda record, spec: self.registry.restore(record, spec),
        )
        self.registry = self._make_registry()
        self.keys = Keys(
            store=adapters.store,
            clock=adapters.clock,
            journal=self.journal,
            endpoint=self.endpoint,
            controller=self.controller,
        )
        self.cordons = Cordons(
            store=adapters.store,
            devices=self.devices,
            clock=adapters.clock,
            journal=self.journal,
            changed=self.plan_again,
        )
        self.hosts = HostUseCases(
            adapters.hosts
            or OneHost(lambda: self.devices.devices, adapters.engine_version, adapters.clock),
            journal=self.journal,
            changed=self.plan_again,
        )
        self.convergence = ConvergenceUseCases(
            store=adapters.store,
            clock=adapters.clock,
            controller=self.controller,
            chain=self.plans.chain,
            jobs=self.jobs,
            files=self.files,
            obstacles=self.obstacles,
        )
        self.readiness = Readiness(
            store=adapters.store,
            journal=self.journal,
            endpoint=self.endpoint,
            devices=self.devices,
            controller=self.controller,
            chain=self.plans.chain,
            obstacles=self.obstacles,
        )
        self.overview = self._make_overview()
        self.metrics_text = MetricsText(
            metrics=self.metrics,
            endpoint=self.endpoint,
            controller=self.controller,
            jobs=self.jobs,
            traffic=self.traffic,
            overview=self.overview,
            drift=self.drift,
            scaling=self.scaling,
        )
        self.fit = self._make_fit()
        self.usage = self._make_usage()
        self.background: tuple[Work, ...] = (
            self.traffic.run,
            self.obstacles.run,
            self.registry.begin_again,
            self.room.run,
            self.usage.run,
        )

    def _after_pass(self) -> None:
        """Look at what follows from a pass of the loop; the order matters."""
        self.journal.save()
        self.releases.settle()
        self.obstacles.find()
        self._look_for_cut_off()
        self.registry.measure_stale()
        self.jobs.begin_due()
        if self.devices.looked:  # a plan without devices would end what is only not seen yet
            self.plans.chain.consider()

    def _host_of(self, subject: str) -> str:
        """Return the host of a device or an engine; empty for others, and with one host."""
        if not self.devices.on_several_hosts:
            return ""
        engines = self.controller.engines
        on = next((e.placement.device_id for e in engines if e.name == subject), subject)
        device = self.devices.find(on)
        return device.host if device is not None else ""

    def _placed(self) -> tuple[PlacedView, ...]:
        """Return every engine, pending ones included."""
        controller = self.controller
        hosts = controller.hosts()
        return placed_views(
            controller.desired,
            controller.engines,
            name_for=controller.names(),
            asleep=controller.sleep.levels,
            fetching={
                p.replica_id: self.files.progress(p.model, hosts.get(p.device_id, ""))
                for p in controller.desired
            },
            hosts=hosts,
        )

    def plan_again(self) -> None:
        """Have a plan made, because what plans are made from has changed."""
        self.plans.chain.changed()
        self.wake.set()

    def _withheld(self) -> Callable[[Placement], bool]:
        """Return whether no engine of a placement is to be started: its model cannot run, or its
        device is silent and no engine of the placement runs there. It holds for many placements,
        until an engine or a device changes.
        """
        obstructed = self.obstacles.withheld
        silent = [d for d in self.devices.devices if d.health is DeviceHealth.SILENT]
        if not silent:
            return obstructed
        places = {device.id for device in silent} - self.controller.unheard_devices()
        live = self._alive()
        asleep = self.controller.sleep.levels

        def withheld(placement: Placement) -> bool:
            return obstructed(placement) or (
                placement.device_id in places and is_missed(placement, live, asleep)
            )

        return withheld

    def _alive(self) -> set[str]:
        """Return the replicas whose engines run. One that is being ended serves nobody, and may
        hang in the driver of a lost device for ever.
        """
        engines = self.controller.engines
        return {e.placement.replica_id for e in engines if e.live and e.state not in ENDING}

    def _cut_off(self, placements: Sequence[Placement]) -> frozenset[str]:
        live = self._alive() | {p.replica_id for p in self.controller.unheard(placements)}
        asleep = self.controller.sleep.levels
        return cut_off(placements, self.devices.devices, live, asleep)

    def _look_for_cut_off(self) -> None:
        """Plan again if an engine of a lost device has ended, or a device refuses one. While one is
        refused, plan again also if a process of others leaves a device. Each further device is
        tried once more often: else what all refuse would go round them for ever.
        """
        engines, refused = self.controller.engines, self.controller.refused()
        for engine in (one for one in engines if one.state is ReplicaState.SERVING):
            self._refusals.pop(engine.placement.replica_id, None)
        had = {e.placement.replica_id: e.failures - HOPELESS_FAILURES for e in engines if e.refused}
        before, self._known_cut_off = self._known_cut_off, self._cut_off(self.controller.desired)
        due = {p.replica_id for p in refused}
        due = {one for one in due if one in before or had[one] >= self._refusals[one]}
        self._refusals.update(due - before)
        self._known_cut_off |= due
        others = {(d.id, p.pid) for d in self.devices.devices for p in d.foreign}
        earlier, self._known_others = self._known_others, frozenset(others)
        if self._known_cut_off - before or (refused and earlier - others):
            self.plan_again()

    def _slept_or_woke(self, model: str, asleep: bool) -> None:
        """Plan again if other models need the room, or if the woken model has lost its own.

        A model that falls asleep is no reason by itself: models that take all there is would fill
        its room at once, and the model could not be woken without stopping some of them.
        """
        plan = self.controller.plan
        if asleep:
            due = plan is not None and bool(plan.unplaced)
        else:
            due = plan is None or all(p.model != model for p in plan.placements)
        if due:
            self.plan_again()

    def _paused(self) -> str:
        """Return why no profile job begins now: measuring waits for under-served models."""
        return "waits for a plan: a model is under-served" if self.plans.chain.urgent else ""

    def _memory_by_host(self) -> dict[str, int]:
        usual = self._options.planning.host_memory_bytes
        return memory_by_host(self.devices.devices, usual, self._given.host_memory())

    def _job_turn(self, queue: Sequence[Job], running: Sequence[Lent]) -> Turn[Lease]:
        watch, controller, profiling = self.devices, self.controller, self._options.profiling
        live = {engine.name: engine.placement for engine in controller.engines if engine.live}
        placed = {p.replica_id: p for p in controller.desired} | live
        stated = self._memory_by_host()
        handles = [engine.handle for engine in controller.engines if engine.live]
        launches = [handle.launch for handle in handles if handle is not None]
        records = self._given.store.models() if queue else ()
        host = JobHost(
            devices=watch.devices,
            room=dict(watch.room(controller.plan)),
            held=controller.held(),
            busy_cores=busy_cores(launches, watch.devices),
            host_bytes=host_bytes_left(watch.devices, stated, placed.values()),
            starting=first_starts(controller.engines, watch.devices),
            slots=Slots(profiling.jobs_at_once, profiling.jobs_on_host),
            groups={r.spec.name: r.spec.isolation_group for r in records if r.spec.isolation_group},
        )
        return turn_of(queue, running, host, self._held_back)

    def _hardware_of(self, device_id: str) -> str:
        device = self.devices.find(device_id)
        return device.hardware if device is not None else ""

    def _make_devices(self) -> DeviceWatch:
        given, policy = self._given, self._options.policy
        return DeviceWatch(
            given.devices,
            given.clock,
            marked=lambda seen: with_cordons(seen, given.store.marks(CORDON)),
            after_look=self._looked,
            troubled=lambda why: self.journal.note("devices-unknown", "devices", why),
            look_seconds=policy.look_seconds,
            patience_seconds=policy.patience_seconds,
        )

    def _looked(self, before: Sequence[Device], now: Sequence[Device]) -> None:
        self.cordons.looked(before, now)
        if {device.id for device in now} - {device.id for device in before}:
            self.registry.devices_came.set()
            self.plan_again()

    def _make_controller(self) -> Controller:
        given, policy = self._given, self._options.policy
        return Controller(
            store=given.store,
            runner=given.runner,
            endpoint=self.endpoint,
            devices=self.devices,
            files=self.files,
            clock=given.clock,
            journal=self.journal,
            policy=policy,
            routes=self._options.routes,
            wake=self.wake,
            sleep=SleepController(
                store=given.store,
                endpoint=self.endpoint,
                clock=given.clock,
                journal=self.journal,
                policy=policy,
                wake=self.wake.set,
                changed=self._slept_or_woke,
                make_room=lambda waited: self.room.make_room(waited),
                overtaken=lambda: self.devices.overtaken,
            ),
            callbacks=LoopCallbacks(
                lent=self.jobs.lent,
                measuring=self.jobs.starting,
                awaited=self.jobs.looks,
                spec_for=lambda spec, placement: self.releases.spec_for(spec, placement),
                withheld=self._withheld,
                failed_before=lambda placement: self.obstacles.failed_before(placement),
                after_pass=self._after_pass,
                looked=lambda: self.convergence.looked(),
                replacing=lambda old, new: self.convergence.replaced(old, new),
            ),
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
            write=self.store_waits.write,
            starting=lambda: first_starts(self.controller.engines, self.devices.devices),
            loop_seconds=self._options.policy.loop_seconds,
        )
        limits = self._options.policy.reconcile
        return JobQueue(
            store=given.store,
            write=self.store_waits.write,
            clock=given.clock,
            journal=self.journal,
            turn=self._job_turn,
            execute=work,
            ended=self._job_ended,
            paused=self._paused,
            hardware_of=self._hardware_of,
            host_of=self._host_of,
            start_seconds=limits.start_deadline_seconds + limits.stop_grace_seconds,
        )

    def _job_ended(self, job: Job) -> None:
        if job.state is JobState.SUCCEEDED:
            self.obstacles.started(job.subject)
        self.plan_again()
        if job.state is JobState.SUCCEEDED and job.reason != IN_FULL:
            self.registry.measure_rest(job.subject)

    def _held_back(self, job: Job) -> str:
        """Return why a job may not begin yet on any device; empty if it may."""
        chain = self.plans.chain
        if job.reason in LATER and chain.planning and not chain.problem:
            return "waits for the plan of what is known: models are served first"
        if other := self.jobs.first_look_beside(job):
            return f"waits for {other}, which looks at {job.subject} elsewhere"
        return self.drift.remeasures.waits(job)

    def _make_obstacles(self) -> ObstacleUseCases:
        given = self._given
        return ObstacleUseCases(
            store=given.store,
            clock=given.clock,
            journal=self.journal,
            controller=self.controller,
            files=self.files,
            engine_problem=given.engine_problem,
            seconds=self._options.policy.loop_seconds,
            changed=self.plan_again,
            measure=lambda model: self.registry.measure(model),
        )

    def _make_drift(self) -> DriftUseCases:
        given, options = self._given, self._options
        remeasures = Remeasures(
            store=given.store,
            jobs=self.jobs,
            devices=lambda: self.devices.devices,
            engines=lambda: self.controller.engines,
            window=self.traffic.window,
            profiling=options.profiling,
            options=options.drift,
        )
        return DriftUseCases(
            store=given.store,
            clock=given.clock,
            journal=self.journal,
            engines=lambda: self.controller.engines,
            leases=self.jobs.leases,
            remeasures=remeasures,
            changed=self.plan_again,
            options=options.drift,
        )

    def _make_shelf(self) -> ProfileCatalog:
        return ProfileCatalog(
            store=self._given.store,
            journal=self.journal,
            devices=self.devices,
            files=self.files,
            engine_version=self._given.engine_version,
            factors=self.drift.factors,
            changed=self.plan_again,
        )

    def _make_scaling(self) -> Scaling:
        return Scaling(
            store=self._given.store,
            clock=self._given.clock,
            journal=self.journal,
            controller=self.controller,
            options=self._options.scaling,
            plan_again=self.plan_again,
        )

    def _make_room(self) -> RoomMaker:
        return RoomMaker(
            store=self._given.store,
            clock=self._given.clock,
            journal=self.journal,
            controller=self.controller,
            devices=self.devices,
            scaling=self.scaling,
            plan_again=self.plan_again,
            planning=lambda: self.plans.chain.planning,
            host_memory=self._memory_by_host,
            obstacles=lambda: self.obstacles.present,
        )

    def _make_plans(self) -> Plans:
        given = self._given
        maker = PlanMaker(
            store=given.store,
            clock=given.clock,
            solve=given.solve,
            options=self._options.planning,
            corrections=self.drift.factors,
            effective=self.scaling.effective,
            stale=self.shelf.staleness.reasons,
            architecture_of=given.resolver.architecture,
            derivations=self._derivations,
            host_memory=given.host_memory,
        )
        return Plans(
            store=given.store,
            runner=given.runner,
            clock=given.clock,
            journal=self.journal,
            devices=self.devices,
            controller=self.controller,
            jobs=self.jobs,
            maker=maker,
            obstacles=self.obstacles,
            may_apply=self.scaling.may_apply,
            rolling=lambda: self.releases.coming(),
            awaited=lambda: self.room.awaited() | self.scaling.unanswered(),
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
            device_seconds=self._options.policy.device_seconds,
            accept=given.accept,
            group_warning=given.group_warning,
            obstacles=self.obstacles,
            releases=self.releases,
        )

    def _make_fit(self) -> FitUseCases:
        given = self._given
        return FitUseCases(
            store=given.store,
            resolver=given.resolver,
            clock=given.clock,
            devices=self.devices,
            profiling=self._options.profiling,
            accept=given.accept,
            imagine=self.plans.imagine,
            obstacles=self.obstacles,
            applied=lambda: self.controller.plan,
            effective=self.scaling.effective,
        )

    def _make_overview(self) -> OverviewUseCases:
        given, controller = self._given, self.controller
        return OverviewUseCases(
            Sources(
                store=given.store,
                clock=given.clock,
                devices=lambda: self.devices.devices,
                plan=lambda: controller.plan,
                models=self.registry.models,
                placed=self._placed,
                jobs=self.jobs.jobs,
                window=self.traffic.window,
                problems=self.readiness.problems,
                waiting_plan=lambda: waits.plan.id if (waits := self.plans.waiting()) else "",
                convergence=self.convergence.now,
                hosts=self.hosts.views,
                gauges=given.gauges,
                derivations=self._derivations,
                drift=self.drift.words,
                forecasts=lambda: {v.model: v.forecast_req_per_s for v in self.scaling.views()},
            )
        )

    def _make_usage(self) -> UsageUseCases:
        def left(host: str) -> TrafficSample | None:
            proxy = self._given.proxy
            if isinstance(proxy, FleetProxies):
                return proxy.last_samples().get(host)
            return proxy.last_sample()

        return UsageUseCases(
            store=self._given.store,
            clock=self._given.clock,
            latest=lambda: self.traffic.latest,
            left=left,
            keep_days=self._options.usage_keep_days,
        )

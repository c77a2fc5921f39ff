"""The use cases of the control plane: everything the API, and through it the CLI, can ask for."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from partitiond.controller.endpoint import Endpoint
from partitiond.controller.jobs import JobQueue
from partitiond.controller.journal import Journal
from partitiond.controller.keys import new_key
from partitiond.controller.leases import Lease, Waits, lease_of
from partitiond.controller.loop import Controller
from partitiond.controller.planning import PlanDesk, PlanOptions, Solve
from partitiond.controller.plans import Plans
from partitiond.controller.policy import ControllerPolicy
from partitiond.controller.profiling import ProfileWork, ProfilingOptions
from partitiond.controller.registry import Registry
from partitiond.controller.routes import RoutePolicy
from partitiond.controller.shelf import ProfileShelf
from partitiond.controller.views import replica_views
from partitiond.controller.watching import DeviceWatch, ModelFiles, room_on
from partitiond.core.hardware import Device
from partitiond.core.plan import Objective, Plan
from partitiond.core.profile import Profile
from partitiond.core.spec import ModelSpec
from partitiond.metrics import Metrics
from partitiond.ports import (
    Clock,
    DeviceProvider,
    EngineRunner,
    Event,
    Job,
    KeyRecord,
    ModelRecord,
    ModelResolver,
    ModelView,
    PlanPreview,
    ProfileOptions,
    ProfileRunner,
    ProfileView,
    ProxyControl,
    ReplicaView,
    Store,
)


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Everything a user can set about the control plane."""

    policy: ControllerPolicy = dataclasses.field(default_factory=ControllerPolicy)
    routes: RoutePolicy = dataclasses.field(default_factory=RoutePolicy)
    planning: PlanOptions = dataclasses.field(default_factory=PlanOptions)
    profiling: ProfilingOptions = dataclasses.field(default_factory=ProfilingOptions)


class Service:
    """Implements `ports.ControlService` from ports alone.

    Args:
        solve: makes a plan, out of process.
        accept: refuses a spec that this host cannot run, by an InputError.
        engine_problem: why no engine of the kind "vllm" can start; empty when it can. May look.
        engine_version: of that engine; empty while it is not known. Does not look.
    """

    def __init__(
        self,
        *,
        store: Store,
        runner: EngineRunner,
        devices: DeviceProvider,
        resolver: ModelResolver,
        proxy: ProxyControl,
        profiler: ProfileRunner,
        solve: Solve,
        clock: Clock,
        options: ServiceOptions | None = None,
        accept: Callable[[ModelSpec], None] = lambda _: None,
        engine_problem: Callable[[], str] = str,
        engine_version: Callable[[], str] = str,
    ) -> None:
        self._options = options or ServiceOptions()
        policy = self._options.policy
        self._store = store
        self._runner = runner
        self._resolver = resolver
        self._clock = clock
        self._engine_problem = engine_problem
        self._metrics = Metrics()
        self._wake = asyncio.Event()
        self._journal = Journal(store, clock, self._metrics.happened)
        self._devices = DeviceWatch(devices, clock)
        self._files = ModelFiles(resolver, clock, self._wake.set, policy.fetch_retry_seconds)
        self._endpoint = Endpoint(
            proxy, store=store, clock=clock, journal=self._journal, wake=self._wake.set
        )
        self._controller = Controller(
            store=store,
            runner=runner,
            endpoint=self._endpoint,
            devices=self._devices,
            files=self._files,
            clock=clock,
            journal=self._journal,
            policy=policy,
            routes=self._options.routes,
            wake=self._wake,
            observer=self._metrics,
        )
        self._jobs = self._job_queue(profiler)
        self._shelf = ProfileShelf(
            store=store,
            journal=self._journal,
            devices=self._devices,
            files=self._files,
            engine_version=engine_version,
            changed=self._plan_again,
        )
        self._plans = Plans(
            store=store,
            runner=runner,
            clock=clock,
            journal=self._journal,
            devices=self._devices,
            controller=self._controller,
            jobs=self._jobs,
            desk=PlanDesk(
                store=store,
                clock=clock,
                solve=solve,
                options=self._options.planning,
                stale=self._shelf.staleness.reasons,
            ),
        )
        self._registry = Registry(
            store=store,
            resolver=resolver,
            clock=clock,
            journal=self._journal,
            devices=self._devices,
            files=self._files,
            endpoint=self._endpoint,
            controller=self._controller,
            jobs=self._jobs,
            plans=self._plans,
            staleness=self._shelf.staleness,
            profiling=self._options.profiling,
            accept=accept,
        )
        self._controller.leases = self._jobs.leases
        self._controller.after_pass = self._after_pass
        self._loop: asyncio.Task[None] | None = None
        self._shutdown: asyncio.Task[None] | None = None
        self.closed = asyncio.Event()

    def _job_queue(self, profiler: ProfileRunner) -> JobQueue:
        work = ProfileWork(
            store=self._store,
            resolver=self._resolver,
            profiler=profiler,
            find_device=self._devices.find,
            options=self._options.profiling,
        )
        return JobQueue(
            store=self._store,
            clock=self._clock,
            journal=self._journal,
            lease=self._lease,
            execute=work,
            ended=lambda _: self._plan_again(),
        )

    # -- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Adopt what runs, then start the loop.

        Raises:
            PartitiondError: the proxy cannot run (its port is in use), or engines of the daemon
                before cannot be looked for.
        """
        await self._endpoint.start()
        try:
            await self._devices.refresh(0.0)
            await asyncio.to_thread(self._engine_problem)  # looks, so that the version is known
            await self._controller.adopt()
            self._jobs.recover()
            self._registry.resume()
        except Exception:
            # What this start made ends with it; what it found running stays.
            if self._endpoint.created:
                await self._endpoint.stop(self._options.policy.proxy_stop_seconds)
            raise
        self._loop = asyncio.create_task(self._controller.run(), name="reconcile loop")

    async def shutdown(self, *, stop_engines: bool) -> None:
        """End the loop, the jobs, and (if asked) engines and proxy. Idempotent."""
        await asyncio.shield(self.end(stop_engines=stop_engines))

    def end(self, *, stop_engines: bool) -> "asyncio.Task[None]":
        """Begin the shutdown and return at once; the first word about the engines counts."""
        if self._shutdown is None:
            self._shutdown = asyncio.create_task(self._shut_down(stop_engines), name="shutdown")
        return self._shutdown

    @property
    def ending(self) -> bool:
        """Whether a shutdown has begun."""
        return self._shutdown is not None

    def hurry(self) -> None:
        """Do not wait for requests in flight any longer while shutting down."""
        self._controller.hurry()

    async def _shut_down(self, stop_engines: bool) -> None:
        what = "stops engines." if stop_engines else "engines stay."
        self._journal.note("daemon-ending", "daemon", what)
        try:
            await self._plans.chain.close()  # first: jobs that end now are no reason to plan
            await self._jobs.close()
            if self._loop is not None:
                self._loop.cancel()
                await asyncio.wait([self._loop])
            if stop_engines:
                await self._controller.stop_everything()
                await self._endpoint.stop(self._options.policy.proxy_stop_seconds)
            else:
                await self._controller.detach()
                await self._endpoint.detach()
            await self._files.close()
        finally:
            self.closed.set()

    def _after_pass(self) -> None:
        self._registry.measure_stale()
        self._jobs.poke()
        self._plans.chain.consider()

    # -- models ----------------------------------------------------------------------------

    async def register(self, spec: ModelSpec) -> ModelRecord:
        """Register and (with `auto`) start the chain.

        Raises:
            ConflictError: the name is taken.
            SpecError, ModelSourceError: it cannot be had, or cannot run here.
        """
        return await self._registry.register(spec)

    def models(self) -> Sequence[ModelView]:
        """All models."""
        return self._registry.models()

    def model(self, name: str) -> ModelView:
        """Raises NotFoundError."""
        return self._registry.model(name)

    async def update(self, spec: ModelSpec, expected_version: int | None) -> ModelRecord:
        """Replace the spec of a model. Raises NotFoundError, ConflictError."""
        return await self._registry.update(spec, expected_version)

    async def remove(self, name: str, expected_version: int | None = None) -> None:
        """Remove the model: its replicas drain and stop. Raises NotFoundError, ConflictError."""
        await self._registry.remove(name, expected_version)

    # -- jobs and profiles -----------------------------------------------------------------

    async def profile(self, name: str, options: ProfileOptions) -> Job:
        """Queue a profile job. Raises NotFoundError, InputError."""
        await self._devices.refresh(self._options.policy.device_seconds)
        return self._registry.submit(name, options)

    def _lease(self, job: Job) -> Lease | Waits:
        device_id = dict(job.params)["device_id"]
        watch, plan = self._devices, self._controller.plan
        room = dict(room_on(watch.devices, plan, watch.problem)).get(device_id)
        return lease_of(job, watch.find(device_id), room, self._controller.held())

    def _plan_again(self) -> None:
        self._plans.chain.changed()
        self._wake.set()

    def jobs(self) -> Sequence[Job]:
        """Newest first."""
        return self._jobs.jobs()

    def job(self, job_id: str) -> Job:
        """Raises NotFoundError."""
        return self._jobs.job(job_id)

    async def cancel_job(self, job_id: str) -> Job:
        """Cancel; returns once nothing of it runs. Raises NotFoundError."""
        self._jobs.job(job_id)
        return await self._jobs.cancel(job_id)

    def watch_job(self, job_id: str) -> AsyncGenerator[Job, None]:
        """The job now and each time it changes, until it has ended. Raises NotFoundError."""
        return self._jobs.watch(job_id)

    def profiles(self, model: str | None = None) -> Sequence[Profile]:
        """Newest first."""
        return self._shelf.profiles(model)

    def profile_views(self, model: str | None = None) -> Sequence[ProfileView]:
        """Newest first, each with why it is stale."""
        return self._shelf.views(model)

    def profile_view(self, profile_id: str) -> ProfileView:
        """Raises NotFoundError."""
        return self._shelf.view(profile_id)

    def profile_by_id(self, profile_id: str) -> Profile:
        """Raises NotFoundError."""
        return self._shelf.view(profile_id).profile

    def import_profile(self, profile: Profile, *, replace: bool = False) -> Profile:
        """Keep a profile made elsewhere. Raises ConflictError when another has its id."""
        return self._shelf.keep(profile, replace=replace)

    # -- plans -----------------------------------------------------------------------------

    async def plan(self, objective: Objective | None = None) -> PlanPreview:
        """Dry run. The preview's plan can be applied by id while nothing changed since."""
        return await self._plans.preview(objective)

    async def apply(self, plan_id: str | None = None) -> PlanPreview:
        """Apply the plan of that id, or a fresh one.

        Raises:
            ConflictError: it is outdated, or there is no plan that serves what was asked.
            NotFoundError: there is no plan of that id.
            NotReadyError: the daemon is ending.
        """
        return await self._plans.apply(plan_id)

    def current_plan(self) -> Plan | None:
        """The applied plan."""
        return self._controller.plan

    # -- what is ---------------------------------------------------------------------------

    def replicas(self) -> Sequence[ReplicaView]:
        """All replicas, stopped and failed ones that are still wanted included."""
        desired = self._controller.desired
        fetching = {p.model: self._files.progress(p.model) for p in desired}
        return replica_views(desired, self._controller.engines, fetching)

    def devices(self) -> Sequence[Device]:
        """Devices of this host."""
        return self._devices.devices

    def events(self, after: int = 0, limit: int = 200) -> Sequence[Event]:
        """Oldest first."""
        return self._store.events(after, limit)

    def readiness(self) -> Mapping[str, str]:
        """Empty when ready; else what is not, by part."""
        needs_engine = any(r.spec.engine_kind == "vllm" for r in self._store.models())
        parts = {
            "loop": self._controller.problem,
            "proxy": self._endpoint.problem,
            "store": self._journal.problem,
            "devices": self._devices.problem,
            "engine": self._engine_problem() if needs_engine else "",
        }
        return {part: problem for part, problem in parts.items() if problem}

    async def metrics(self) -> str:
        """Prometheus text."""
        return self._metrics.text(self.replicas(), self.jobs(), await self._endpoint.stats())

    # -- keys ------------------------------------------------------------------------------

    async def create_key(self, label: str, models: Sequence[str]) -> tuple[KeyRecord, str]:
        """The record and the key itself, which is shown once and not kept.

        Raises:
            NotFoundError: a model that is not registered.
        """
        for name in models:
            self._store.model(name)
        record, key = new_key(label, models, self._clock.utc_iso())
        self._store.add_key(record)
        self._journal.note("key-created", record.id, label or "without a label")
        self._wake.set()
        return record, key

    def keys(self) -> Sequence[KeyRecord]:
        """All keys."""
        return self._store.keys()

    async def remove_key(self, key_id: str) -> None:
        """Raises NotFoundError."""
        self._store.remove_key(key_id)
        self._journal.note("key-removed", key_id, "requests with it are refused from now on.")
        self._wake.set()

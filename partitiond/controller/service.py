"""Implements the use cases of the control plane: all that the API, and so the CLI, can ask for."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from partitiond import __version__
from partitiond.controller.assembly import Adapters, Parts, ServiceOptions
from partitiond.controller.background import Background
from partitiond.controller.demand.sleeping import check_may_sleep
from partitiond.controller.plans.planning import Solve
from partitiond.controller.profiles.cpu_figures import CpuSpeed
from partitiond.controller.runtime.cordons import device_named
from partitiond.core.errors import EngineUnavailableError, PartitiondError
from partitiond.core.events import EVERY_EVENT, Event, EventFilter
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.kinds import Device
from partitiond.core.keys.record import KeyRecord, KeyTerms
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.answers import PlanProgress, PlanQuestion
from partitiond.core.plan.record import Plan
from partitiond.core.profile.jobs import Job, ProfileOptions
from partitiond.core.profile.record import Profile
from partitiond.core.views.lists import (
    KeyView,
    ModelView,
    ProfileView,
    PrunableProfile,
    ReplicaView,
)
from partitiond.core.views.preview import PlanPreview
from partitiond.metrics.snapshot import MetricsSnapshot
from partitiond.ports import (
    Clock,
    DeviceGauges,
    DeviceProvider,
    EngineRunner,
    ModelResolver,
    Overviews,
    PartitionControl,
    ProfileRunner,
    ProxyControl,
    Store,
)
from partitiond.ports.convergence import Convergences
from partitiond.ports.drift import DriftControl
from partitiond.ports.fit import FitCheck
from partitiond.ports.releases import Releases
from partitiond.ports.scaling import Scalings
from partitiond.ports.usage import Usages

__all__ = ["Service", "ServiceOptions"]


class Service:
    """Implements `ports.ControlService` from ports alone.

    Args:
        options: what a user can set.
        store, runner, devices, resolver, proxy, profiler, solve, clock, accept, engine_problem,
            engine_version, cpu_speed, partitions, gauges: as `assembly.Adapters` has them.
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
        engine_problem: Callable[[], EngineUnavailableError | None] = lambda: None,
        engine_version: Callable[[], str] = str,
        cpu_speed: CpuSpeed | None = None,
        partitions: PartitionControl | None = None,
        gauges: DeviceGauges | None = None,
    ) -> None:
        adapters = Adapters(
            store=store,
            runner=runner,
            devices=devices,
            resolver=resolver,
            proxy=proxy,
            profiler=profiler,
            solve=solve,
            clock=clock,
            accept=accept,
            engine_problem=engine_problem,
            engine_version=engine_version,
            cpu_speed=cpu_speed,
            partitions=partitions,
            gauges=gauges,
        )
        self._options = options or ServiceOptions()
        self._store = store
        self._partitions = partitions
        self._take(Parts(adapters, self._options))
        self._loop: asyncio.Task[None] | None = None
        self._shutdown: asyncio.Task[None] | None = None
        self.closed = asyncio.Event()

    def _take(self, parts: Parts) -> None:
        self._metrics, self._journal = parts.metrics, parts.journal
        self._devices, self._files, self._endpoint = parts.devices, parts.files, parts.endpoint
        self._controller, self._jobs, self._shelf = parts.controller, parts.jobs, parts.shelf
        self._plans, self._registry, self._cordons = parts.plans, parts.registry, parts.cordons
        self._keys, self._background = parts.keys, Background(parts.background)
        self._traffic, self._obstacles = parts.traffic, parts.obstacles
        self._store_waits = parts.store_waits
        self._placed, self._look_for_cut_off = parts.placed, parts.look_for_cut_off
        self._controller.after_pass = self._after_pass
        self.overview: Overviews = parts.overview
        self.drift: DriftControl = parts.drift
        self.fit: FitCheck = parts.fit
        self.usage: Usages = parts.usage
        self.scaling: Scalings = parts.scaling
        self.releases: Releases = parts.releases
        self.convergence: Convergences = parts.convergence
        self._end_watches = parts.convergence.close
        self._look_at_releases = parts.releases.look
        self._use_scaling = parts.scaling.use
        parts.overview.problems = self.readiness

    # -- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Adopt the running engines, then start the loop.

        Raises:
            PartitiondError: the proxy cannot run (its port is in use), or engines of the previous
                daemon cannot be looked for.
        """
        await self._endpoint.start()
        try:
            await self._obstacles.refresh()  # looks for the engine, so that its version is known
            # Before the first look at the devices: running engines serve, even if a driver hangs.
            await self._controller.adopt()
            await self._devices.refresh(0.0)
            self._controller.name_devices()
            # Read once, here: parsing some thousands of profiles would block the loop for seconds.
            await asyncio.to_thread(self._store.profiles)
            await asyncio.to_thread(self._store.keys)
            self._jobs.recover()
            self._registry.resume()
        except Exception:
            # What this start created ends with it; what was running before stays.
            if self._endpoint.created:
                await self._endpoint.stop(self._options.policy.proxy_stop_seconds)
            raise
        self._journal.note("daemon-started", "daemon", f"version {__version__}.")
        self._loop = asyncio.create_task(self._controller.run(), name="reconcile loop")
        self._background.start()

    async def shutdown(self, *, stop_engines: bool) -> None:
        """End the loop, the jobs, and (if asked) engines and proxy. Idempotent."""
        await asyncio.shield(self.end(stop_engines=stop_engines))

    def end(self, *, stop_engines: bool) -> "asyncio.Task[None]":
        """Begin the shutdown and return at once; the first call decides whether engines stop."""
        if self._shutdown is None:
            self._shutdown = asyncio.create_task(self._shut_down(stop_engines), name="shutdown")
        return self._shutdown

    @property
    def ending(self) -> bool:
        """Whether a shutdown has begun."""
        return self._shutdown is not None

    @property
    def turning(self) -> bool:
        """Whether the reconcile loop makes its passes: its last pass ended not long ago."""
        ended = self._loop is None or (self._loop.done() and not self.ending)
        return not ended and not self._controller.stalled

    def use(self, options: ServiceOptions) -> None:
        """Take over the options that may change while the daemon runs
        (`partitiond.settings.reload`)."""
        self._options = options
        drain = options.policy.reconcile.drain_deadline_seconds
        self._controller.use(options.routes, drain_deadline_seconds=drain)
        self._plans.use(options.planning)
        self._use_scaling(options.scaling)

    def hurry(self) -> None:
        """Do not wait for requests in flight any longer while shutting down."""
        self._controller.hurry()

    async def _shut_down(self, stop_engines: bool) -> None:
        what = "stops engines." if stop_engines else "engines stay."
        self._journal.note("daemon-ending", "daemon", what)
        try:
            await self._background.stop()
            self._end_watches()
            await (
                self._plans.chain.close()
            )  # before the jobs: a job that ends now is no reason to plan
            await self._jobs.close()
            if self._loop is not None:
                self._loop.cancel()
                await asyncio.wait([self._loop])
            if stop_engines:
                await self._controller.stop_everything()
                await self._clear_devices()
                await self._endpoint.stop(self._options.policy.proxy_stop_seconds)
            else:
                await self._controller.detach()
                await self._endpoint.detach()
            await self._files.close()
            self._devices.close()
        finally:
            self.closed.set()

    async def _clear_devices(self) -> None:
        """Restore the devices; note those that refuse, which the next daemon tries again."""
        if self._partitions is None:
            return
        try:
            left = await self._partitions.clear()
        except PartitiondError as error:
            left = [str(error)]
        for sentence in left:
            self._journal.note("device-left", "devices", sentence)

    def _after_pass(self) -> None:
        self._journal.save()
        self._look_at_releases()
        self._obstacles.look()
        self._look_for_cut_off()
        self._registry.measure_stale()
        self._jobs.poke()
        if self._devices.looked:  # a plan without devices would end what is only not seen yet
            self._plans.chain.consider()

    async def until_writable(self) -> None:
        """Wait, for some seconds, while another process has locked the store.

        Raises:
            StoreBusyError: the lock is held for longer; nothing was changed.
        """
        await self._store_waits.until_writable()

    # -- models ----------------------------------------------------------------------------

    async def register(self, spec: ModelSpec) -> ModelRecord:
        """Register a model and (with `auto`) start the chain for it.

        Raises:
            ConflictError: the name is taken.
            SpecError, ModelSourceError: the model cannot be had, or cannot run here.
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

    def put_to_sleep(self, name: str, level: int = 1) -> ModelView:
        """Drain the model and put its engines to sleep; a model without engines sleeps at once.

        Raises:
            NotFoundError, InputError: there is no such model, or level.
            ConflictError: the model has no sleep mode, or sleeps at another level.
        """
        asleep = self._controller.sleep.levels.get(name, 0)
        check_may_sleep(self._store.model(name).spec, level, asleep)
        if not asleep:
            self._controller.sleep.put_to_sleep(name, level, "as asked")
        return self._registry.model(name)

    def wake(self, name: str) -> ModelView:
        """Wake the model. Raises NotFoundError."""
        self._store.model(name)
        if name in self._controller.sleep.levels:
            self._controller.sleep.wake_as_asked(name)
        return self._registry.model(name)

    # -- jobs and profiles -----------------------------------------------------------------

    async def profile(self, name: str, options: ProfileOptions) -> Job:
        """Queue a profile job. Raises NotFoundError, InputError."""
        await self._devices.refresh(self._options.policy.device_seconds)
        return self._registry.submit(name, options)

    def jobs(self) -> Sequence[Job]:
        """The newest and all open jobs, newest first."""
        return self._jobs.jobs()

    def job(self, job_id: str) -> Job:
        """Raises NotFoundError."""
        return self._jobs.job(job_id)

    async def cancel_job(self, job_id: str) -> Job:
        """Cancel a job; returns once nothing of it runs. Raises NotFoundError."""
        self._jobs.job(job_id)
        return await self._jobs.cancel(job_id)

    def watch_job(self, job_id: str) -> AsyncGenerator[Job, None]:
        """The job now and each time it changes, until it has ended. Raises NotFoundError."""
        return self._jobs.watch(job_id)

    def profiles(self, model: str | None = None) -> Sequence[Profile]:
        """Profiles of a model or of all, newest first."""
        return self._shelf.profiles(model)

    def profile_views(self, model: str | None = None) -> Sequence[ProfileView]:
        """Profiles of a model or of all, newest first, each with why it is stale."""
        return self._shelf.views(model)

    def profile_view(self, profile_id: str) -> ProfileView:
        """Raises NotFoundError."""
        return self._shelf.view(profile_id)

    def profile_by_id(self, profile_id: str) -> Profile:
        """Raises NotFoundError."""
        return self._shelf.view(profile_id).profile

    def import_profile(self, profile: Profile, *, replace: bool = False) -> Profile:
        """Keep a profile made elsewhere. Raises ConflictError if another profile has its id."""
        return self._shelf.keep(profile, replace=replace)

    def prune_profiles(self, *, delete: bool) -> Sequence[PrunableProfile]:
        """Return the superseded and stale profiles that no plan uses; `delete` removes them."""
        return self._shelf.prune(delete=delete)

    # -- plans -----------------------------------------------------------------------------

    async def plan(
        self,
        question: PlanQuestion | None = None,
        on_progress: Callable[[PlanProgress], None] | None = None,
    ) -> PlanPreview:
        """Make a plan without applying it. It can be applied by its id until something changes.

        Raises:
            InputError: a what-if names something that does not exist, or cannot be read.
        """
        return await self._plans.preview(question, on_progress)

    async def apply(self, plan_id: str | None = None, *, allow_outage: bool = False) -> PlanPreview:
        """Apply the plan of that id, or a fresh one.

        Raises:
            ConflictError: the plan is outdated, or no plan serves what was asked.
            NotFoundError: there is no plan of that id.
            NotReadyError: the daemon is ending.
        """
        return await self._plans.apply(plan_id, allow_outage=allow_outage)

    def current_plan(self) -> Plan | None:
        """The applied plan."""
        return self._controller.plan

    def waiting_plan(self) -> PlanPreview | None:
        """The plan that the daemon made by itself and that waits for `apply`."""
        return self._plans.waiting()

    # -- replicas, devices, events ---------------------------------------------------------

    def replicas(self) -> Sequence[ReplicaView]:
        """All engines, with pending ones, and stopped and failed ones that are still wanted."""
        return tuple(placed.view for placed in self._placed())

    def devices(self) -> Sequence[Device]:
        """Devices of this host."""
        return self._devices.devices

    async def device(self, device_id: str) -> DeviceDetails:
        """Everything that is known of one device; the beginning of its id is enough.

        Raises:
            NotFoundError, InputError: no device has that id, or several ids begin with the text.
            DeviceError: the driver refuses.
        """
        return await self._devices.inspect(device_named(self._devices.devices, device_id))

    async def cordon(self, device_id: str, reason: str) -> Device:
        """Cordon the device: nothing is placed on it. Raises NotFoundError, InputError."""
        return self._cordons.set(device_id, reason)

    async def uncordon(self, device_id: str) -> Device:
        """Take an operator's cordon off, and look at the device again; the device stays cordoned
        while its driver reports a failure. Raises NotFoundError, InputError."""
        device = self._cordons.lift(device_id)
        await self._devices.refresh(0.0)
        return device_named(self._devices.devices, device.id)

    def events(
        self, after: int = 0, limit: int = 200, wanted: EventFilter = EVERY_EVENT
    ) -> Sequence[Event]:
        """The wanted events after an id, oldest first."""
        return self._store.events(after, limit, wanted)

    def readiness(self) -> Mapping[str, str]:
        """Return what is not ready, by part; empty if the daemon is ready."""
        # A missing engine is said of each model; it counts here if no model uses another.
        kinds = {record.spec.engine_kind for record in self._store.models()}
        parts = {
            "loop": self._controller.problem or self._controller.stalled,
            "proxy": self._endpoint.problem,
            "store": self._journal.problem,
            "devices": self._devices.trouble,
            "planner": self._plans.chain.problem,
            "engine": self._obstacles.engine_problem if kinds == {"vllm"} else "",
        }
        return {part: problem for part, problem in parts.items() if problem}

    async def metrics(self) -> str:
        """All metrics, as Prometheus text."""
        shown = MetricsSnapshot(
            overview=await self.overview.overview(),
            plan=self.current_plan(),
            sample=self._traffic.latest,
            drift=self.drift.report(),
            scaling=tuple(self.scaling.views()),
        )
        text = await self._endpoint.metrics_text()
        seen = self.replicas(), self.jobs()
        return await asyncio.to_thread(self._metrics.text, *seen, text, shown)

    # -- keys ------------------------------------------------------------------------------

    async def create_key(self, terms: KeyTerms) -> tuple[KeyRecord, str]:
        """Return a new record and its key, shown only here. Raises NotFoundError, InputError."""
        return await self._keys.create(terms)

    def keys(self) -> Sequence[KeyRecord]:
        """All keys, oldest first."""
        return self._store.keys()

    def key(self, key_id: str) -> KeyRecord:
        """Raises NotFoundError."""
        return self._store.key(key_id)

    async def key_view(self, key_id: str) -> KeyView:
        """One key, and how much of it is used. Raises NotFoundError."""
        return await self._keys.show(key_id)

    async def update_key(self, key_id: str, terms: KeyTerms) -> KeyRecord:
        """Change what a key may do. Raises NotFoundError, InputError."""
        return await self._keys.update(key_id, terms)

    async def rotate_key(self, key_id: str, grace_seconds: float) -> tuple[KeyRecord, str]:
        """Give the key another secret. Raises NotFoundError, InputError, ConflictError."""
        return await self._keys.rotate(key_id, grace_seconds)

    async def remove_key(self, key_id: str) -> None:
        """Raises NotFoundError; NotReadyError if the endpoint may still accept the key."""
        await self._keys.remove(key_id)

"""Makes the use cases of the control plane from its parts, starts them and ends them."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable

from partitiond import __version__
from partitiond.controller.assembly import Adapters, Parts, ServiceOptions
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
from partitiond.controller.store_waits import StoreWaits
from partitiond.controller.views.health import MetricsText, Readiness
from partitiond.controller.views.hosts import HostUseCases
from partitiond.controller.views.overview import OverviewUseCases
from partitiond.core.errors import PartitiondError
from partitiond.platform.background import Background
from partitiond.store import Store

__all__ = ["Adapters", "Service", "ServiceOptions", "service_of"]


class Daemon:
    """Starts the parts of the control plane, and ends them.

    Attributes:
        closed: set once everything has ended.
    """

    def __init__(self, parts: Parts, options: ServiceOptions) -> None:
        self._parts = parts
        self._options = options
        self._background = Background(parts.background)
        self._loop: asyncio.Task[None] | None = None
        self._shutdown: asyncio.Task[None] | None = None
        self.closed = asyncio.Event()

    async def start(self) -> None:
        """Adopt the running engines, then start the loop.

        Raises:
            PartitiondError: the proxy cannot run (its port is in use) and no plan is applied, whose
                engines would go on without anybody; or engines of the previous daemon cannot be
                looked for.
        """
        parts = self._parts
        await parts.endpoint.start(is_needed=not parts.controller.has_plan)
        try:
            await parts.obstacles.refresh()  # looks for the engine, so that its version is known
            # Before the first look at the devices: running engines serve, even if a driver hangs.
            await parts.controller.adopt()
            await parts.devices.refresh(0.0)
            parts.controller.name_devices()
            # Read once, here: parsing some thousands of profiles would block the loop for seconds.
            await asyncio.to_thread(parts.store.profiles)
            await asyncio.to_thread(parts.store.keys)
            parts.jobs.recover()
            parts.registry.resume()
        except Exception:
            # What this start created ends with it; what was running before stays.
            if parts.endpoint.created:
                with contextlib.suppress(PartitiondError):  # the start's own error is told
                    await parts.endpoint.stop(self._options.policy.proxy_stop_seconds)
            raise
        parts.journal.note("daemon-started", "daemon", f"version {__version__}.")
        self._loop = asyncio.create_task(parts.controller.run(), name="reconcile loop")
        self._background.start()
        await parts.endpoint.await_start(self._options.policy.adopt_seconds)

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
        return not ended and not self._parts.controller.stalled

    def use(self, options: ServiceOptions) -> None:
        """Take over the options that may change while the daemon runs
        (`partitiond.settings.reload`)."""
        self._options = options
        drain = options.policy.reconcile.drain_deadline_seconds
        self._parts.controller.use(options.routes, drain_deadline_seconds=drain)
        self._parts.plans.use(options.planning)
        self._parts.scaling.use(options.scaling)

    def hurry(self) -> None:
        """Do not wait for requests in flight any longer while shutting down."""
        self._parts.controller.hurry()

    async def _shut_down(self, stop_engines: bool) -> None:
        parts = self._parts
        what = "stops engines." if stop_engines else "engines stay."
        parts.journal.note("daemon-ending", "daemon", what)
        try:
            await self._background.stop()
            parts.convergence.close()
            # Before the jobs: a job that ends now is no reason to plan.
            await parts.plans.chain.close()
            await parts.jobs.close()
            if self._loop is not None:
                self._loop.cancel()
                await asyncio.wait([self._loop])
            if stop_engines:
                await parts.controller.stop_everything()
                await self._last("engine-left", "engines", parts.controller.tidy())
                await self._last("device-left", "devices", self._clear_devices())
                stop = parts.endpoint.stop(self._options.policy.proxy_stop_seconds)
                await self._last("proxy-unreachable", "proxy", stop)
            else:
                await parts.controller.detach()
                await parts.endpoint.detach()
            await parts.files.close()
            parts.devices.close()
        finally:
            self.closed.set()

    async def _clear_devices(self) -> None:
        """Restore the devices; note those that refuse, which the next daemon tries again."""
        if self._parts.partitions is not None:
            for sentence in await self._parts.partitions.clear():
                self._parts.journal.note("device-left", "devices", sentence)

    async def _last(self, kind: str, subject: str, call: Awaitable[None]) -> None:
        """Make a last call, which may hang; note what it left to the next daemon."""
        try:
            async with asyncio.timeout(self._options.policy.last_call_seconds):
                await call
        except (PartitiondError, TimeoutError) as error:
            self._parts.journal.note(kind, subject, str(error) or "it did not end in time.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Service:
    """Names the use cases of the control plane, and the parts that they are made of. The API is a
    thin layer over them.
    """

    models: Registry
    jobs: JobQueue
    profiles: ProfileCatalog
    plans: Plans
    devices: DeviceWatch
    cordons: Cordons
    hosts: HostUseCases
    events: Store
    keys: Keys
    overview: OverviewUseCases
    drift: DriftUseCases
    fit: FitUseCases
    usage: UsageUseCases
    scaling: Scaling
    releases: ReleaseUseCases
    convergence: ConvergenceUseCases
    readiness: Readiness
    metrics: MetricsText
    store_waits: StoreWaits
    daemon: Daemon
    parts: Parts


def service_of(adapters: Adapters, options: ServiceOptions | None = None) -> Service:
    """Make the control plane over adapters; nothing of it runs yet."""
    options = options or ServiceOptions()
    parts = Parts(adapters, options)
    return Service(
        models=parts.registry,
        jobs=parts.jobs,
        profiles=parts.shelf,
        plans=parts.plans,
        devices=parts.devices,
        cordons=parts.cordons,
        hosts=parts.hosts,
        events=adapters.store,
        keys=parts.keys,
        overview=parts.overview,
        drift=parts.drift,
        fit=parts.fit,
        usage=parts.usage,
        scaling=parts.scaling,
        releases=parts.releases,
        convergence=parts.convergence,
        readiness=parts.readiness,
        metrics=parts.metrics_text,
        store_waits=parts.store_waits,
        daemon=Daemon(parts, options),
        parts=parts,
    )

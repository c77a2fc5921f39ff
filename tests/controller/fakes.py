"""Fakes the controller's ports: no process, no socket, no waiting."""

import asyncio
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from partitiond.controller.limits import ControllerPolicy, WatchPolicy
from partitiond.controller.plans.changed_worlds import ArchitectureOf
from partitiond.controller.plans.derived import Derivations
from partitiond.controller.plans.planning import PlanMaker, PlanOptions, Solve
from partitiond.core.demand.traffic import TrafficSample
from partitiond.core.dispatch.routing import RoutingTable
from partitiond.core.errors import (
    ConflictError,
    EngineError,
    ModelSourceError,
    PartitiondError,
    StartFailedError,
    StartTimedOutError,
)
from partitiond.core.keys.record import KeyUse
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.core.profile.jobs import Progress
from partitiond.core.profile.record import Profile
from partitiond.core.replica.engine import (
    EngineExit,
    EngineHandle,
    EngineLaunch,
    EngineReport,
)
from partitiond.core.replica.observation import ReconcilePolicy
from partitiond.core.replica.sleep import Traffic
from partitiond.engines.process.spawn import to_end
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from partitiond.ports import ProfileRequest
from partitiond.store import Store
from tests.controller.samples import ARCHITECTURE, NOW, measured_profile

POLICY = ControllerPolicy(
    reconcile=ReconcilePolicy(drain_deadline_seconds=20.0, stop_grace_seconds=1.0),
    watch=WatchPolicy(interval_seconds=0.001),
    loop_seconds=0.01,
    adopt_seconds=1.0,
    stop_retry_seconds=0.001,
    stop_tries_at_exit=20,
    patience_seconds=60.0,  # no look at devices is slow here but one that hangs
)


class FakeClock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = NOW

    def monotonic(self) -> float:
        return self.now

    def utc_iso(self) -> str:
        return self.wall


@dataclasses.dataclass
class FakeEngine:
    """What the fake runner knows of one engine."""

    handle: EngineHandle
    ready: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    gone: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    exit: EngineExit = dataclasses.field(default_factory=lambda: EngineExit(0, ""))
    answers: bool = True
    fails_with: PartitiondError | None = None


_PIDS = itertools.count(100)


class FakeRunner:
    """Engines that become ready, hang and die when told to."""

    def __init__(self, *, ready_at_once: bool = True) -> None:
        self.engines: dict[str, FakeEngine] = {}
        self.launches: list[EngineLaunch] = []
        self.stopped: list[str] = []
        self.refuse_start: PartitiondError | None = None
        self.refuse_models: dict[str, PartitiondError] = {}
        self.refuse_devices: dict[str, PartitiondError] = {}
        self.refuse_stop: Exception | None = None
        self.probe_breaks_with: Exception | None = None
        self.report_breaks_with: Exception | None = None
        self.tries_to_stop = 0
        self.log_path = "/log"
        self._ready_at_once = ready_at_once
        self.slow_stop: asyncio.Event | None = None
        self.peaks: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.levels: dict[str, int] = {}
        self.slept: list[tuple[str, int]] = []
        self.woken: list[str] = []
        self.refuse_sleep: Exception | None = None
        self.refuse_wake: EngineError | None = None
        self.asleep_gate = asyncio.Event()
        self.asleep_gate.set()
        self._pids = _PIDS

    def running(self) -> list[str]:
        return sorted(name for name, engine in self.engines.items() if not engine.gone.is_set())

    def add(self, launch: EngineLaunch) -> FakeEngine:
        """An engine that runs already."""
        pid = next(self._pids)
        handle = EngineHandle(
            launch, pid, pid * 10, "boot", f"/run/{launch.replica_id}.sock", self.log_path, "/run"
        )
        engine = FakeEngine(handle)
        if self._ready_at_once:
            engine.ready.set()
        self.engines[launch.replica_id] = engine
        return engine

    def die(self, name: str, code: int = -9, diagnosis: str = "killed") -> None:
        self.engines[name].exit = EngineExit(code, diagnosis)
        self.engines[name].gone.set()

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        if self.refuse_start is not None:
            raise self.refuse_start
        if launch.model_name in self.refuse_models:
            raise self.refuse_models[launch.model_name]
        if launch.device_id in self.refuse_devices:
            raise self.refuse_devices[launch.device_id]
        assert launch.replica_id not in self.running()
        self.launches.append(launch)
        return self.add(launch).handle

    async def wait_ready(
        self,
        handle: EngineHandle,
        deadline_seconds: float,
        progress: Callable[[str], None] | None = None,
    ) -> EngineReport:
        engine = self._of(handle)
        if progress is not None:
            progress("loading weights")
        ready = asyncio.ensure_future(engine.ready.wait())
        gone = asyncio.ensure_future(engine.gone.wait())
        try:
            await asyncio.wait({ready, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            gone.cancel()
        if engine.fails_with is not None:
            raise engine.fails_with
        if engine.gone.is_set():
            raise StartFailedError("it exited while starting")
        return EngineReport(4096, "0.0-fake", {})

    async def probe(self, handle: EngineHandle, timeout_seconds: float) -> bool:
        engine = self._of(handle)
        if self.probe_breaks_with is not None:
            raise self.probe_breaks_with
        return engine.answers and engine.ready.is_set() and not engine.gone.is_set()

    async def report(self, handle: EngineHandle) -> EngineReport:
        if self.report_breaks_with is not None:
            raise self.report_breaks_with
        return EngineReport(4096, "0.0-fake", {})

    async def sleep(self, handle: EngineHandle, level: int) -> None:
        await self.asleep_gate.wait()
        if self.refuse_sleep is not None:
            raise self.refuse_sleep
        self.levels[handle.launch.replica_id] = level
        self.slept.append((handle.launch.replica_id, level))

    async def wake(self, handle: EngineHandle) -> None:
        await self.asleep_gate.wait()
        if self.refuse_wake is not None:
            raise self.refuse_wake
        self.levels.pop(handle.launch.replica_id, None)
        self.woken.append(handle.launch.replica_id)

    async def sleep_level(self, handle: EngineHandle, timeout_seconds: float) -> int:
        if not self._of(handle).answers:
            raise EngineError("it does not say whether it sleeps.")
        return self.levels.get(handle.launch.replica_id, 0)

    async def wait_exit(self, handle: EngineHandle) -> EngineExit:
        engine = self._of(handle)
        await engine.gone.wait()
        return engine.exit

    async def stop(self, handle: EngineHandle, grace_seconds: float) -> EngineExit:
        engine = self._of(handle)
        self.tries_to_stop += 1
        if self.refuse_stop is not None:
            raise self.refuse_stop
        if self.slow_stop is not None:
            await self.slow_stop.wait()
        if not engine.gone.is_set():
            self.stopped.append(handle.launch.replica_id)
        engine.gone.set()
        return engine.exit

    async def find(self) -> Sequence[EngineHandle]:
        return [engine.handle for engine in self.engines.values() if not engine.gone.is_set()]

    def peak_memory_bytes(self, handle: EngineHandle) -> int:
        return self.peaks.get(handle.launch.replica_id, 0)

    async def held_bytes(self, handle: EngineHandle) -> int:
        return self.held.get(handle.launch.replica_id, 0)

    def _of(self, handle: EngineHandle) -> FakeEngine:
        return next(e for e in self.engines.values() if e.handle == handle)


class FakeProxy:
    """Remembers tables; says what it is told to say."""

    def __init__(self) -> None:
        self.tables: list[RoutingTable] = []
        self.counts: dict[str, int] | None = {}
        self.waiting: dict[str, int] | None = {}
        self.idle_seconds: dict[str, float] = {}
        self.uses: dict[str, KeyUse] | None = None
        self.sampled: TrafficSample | None = None
        self.unreported: set[str] = set()
        self.starts = self.asked = 0
        self.problem = ""
        self.alive = False
        self.newest = 0
        self.refuse_start: PartitiondError | None = None
        self.refuse_stop: PartitiondError | None = None
        self.refuse_publish: PartitiondError | None = None
        self._gone = asyncio.Event()

    @property
    def table(self) -> RoutingTable:
        return self.tables[-1]

    def die(self) -> None:
        self.alive = False
        self._gone.set()

    async def ensure_running(self) -> bool:
        self.asked += 1  # once in each pass of the loop
        if self.alive:
            return False
        if self.refuse_start is not None:
            raise self.refuse_start
        self.alive, self._gone = True, asyncio.Event()
        self.starts += 1
        return True

    async def wait_exit(self) -> int | None:
        if self.alive:
            await self._gone.wait()
        return 0

    async def publish(self, table: RoutingTable) -> None:
        if not self.alive:
            raise PartitiondError("the proxy is gone.")
        if self.refuse_publish is not None:
            raise self.refuse_publish
        if table.version < self.newest:
            raise ConflictError("older", facts={"current": self.newest})
        self.newest = table.version
        self.tables.append(table)

    async def in_flight(self, host: str = "") -> Mapping[str, int] | None:
        return None if self.counts is None or not self.alive else dict(self.counts)

    async def traffic(self) -> Mapping[str, Traffic] | None:
        if self.waiting is None or not self.alive:
            return None
        names = {route.name for route in self.table.models} if self.tables else set()
        return {
            name: Traffic(self.waiting.get(name, 0), self.idle_seconds.get(name, 0.0))
            for name in names - self.unreported
        }

    async def key_use(self) -> Mapping[str, KeyUse] | None:
        return self.uses if self.alive else None

    async def sample(self) -> TrafficSample | None:
        return self.sampled if self.alive else None

    def last_sample(self) -> TrafficSample | None:
        return None

    async def metrics_text(self) -> str:
        return "partitiond_proxy_requests_total 7.0\n"

    async def stop(self, grace_seconds: float) -> None:
        self.die()
        if self.refuse_stop is not None:
            raise self.refuse_stop


class FakeResolver:
    """Every model is there, unless its source is called "missing"."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.breaks: dict[str, Exception] = {}
        self.pools = False
        self._resolved: list[str] = []

    def count_resolves(self, name: str) -> int:
        """How often the files of a model were asked for."""
        return self._resolved.count(name)

    async def architecture(self, spec: ModelSpec) -> Architecture:
        await self.gate.wait()
        self._check(spec)
        return dataclasses.replace(ARCHITECTURE, pools=self.pools)

    async def resolve(
        self, spec: ModelSpec, progress: Callable[[str, float | None], None] | None = None
    ) -> ResolvedModel:
        self._check(spec)
        self._resolved.append(spec.name)
        if spec.name in self.breaks:
            raise self.breaks[spec.name]
        if progress is not None:
            progress("fetching", 0.5)
        return ResolvedModel(spec, Path("/models") / spec.name, None, ARCHITECTURE, True)

    def _check(self, spec: ModelSpec) -> None:
        if spec.source.ref == "missing":
            raise ModelSourceError("there is no such model.", hint="Use another.")


class FakeProfiler:
    """Measures when told to; `gate` closed keeps the job running.

    Attributes:
        stops: closed keeps a cancelled job from ending, as an engine that takes long to end does.
    """

    def __init__(self) -> None:
        self.requests: list[ProfileRequest] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.stops = asyncio.Event()
        self.stops.set()
        self.breaks_with: Exception | None = None
        self.cancelled = 0

    async def run(self, request: ProfileRequest, progress: Callable[[Progress], None]) -> Profile:
        self.requests.append(request)
        progress(Progress("measuring", "batch 4", 0.5, 10.0))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            if not self.stops.is_set():
                await to_end(self.stops.wait())
            raise
        if self.breaks_with is not None:
            raise self.breaks_with
        spec = request.model.spec
        return measured_profile(
            spec.name,
            cores=len(request.cores),
            hardware=request.device.hardware,
            engine=spec.engine_kind,
        )


def ignored(*_: object) -> None:
    """Take what is told, and do nothing."""


async def a_moment(turns: int = 25) -> None:
    """Let tasks run that are ready to run."""
    for _ in range(turns):
        await asyncio.sleep(0)


def start_timed_out() -> StartTimedOutError:
    return StartTimedOutError("it did not become ready within 600 s.", hint="See its log.")


async def solved(request: PlanRequest, **_: object) -> Plan | Infeasible:
    return solve(request)


def plan_maker(
    store: Store,
    solve: Solve = solved,
    options: PlanOptions | None = None,
    architecture_of: ArchitectureOf | None = None,
) -> PlanMaker:
    """A maker of plans for demands as they are given and profiles as they were measured."""
    return PlanMaker(
        store=store,
        clock=FakeClock(),
        corrections=dict,
        effective=lambda spec: spec,
        solve=solve,
        options=PlanOptions() if options is None else options,
        architecture_of=architecture_of,
        derivations=Derivations(architecture_of),
    )

"""Runs the loop: observe, reconcile, act, publish; one task, one writer.

It wakes at once when an engine became ready or ended, when a plan was applied, when a model's
files arrived or a job gave its lease back, and otherwise every `loop_seconds`.
"""

import asyncio
import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from partitiond.controller.journal import Journal
from partitiond.controller.limits import ControllerPolicy
from partitiond.controller.runtime.adoption import (
    is_countable,
    is_unread,
    plan_of_running,
    room_beside,
    unknown_handles,
    unread_placement,
)
from partitiond.controller.runtime.engine_matching import (
    by_replica,
    flights_of,
    held,
    is_engine_of,
    own_engine,
    routed,
)
from partitiond.controller.runtime.engines import Engine
from partitiond.controller.runtime.expectations import Expectations
from partitiond.controller.runtime.faults import FaultWatch
from partitiond.controller.runtime.launches import (
    engine_name,
    form_of,
    launch_for,
    lists_form,
    on_same_host,
)
from partitiond.controller.runtime.memory_watch import MemoryWatch
from partitiond.controller.runtime.proxy_process import Endpoint
from partitiond.controller.runtime.routes import KeyRoutes, RoutePolicy, routing_from
from partitiond.controller.runtime.sleeping import SleepController, serving_since, waited_models
from partitiond.controller.runtime.start_times import StartTimes
from partitiond.controller.runtime.watching import DeviceWatch, ModelFiles
from partitiond.core.errors import PartitiondError
from partitiond.core.hardware.host_state import FINE, HostStanding
from partitiond.core.hardware.hosts import hosts_of
from partitiond.core.hardware.partition import Partition
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.numbers.grouping import grouped
from partitiond.core.plan.record import Placement, Plan, same_engine
from partitiond.core.profile.jobs import AwaitedLook, awaited_by_all
from partitiond.core.replica.engine import EngineHandle
from partitiond.core.replica.leases import Lease, lent_there
from partitiond.core.replica.lost import refused
from partitiond.core.replica.observation import (
    Action,
    DrainReplica,
    ForgetReplica,
    Observation,
    QuiesceReplica,
    SleepReplica,
    StartEngine,
    StopEngine,
    StopReason,
    WakeReplica,
)
from partitiond.core.replica.reconcile import reconcile
from partitiond.core.replica.states import ReplicaState
from partitiond.metrics.exposition import Metrics
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.ports import (
    Clock,
    EngineRunner,
    PartitionWatch,
    ReturningEngines,
)
from partitiond.store import Store

log = logging.getLogger(__name__)

_FINISHING: Final = frozenset({ReplicaState.DRAINING, ReplicaState.QUIESCING})
"""States of an engine that gets no new requests and finishes those in flight."""


STARTS_PER_PASS: Final = 8
"""Engines begun in one pass. Each takes a millisecond of CPU, in which no request is answered."""


def limit_starts(actions: Sequence[Action]) -> tuple[Action, ...]:
    """Return what is done in one pass: all but the starts beyond the first `STARTS_PER_PASS`.

    The next pass decides again and finds the remaining starts: a start that was not begun changes
    nothing of what is observed.
    """
    starts = [action for action in actions if isinstance(action, StartEngine)]
    later = {id(action) for action in starts[STARTS_PER_PASS:]}
    return tuple(action for action in actions if id(action) not in later)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoopCallbacks:
    """Holds what the loop asks of other parts, and tells them.

    Attributes:
        lent: returns what is lent to profile jobs now.
        measuring: returns the devices on which a profile job starts its engine now.
        awaited: returns the first looks that models which are not measured yet wait for, by model.
        spec_for: returns the specification that a placement was planned with, from the present one.
        withheld: returns whether an engine of a placement is not to be started
            (`core.replica.obstacles`), as it is now.
        failed_before: returns the failed starts in a row of a placement that has no record.
        after_pass: called after each pass that went well, until everything ends.
        looked: called after every pass.
        replacing: called when an applied plan replaces another one.
    """

    lent: Callable[[], Sequence[Lease]]
    measuring: Callable[[], Sequence[str]]
    awaited: Callable[[], Mapping[str, AwaitedLook]]
    spec_for: Callable[[ModelSpec, Placement], ModelSpec]
    withheld: Callable[[], Callable[[Placement], bool]]
    failed_before: Callable[[Placement], int]
    after_pass: Callable[[], None]
    looked: Callable[[], None]
    replacing: Callable[[Plan, Plan], None]


class Controller:
    """Makes the host run what the applied plan says.

    Attributes:
        engines: every known engine, ended ones included until they are forgotten.
        sleep: knows which models are to sleep.
        faults: knows which devices are broken.
        memory: knows which engines have outgrown their shares.
        plan: the applied plan.
        problem: why the last pass broke; empty if it went well.
        passed_at: when the last pass ended, well or not (monotonic seconds).
        withheld: as `LoopCallbacks.withheld`.
        reconcile_policy: bounds of the reconciler.
    """

    def __init__(
        self,
        *,
        store: Store,
        runner: EngineRunner,
        endpoint: Endpoint,
        devices: DeviceWatch,
        files: ModelFiles,
        clock: Clock,
        journal: Journal,
        policy: ControllerPolicy,
        routes: RoutePolicy,
        wake: asyncio.Event,
        sleep: SleepController,
        callbacks: LoopCallbacks,
        observer: Metrics | None = None,
        partitions: PartitionWatch | None = None,
    ) -> None:
        self.sleep = sleep
        self.withheld = callbacks.withheld
        self._callbacks = callbacks
        self.faults = FaultWatch(partitions, journal=journal, policy=policy, wake=wake.set)
        self.memory = MemoryWatch(
            partitions,
            runner=runner,
            engines=lambda: self.engines,
            journal=journal,
            policy=policy,
            wake=wake.set,
        )
        self._store = store
        self._runner = runner
        self._endpoint = endpoint
        self._devices = devices
        self._files = files
        self._clock = clock
        self._journal = journal
        self._policy = policy
        self.reconcile_policy = policy.reconcile
        self._routes = routes
        self._key_routes = KeyRoutes()
        self._expected = Expectations(store)
        self._start_times = StartTimes(store)
        self._wake = wake
        self._observer = observer
        self._starts: dict[str, int] = {}
        self._failed: set[str] = set()
        self._doubted: dict[str, int] = {}
        self._promised: dict[str, str] = {}
        self._counted_at = -math.inf
        self._closing = False
        self._profiled: set[asyncio.Task[None]] = set()
        self.engines: list[Engine] = []
        self.plan: Plan | None = store.plan()
        # If the applied plan cannot be read, the engines that run are kept in its place.
        self._lost_plan = store.plan_id() if self.plan is None else ""
        self._told_unread = 0
        self._devices.remember(self.plan.devices if self.plan is not None else ())
        self.problem = "the first pass is not over"
        self.passed_at = clock.monotonic()

    @property
    def desired(self) -> tuple[Placement, ...]:
        """Placements that should have an engine now: the applied plan's; none in a shutdown."""
        return () if self._closing or self.plan is None else self.plan.wanted

    @property
    def has_plan(self) -> bool:
        """Whether a plan was ever applied, be it one that cannot be read any more."""
        return self.plan is not None or bool(self._lost_plan)

    @property
    def stalled(self) -> str:
        """Why the loop counts as stalled: no pass has ended for long; empty if one has."""
        seconds = self._clock.monotonic() - self.passed_at
        if seconds < self._policy.stalled_seconds:
            return ""
        return f"no pass of the loop has ended for {seconds:.0f} s"

    def wake(self) -> None:
        """Look again now."""
        self._wake.set()

    def use(self, routes: RoutePolicy, *, drain_deadline_seconds: float) -> None:
        """Take over limits of re-read settings; the next pass publishes them."""
        self._routes = routes
        if not self._closing:
            self.reconcile_policy = dataclasses.replace(
                self.reconcile_policy, drain_deadline_seconds=drain_deadline_seconds
            )
        self.wake()

    def apply(self, plan: Plan) -> None:
        """Make a plan the one to run, in the store first."""
        self._store.set_plan(plan)
        reached(FaultPoint.PLAN_STORED)
        before, self.plan = self.plan, plan
        self._devices.remember(plan.devices)
        self._promise_names()
        if before is not None:
            self._callbacks.replacing(before, plan)
        names = [record.spec.name for record in self._store.models()]
        self._journal.plan_applied(plan, before, self._devices.devices, names)
        self.wake()

    def leases(self) -> tuple[Partition, ...]:
        """Partitions that are lent to profile jobs now."""
        return tuple(lease.partition for lease in self._callbacks.lent())

    def held(self) -> tuple[tuple[str, Partition], ...]:
        """Return (name, partition) of live engines, and of wanted placements that have none."""
        return held(self.desired, self.engines, self.sleep.levels, self.names())

    def refused(self) -> tuple[Placement, ...]:
        """Return the wanted placements whose devices refuse them: see `core.replica.lost`."""
        return refused(self.desired, [engine.observed() for engine in self.engines])

    def name_for(self, placement: Placement) -> str:
        """Return the name of a wanted replica's engine, also if that is still to start.

        The name is promised when the plan is applied, and kept over restarts of the engine: a
        pending engine has the same name before and after it has started.
        """
        return self.names()(placement)

    def names(self) -> Callable[[Placement], str]:
        """Return `name_for` for many placements at once, valid while no engine comes or goes."""
        of_replica = by_replica(self.engines)
        taken = {engine.name for engine in self.engines}

        def name_of(placement: Placement) -> str:
            own = own_engine(placement, of_replica.get(placement.replica_id, ()))
            if own is not None:
                return own.name
            promised = self._promised.get(placement.replica_id, "")
            if promised and promised not in taken:
                return promised
            return engine_name(placement.replica_id, taken)

        return name_of

    def _promise_names(self) -> None:
        names = self.names()
        self._promised = {p.replica_id: names(p) for p in self.desired}

    async def adopt(self) -> None:
        """Take over the engines that run already; return once they answered, or time is up.

        Engines without a placement were started by a profile job that ended with its daemon; they
        are stopped. Engines that the plan does not want are taken over, too: the loop drains them.
        The loop also drains engines whose launch cannot be read. Only engines of this state folder
        are ever found.
        """
        handles = await self._runner.find()
        reached(FaultPoint.ENGINES_FOUND)
        await self._take_over(handles)
        if self._lost_plan:
            self._keep_what_runs()
        self._promise_names()
        waits = [asyncio.ensure_future(engine.settled.wait()) for engine in self.engines]
        if waits:
            await asyncio.wait(waits, timeout=self._policy.adopt_seconds)
        for wait in waits:
            wait.cancel()
        reached(FaultPoint.ENGINES_ADOPTED)

    async def _take_over(self, handles: Sequence[EngineHandle]) -> None:
        for handle in handles:
            if handle.launch.placement is None and not handle.unread:
                ending = asyncio.create_task(self._end_profiled(handle), name="end an engine")
                self._profiled.add(ending)
                ending.add_done_callback(self._profiled.discard)
        counts = await self._endpoint.in_flight(handle.host for handle in handles)
        taken = {engine.name for engine in self.engines}
        wanted = grouped(self.desired, lambda placement: placement.replica_id)
        with self._journal.one_transaction():
            for handle in handles:
                name, placement = handle.launch.replica_id, handle.launch.placement
                if handle.unread:
                    self._drain_unread(handle)
                elif placement is not None:
                    known = counts[handle.host] or {}
                    in_flight = known.get(name) if handle.named else None
                    # Its name is taken if the replica was started elsewhere while its host was
                    # away.
                    name = engine_name(name, taken)
                    places = wanted.get(placement.replica_id, ())
                    self._adopt(
                        handle,
                        placement,
                        name=name,
                        in_flight=in_flight,
                        wanted=any(same_engine(placement, place) for place in places),
                    )
                taken.add(name)

    async def _end_profiled(self, handle: EngineHandle) -> None:
        """End an engine that a profile job left, however often it takes. Nothing waits for it but
        the end of everything, which leaves it after some tries as it does any other.
        """
        said, tries = "", 0
        while not (self._closing and tries >= self._policy.stop_tries_at_exit):
            try:
                await self._runner.stop(handle, 0.0)
            except Exception as error:  # noqa: BLE001 - whatever broke, somebody must try again
                tries += 1
                if str(error) != said:
                    said = str(error)
                    self._journal.note("engine-lingers", handle.launch.replica_id, said)
                await asyncio.sleep(self._policy.stop_retry_seconds)
            else:
                return
        self._journal.note("engine-left", handle.launch.replica_id, said)

    def unheard(self, placements: Iterable[Placement]) -> tuple[Placement, ...]:
        """Return those whose engines may run on hosts of which it is not known what runs there."""
        away = self.unheard_devices()
        return tuple(placement for placement in placements if placement.device_id in away)

    def unheard_devices(self) -> frozenset[str]:
        """Return the devices of hosts of which it is not known what runs there."""
        runner, devices = self._runner, self._devices.devices
        if not isinstance(runner, ReturningEngines):
            return frozenset()
        away = {host for host in hosts_of(devices) if not runner.knows(host)}
        return frozenset(device.id for device in devices if device.host in away)

    async def _adopt_returned(self) -> None:
        """Take over the engines of hosts that answer again, as far as they are not known; let go
        of those whose hosts are lost.
        """
        standings = self._devices.hosts()
        if not isinstance(self._runner, ReturningEngines):
            return
        self._lose_engines(standings)
        returned = await self._runner.returned()
        found = unknown_handles(returned, self.engines)
        # Starts of which no word came back, and engines of a host that was lost, are records of
        # failures: here they are after all.
        here = {handle.identity for handle in found}
        self.engines = [e for e in self.engines if e.live or e.identity not in here]
        await self._take_over(found)

    def _lose_engines(self, standings: Mapping[str, HostStanding]) -> None:
        """Count the engines of hosts that are lost as gone, so that nothing waits for them."""
        gone = {name: standing.reason for name, standing in standings.items() if standing.gone}
        if standings:  # there are several hosts: one that is missing was taken out of the fleet
            out = {e.host for e in self.engines if e.live and e.host} - standings.keys()
            gone |= {host: f"the host {host} is no part of the fleet any more." for host in out}
        lost = [engine for engine in self.engines if engine.live and engine.host in gone]
        for engine in lost:
            engine.lose(gone[engine.host])

    def _adopt(
        self,
        handle: EngineHandle,
        placement: Placement,
        *,
        name: str,
        in_flight: int | None,
        wanted: bool,
    ) -> None:
        engine = self._engine(name, placement)
        engine.adopt(handle, in_flight)
        self.engines.append(engine)
        note = "keeps it" if wanted else "it is not wanted any more"
        self._journal.note("engine-adopted", engine.name, f"found running; {note}.")

    def _keep_what_runs(self) -> None:
        """Make the adopted engines the plan until one is applied: the lost plan must end none."""
        running = [engine.placement for engine in self.engines if not is_unread(engine)]
        devices = self._devices.devices
        self.plan = plan_of_running(running, devices, self._lost_plan, self._clock.utc_iso())

    def name_devices(self) -> None:
        """Put the devices into the plan of what runs, which was made before the first look."""
        if self._lost_plan and self.plan is not None and not self.plan.devices:
            self.plan = dataclasses.replace(self.plan, devices=self._devices.devices)

    def _drain_unread(self, handle: EngineHandle) -> None:
        engine = self._engine(handle.launch.replica_id, unread_placement(handle))
        self._journal.note(
            "engine-unreadable",
            engine.name,
            "runs, but what it was started with cannot be read (another release wrote it?): it "
            f"gets no new requests, and ends once it is idle. {handle.unread}",
        )
        engine.adopt(handle)
        self.engines.append(engine)

    async def run(self) -> None:
        """Make passes until cancelled."""
        self.passed_at = self._clock.monotonic()
        watches = [
            asyncio.create_task(self.faults.run(), name="fault watch"),
            asyncio.create_task(self.memory.run(), name="memory watch"),
            asyncio.create_task(
                self.sleep.run(lambda: serving_since(self.desired, self.engines)),
                name="sleep watch",
            ),
        ]
        try:
            while True:
                self._wake.clear()
                await self.one_pass()
                await asyncio.sleep(0)  # other tasks have a turn, even if the next pass is due
                await self._pause()
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _pause(self) -> None:
        # asyncio.timeout, because before Python 3.12 wait_for can lose a cancellation.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._policy.loop_seconds):
                await self._wake.wait()

    async def one_pass(self) -> None:
        """Observe, reconcile, act, publish. A failure is shown, and the next pass tries again."""
        began = self._clock.monotonic()
        actions: tuple[Action, ...] = ()
        try:
            actions = await self._pass()
        except PartitiondError as error:
            self._broke(str(error))
        except Exception as error:
            # Only the loop restarts engines: a defect in one pass must not end the loop.
            log.exception("a pass of the loop broke")
            self._broke(f"{type(error).__name__}: {error}")
        else:
            self.problem = ""
        self.passed_at = self._clock.monotonic()
        if self._observer is not None:
            self._observer.passed(self.passed_at - began, actions)
        self._callbacks.looked()

    def _broke(self, problem: str) -> None:
        if problem != self.problem:
            self._journal.note("loop-broke", "loop", problem)
        self.problem = problem

    async def _pass(self) -> tuple[Action, ...]:
        self._tell_unread()
        await self._endpoint.keep_running()
        await self._devices.refresh(self._device_age())
        await self._adopt_returned()
        await self._count_in_flight()
        while not (age := self._device_age()):  # it failed meanwhile
            await self._devices.refresh(age)
        # Nothing is awaited from here to the last act: what was observed still holds.
        records = self._store.models()
        levels = self.sleep.refresh()
        observed = self.observe()
        desired, policy = self.desired, self.reconcile_policy
        devices = self._devices.devices
        gains = self._expected.gains(records, desired, observed.replicas, devices)
        decided = reconcile(desired, observed, policy, levels, gains)
        actions = limit_starts(decided)
        if len(actions) < len(decided):
            self.wake()  # the others follow at once, after tasks that wait for the event loop
        with self._journal.one_transaction():
            for action in actions:
                self._act(action, records)
        now = [engine.observed() for engine in self.engines]
        awake = [placement for placement in desired if placement.model not in levels]
        auto = {record.spec.name for record in records if record.spec.auto}
        unplanned = auto - {placement.model for placement in desired} - levels.keys()
        looks = awaited_by_all(self._callbacks.awaited(), unplanned)
        await self._endpoint.publish(
            routing_from(
                desired=desired,
                engines=[*map(routed, self.engines, now)],
                models=records,
                keys=self._key_routes.of(self._store.keys()),
                policy=self._routes,
                version=0,
                asleep=levels.keys(),
                waited_for=waited_models(records, levels, self.engines),
                ready_at=self._expected.ready_at(awake, now, policy, observed, looks),
                starts=self._start_times.seconds(),
                looks=looks,
                ending=self._closing,
            )
        )
        told = self._endpoint.routed() or ()
        for engine in self.engines:
            if engine.generation in told:
                engine.note_routed()
        if not self._closing:  # in a shutdown nothing is planned: `desired` is then not the plan
            self._callbacks.after_pass()
        return actions

    def _device_age(self) -> float:
        """Return how old what is seen of devices may be, in seconds: a device may have taken along
        what failed, and is looked at before anything is started again there.
        """
        before = self._failed
        self._failed = {e.generation for e in self.engines if e.state is ReplicaState.FAILED}
        return self._policy.device_seconds if self._failed <= before else 0.0

    def _tell_unread(self) -> None:
        unread = self._store.unread()
        for body in unread[self._told_unread :]:
            self._journal.note("body-set-aside", body.what, body.problem)
        self._told_unread = len(unread)

    async def _count_in_flight(self) -> None:
        """Ask the proxy; a draining engine counts only once the proxy knows that it drains."""
        now = self._clock.monotonic()
        draining = any(engine.state in _FINISHING for engine in self.engines)
        if not draining and now - self._counted_at < self._policy.count_seconds:
            return
        routed = self._endpoint.routed()
        counts = await self._endpoint.in_flight(
            engine.host for engine in self.engines if engine.live
        )
        self._counted_at = now
        for engine in self.engines:
            told = routed is not None and engine.generation not in routed
            believed = engine.state not in _FINISHING or told
            known = believed and engine.live and is_countable(engine)
            engine.in_flight = flights_of(engine, counts) if known else None

    def observe(self) -> Observation:
        """Return what the reconciler decides from; also have missing files fetched."""
        specs = {record.spec.name: record.spec for record in self._store.models()}
        withheld = self.withheld()
        forms: dict[str, ModelSpec] = {}
        unknown = set()
        for placement in self.desired:
            spec = specs.get(placement.model)
            if spec is None or not lists_form(self._callbacks.spec_for(spec, placement), placement):
                unknown.add(placement.form)
            else:
                forms[placement.form] = form_of(
                    self._callbacks.spec_for(spec, placement), placement
                )
        missing = self._files.missing(forms)
        there = {key: spec for key, spec in forms.items() if key not in missing}
        return Observation(
            replicas=tuple(engine.observed() for engine in self.engines),
            devices=room_beside(self.engines, self._devices.room(self.plan)),
            now=self._clock.monotonic(),
            leases=self.leases(),
            measuring=tuple(self._callbacks.measuring()),
            start_cores=self._devices.start_cores,
            not_ready=(*missing, *sorted(unknown)),
            without_files=self._without_files(there),
            faulted=tuple(sorted(self.faults.reasons)),
            withheld=tuple(
                p.replica_id
                for p in self.desired
                if withheld(p) and not self._devices.is_silent(p.device_id)
            ),
            outgrown=tuple(sorted(self.memory.outgrown)),
        )

    def _without_files(self, forms: Mapping[str, ModelSpec]) -> tuple[str, ...]:
        """Return the replicas whose host lacks the files of these forms; have them brought there.

        Nothing is known of the host of a device that is not there.
        """
        if not self._files.brings:
            return ()
        hosts = self.hosts()
        wanted = [(p, hosts.get(p.device_id, "")) for p in self.desired if p.form in forms]
        return tuple(
            p.replica_id
            for p, host in wanted
            if host and self._files.get(forms[p.form], p.form, host) is None
        )

    def hosts(self) -> Mapping[str, str]:
        """Return the host of each device, by its id."""
        return {device.id: device.host for device in self._devices.devices}

    def _act(self, action: Action, records: Sequence[ModelRecord]) -> None:
        match action:
            case StartEngine(placement=placement):
                self._start(placement, records)
            case DrainReplica(replica_id=replica_id, generation=generation):
                self._find(replica_id, generation).drain()
            case QuiesceReplica(replica_id=replica_id, generation=generation):
                self._find(replica_id, generation).rest()
            case SleepReplica(replica_id=replica_id, generation=generation, level=level):
                self._find(replica_id, generation).sleep(level)
            case WakeReplica(replica_id=replica_id, generation=generation):
                self._find(replica_id, generation).wake()
            case StopEngine(reason=reason, grace_seconds=grace):
                engine = self._find(action.replica_id, action.generation)
                engine.stop(reason, grace, self.faults.reasons.get(engine.placement.device_id, ""))
            case ForgetReplica(replica_id=replica_id, generation=generation):
                self.engines.remove(self._find(replica_id, generation))

    def _find(self, replica_id: str, generation: str) -> Engine:
        return next(
            engine
            for engine in self.engines
            if engine.placement.replica_id == replica_id and engine.generation == generation
        )

    def _start(self, placement: Placement, records: Sequence[ModelRecord]) -> None:
        now = next(record.spec for record in records if record.spec.name == placement.model)
        spec = self._callbacks.spec_for(now, placement)
        device = self._devices.find(placement.device_id)
        host = device.host if device is not None else ""
        model = self._files.get(form_of(spec, placement), placement.form, host)
        if model is None or device is None:
            return  # one of them went away within this pass; the next pass sees it
        name = self.name_for(placement)
        # The next start takes over the failures of these.
        old = [e for e in self.engines if not e.live and is_engine_of(e, placement)]
        if self._files.brings and self._doubts_files(placement, host, old):
            return
        self.engines = [engine for engine in self.engines if engine not in old]
        engine = self._engine(name, placement, old)
        live = [e.launch for e in self.engines if e.live and e.launch is not None]
        self.engines.append(engine)
        devices = self._devices.devices
        engine.begin(
            launch_for(
                placement,
                model,
                device,
                name=name,
                others=on_same_host(device, devices, live),
                lent=lent_there(device, devices, self._callbacks.lent()),
            )
        )
        self._starts[placement.replica_id] = engine.starts

    def _doubts_files(self, placement: Placement, host: str, old: Sequence[Engine]) -> bool:
        """Whether the host is asked for the files once more, because an engine failed there: the
        host may have lost them.
        """
        failures = max((e.failures for e in old), default=0)
        if not failures or self._doubted.get(placement.replica_id) == failures:
            return False
        self._doubted[placement.replica_id] = failures
        self._files.look_again(placement.form, host)
        return True

    def _engine(self, name: str, placement: Placement, old: Sequence[Engine] = ()) -> Engine:
        """Return a new engine, which takes over the failures of its records."""
        before = [e.failed_starts for e in old] or [self._callbacks.failed_before(placement)]
        return Engine(
            name,
            placement,
            runner=self._runner,
            clock=self._clock,
            policy=self._policy,
            note=self._journal.note,
            wake=self.wake,
            started=lambda model, seconds: self._start_times.note(model, seconds, self._clock),
            failures=max((e.failures for e in old), default=0),
            failed_starts=max(before),
            failure=old[-1].failure if old else "",
            refused=any(e.refused for e in old),
            starts=self._starts.get(placement.replica_id, 0),
        )

    def hurry(self) -> None:
        """Let no drain wait any longer: the shutdown was asked for a second time."""
        self.reconcile_policy = dataclasses.replace(
            self.reconcile_policy, drain_deadline_seconds=0.0
        )
        for engine in self.engines:
            if engine.state is ReplicaState.DRAINING:
                engine.stop(StopReason.DRAIN_DEADLINE, 0.0)

    async def stop_everything(self) -> None:
        """Drain and stop every engine; returns once nothing of them is left.

        An engine that cannot be ended (a process that the kernel does not let go) is left after
        some tries, with an event, and one whose host does not answer at once; the next daemon finds
        it.
        """
        self._closing = True
        self.wake()
        while self._to_wait_for():
            self._wake.clear()
            await self.one_pass()
            if self._to_wait_for():
                await self._pause()
        for engine in self.engines:
            if engine.live:
                why = self._devices.hosts().get(engine.host, FINE).reason or engine.last_error
                self._journal.note("engine-left", engine.name, why)
                await engine.detach()
            await engine.ended()
        await asyncio.gather(*self._profiled)

    async def tidy(self) -> None:
        """Clear the run folders of ended engines; their logs stay."""
        await self._runner.find()

    def _to_wait_for(self) -> bool:
        tries, standings = self._policy.stop_tries_at_exit, self._devices.hosts()
        return any(
            engine.live and engine.failed_stops < tries and standings.get(engine.host, FINE).answers
            for engine in self.engines
        )

    async def _leave_profiled(self) -> None:
        for ending in tuple(self._profiled):
            ending.cancel()
        await asyncio.gather(*self._profiled, return_exceptions=True)

    async def detach(self) -> None:
        """Leave the engines running for the next daemon."""
        await self._leave_profiled()
        await asyncio.gather(*(engine.detach() for engine in self.engines))

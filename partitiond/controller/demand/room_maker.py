"""Makes room for models that requests wait for, as `core.replica.step_down` decides."""

import asyncio
import dataclasses
import logging
import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from partitiond.controller.demand.room_held import (
    MIN_START_SECONDS,
    Rooms,
    free_room,
    held_by_model,
    host_places,
    level_held,
    need_of,
    needs_of,
    one_byte_more,
    steps_of,
)
from partitiond.controller.demand.scaling import Scaling
from partitiond.controller.journal import Journal
from partitiond.controller.profiles.targets import best_profiles
from partitiond.controller.runtime.engines import Engine
from partitiond.controller.runtime.loop import Controller
from partitiond.controller.runtime.sleeping import given_up
from partitiond.controller.runtime.start_times import StartTimes
from partitiond.controller.runtime.watching import DeviceWatch, room_on
from partitiond.core.errors import PartitiondError
from partitiond.core.hardware.kinds import Device, DeviceKind
from partitiond.core.model.spec import ModelSpec
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.diff import START_SECONDS
from partitiond.core.plan.record import Placement, Plan
from partitiond.core.replica.obstacles import Obstacle
from partitiond.core.replica.sleep import STOPPED, Traffic, scales_to_zero
from partitiond.core.replica.states import ReplicaState
from partitiond.core.replica.step_down import (
    Grant,
    Resident,
    RoomNeed,
    Waiter,
    counted_seconds,
    expected_rate,
    readiness,
)
from partitiond.planner.model.candidates import candidates_for
from partitiond.planner.model.draw import most_host_cores
from partitiond.ports import Clock
from partitiond.store import Store

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""Pause between two looks at models that were woken and have no place."""
PLACING_SECONDS: Final = 5.0
"""A model that was woken and has no place after so long gets more room, or goes back to zero."""
VAIN_SECONDS: Final = 300.0
"""Pause before a model asks again that had room, and that no plan placed. Chosen, not measured: it
may have taken a busy model's room, and every request of that one then waits for a start."""
NEEDS_SECONDS: Final = 2.0
"""Age at which the needs of a waiting model are looked up again. Waiting models are asked about ten
times a second: with dozens of them the control plane would do little else."""
WAKE_SECONDS: Final = 2.0
"""What waking is taken to last. Not measured here: others found 0.1 to 6 s on GPUs."""
_NOBODY: Final = Traffic(waiting=0, idle_seconds=0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class _KnownNeeds:
    at: float
    plan: Plan | None
    devices: tuple[Device, ...]
    needs: tuple[RoomNeed, ...]


class RoomMaker:
    """Has `core.replica.step_down` decide which models get room, and acts on it.

    Attributes:
        plan_again: called when room was made for a model that found none in the plan.
        planning: whether a plan is being made, or is about to be.
        obstacles: what keeps models from running, by name.
        host_memory: memory for engines by host, as far as it is known.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        journal: Journal,
        controller: Controller,
        devices: DeviceWatch,
        scaling: Scaling,
        plan_again: Callable[[], None],
        planning: Callable[[], bool],
        host_memory: Callable[[], Mapping[str, int]],
        obstacles: Callable[[], Mapping[str, Obstacle]] = dict,
    ) -> None:
        self._store = store
        self._clock = clock
        self._journal = journal
        self._controller = controller
        self._sleep = controller.sleep
        self._devices = devices
        self._scaling = scaling
        self._plan_again = plan_again
        self._planning = planning
        self._host_memory = host_memory
        self._obstacles = obstacles
        self._homeless: dict[str, float] = {}
        self._woken: set[str] = set()
        self._pauses: dict[str, float] = {}
        self._promised: dict[str, RoomNeed] = {}
        self._start_times = StartTimes(store)
        self._told: set[str] = set()
        self._known_needs: dict[str, _KnownNeeds] = {}

    async def run(self) -> None:
        """Look periodically, until cancelled, for models that were woken and have no place."""
        while True:
            try:
                self.make_more_room()
            except PartitiondError as error:
                log.warning("cannot see who waits for room: %s", error)
            except Exception:
                log.exception("the watch over models without room broke")
            await asyncio.sleep(LOOK_SECONDS)

    def make_room(self, waited_seconds: Mapping[str, float]) -> frozenset[str]:
        """Make room for models before they are woken; return those that have it, now or after that.

        Args:
            waited_seconds: how long requests for each model have waited.
        """
        specs = self._specs()
        waiters, unknown = [], set()
        for model, waited in waited_seconds.items():
            obstacle = self._obstacles().get(model)
            if obstacle is not None and not self._own(model):
                self._tell(model, str(obstacle))  # no model is evicted for one that cannot run
                continue
            if self._clock.monotonic() < self._pauses.get(model, -math.inf):
                continue
            needs = self._needs(model)
            if needs:
                waiters.append(self._waiter(specs[model], needs, waited))
            else:
                unknown.add(model)  # its needs are not known: the plan has to say
        self._woken |= unknown
        if not waiters:
            return frozenset(unknown)
        held = self._held()
        found = readiness(
            waiters,
            self._residents(specs, held),
            self._free(waited_seconds, held),
            least_idle_seconds=self._scaling.options.evict_idle_seconds,
        )
        for model, why in found.waiting.items():
            self._tell(model, f"{why}.")
        for grant in found.granted:
            self._told.discard(grant.model)
            self._step_down(grant)
            self._promised[grant.model] = grant.need
            self._homeless[grant.model] = self._clock.monotonic()
            self._woken.add(grant.model)
        return frozenset({*unknown, *(grant.model for grant in found.granted)})

    def _specs(self) -> Mapping[str, ModelSpec]:
        return {record.spec.name: record.spec for record in self._store.models()}

    def _waiter(self, spec: ModelSpec, needs: tuple[RoomNeed, ...], waited: float) -> Waiter:
        sleeps = 0 < self._sleep.levels.get(spec.name, 0) < STOPPED
        seconds = WAKE_SECONDS if sleeps else self._start_seconds(spec)
        return Waiter(spec.name, needs, waited, seconds, spec.rules.priority)

    def awaited(self) -> frozenset[str]:
        """Models that were woken, or that requests wait for, and that have no place."""
        levels = self._sleep.levels
        placed = {p.model for p in self._placements()}
        traffic = self._sleep.traffic
        asked = {m for m in self._homeless if traffic.get(m, _NOBODY).waiting > 0}
        return frozenset(self._woken | asked) - placed - levels.keys()

    def _tell(self, model: str, why: str) -> None:
        if model not in self._told:
            self._told.add(model)
            self._journal.note("model-waits", model, why)

    def make_more_room(self) -> None:
        """Make more room for woken models without a place; those without requests go to zero."""
        specs = {name: spec for name, spec in self._specs().items() if scales_to_zero(spec)}
        placed = {p.model for p in self._placements()}
        levels, now = self._sleep.levels, self._clock.monotonic()
        self._told &= levels.keys()
        self._known_needs = {m: k for m, k in self._known_needs.items() if m in specs}
        homeless = [name for name in specs if name not in levels and name not in placed]
        self._promised = {m: need for m, need in self._promised.items() if m in homeless}
        self._homeless = {name: self._homeless.get(name, now) for name in homeless}
        self._woken &= self._homeless.keys()
        self._pauses = {m: end for m, end in self._pauses.items() if m in specs and m not in placed}
        for name in homeless:
            if self._planning() or now - self._homeless[name] < PLACING_SECONDS:
                continue
            self._homeless[name] = now
            if self._sleep.traffic.get(name, _NOBODY).waiting == 0:
                self._sleep.put_to_sleep(name, STOPPED, "it found no room, and nobody waits for it")
            elif not self._evict_one_more(specs[name]) and self._needs(name):
                self._give_up(name)

    def _evict_one_more(self, spec: ModelSpec) -> bool:
        """Have the cheapest idle model step down: the plan found no room where some seemed to be.

        Returns:
            Whether there was one.
        """
        if spec.name in self._obstacles():
            return False
        held = self._held()
        free = self._free((spec.name,), held)
        found = readiness(
            [self._waiter(spec, one_byte_more(self._needs(spec.name), free), 0.0)],
            self._residents(self._specs(), held),
            free,
            least_idle_seconds=self._scaling.options.evict_idle_seconds,
        )
        for grant in found.granted:
            self._step_down(grant)
            self._plan_again()
        return bool(found.granted)

    def _give_up(self, model: str) -> None:
        """Send a model back to zero that no plan places: what it was promised is for others."""
        why = "no plan has a place for it"
        if model in self._promised:
            self._pauses[model] = self._clock.monotonic() + VAIN_SECONDS
            why = f"{why}; it asks for room again in {VAIN_SECONDS:g} s"
        self._sleep.put_to_sleep(model, STOPPED, why)

    def _step_down(self, grant: Grant) -> None:
        price, bound = 3600 * grant.price, 3600 * grant.bound
        why = f"makes room for {grant.model}: costs {price:.3g} s of waiting above the SLO an hour"
        why = f"{why}; no choice of those that step down first costs less than {bound:.3g} s"
        for model, step in grant.steps:
            self._sleep.put_to_sleep(model, step.level, why)

    def _placements(self) -> Sequence[Placement]:
        plan = self._controller.plan
        return plan.placements if plan is not None else ()

    def _own(self, model: str) -> list[Placement]:
        return [p for p in self._placements() if p.model == model]

    def _needs(self, model: str) -> tuple[RoomNeed, ...]:
        own = self._own(model)
        if own:  # no plan is made for the model: it comes back where it was
            first = min(own, key=lambda p: p.partition.memory_bytes)
            engines = {e.placement.model for e in self._controller.engines if e.live}
            level = self._sleep.levels.get(model, STOPPED) if model in engines else STOPPED
            return (need_of(first, level, self._places()),)
        plan, now = self._controller.plan, self._clock.monotonic()
        devices = self._devices.devices
        known = self._known_needs.get(model)
        same = known is not None and known.plan is plan and known.devices is devices
        if known is not None and same and now - known.at < NEEDS_SECONDS:
            return known.needs
        needs = self._needs_anew(model, plan)
        self._known_needs[model] = _KnownNeeds(now, plan, devices, needs)
        return needs

    def _needs_anew(self, model: str, plan: Plan | None) -> tuple[RoomNeed, ...]:
        spec = self._store.model(model).spec
        homes = [p for p in (plan.asleep if plan is not None else ()) if p.model == model]
        devices = self._devices.devices
        hardware = {device.hardware for device in devices}
        profiles = best_profiles(spec, self._store.profiles(model))
        cores = most_host_cores(devices)
        candidates = candidates_for(spec, profiles, hardware, most_cores=cores).candidates
        return needs_of((*candidates, *(home.candidate for home in homes)), devices)

    def _places(self) -> Mapping[str, str]:
        return host_places(self._devices.devices)

    def _held(self) -> Mapping[str, Rooms]:
        controller, places = self._controller, self._places()
        return held_by_model(controller.desired, controller.engines, self._sleep.levels, places)

    def _free(self, waiters: Collection[str], holders: Mapping[str, Rooms]) -> Rooms:
        """Return what is free, without what was promised to others than the waiters."""
        devices, plan = self._devices.devices, self._controller.plan
        promised = [
            dict(need.takes)
            for model, need in self._promised.items()
            if model not in {*waiters, *holders, *self._sleep.levels}
        ]
        return free_room(
            devices,
            dict(room_on(devices, plan, self._devices.problem)),
            self._host_memory(),
            [*holders.values(), *promised],
            self._controller.leases(),
        )

    def _residents(
        self, specs: Mapping[str, ModelSpec], held: Mapping[str, Rooms]
    ) -> tuple[Resident, ...]:
        """Models that hold room and may step down."""
        places = self._places()
        engines = by_key((e.placement.model, e) for e in self._controller.engines)
        found = []
        for model, spec in specs.items():
            if model not in held or not scales_to_zero(spec):
                continue
            traffic = self._sleep.traffic.get(model)
            idle = 0.0 if traffic is None or traffic.waiting else traffic.idle_seconds
            asleep = model in self._sleep.levels
            awake = [e.placement for e in engines[model] if level_held(e) == 0]
            start, slo = self._start_seconds(spec), spec.slo.ttft_seconds if spec.slo else 0.0
            wake = counted_seconds(WAKE_SECONDS, slo)
            steps = steps_of(
                held[model],
                awake if spec.engine.sleep_mode and not asleep else (),
                places,
                stop_seconds=counted_seconds(start, slo) - (wake if asleep else 0.0),
                wake_seconds=wake,
            )
            rate = expected_rate(self._scaling.req_per_s(model), idle)
            # Of a model that the proxy does not report, nobody knows whether it is idle.
            known = traffic is not None
            is_idle = asleep and idle > 0
            had = self._had_seconds(engines[model], asleep_idle=is_idle) if known else 0.0
            found.append(Resident(model, idle, rate, had, start, steps, spec.rules.priority))
        return tuple(found)

    def _had_seconds(self, own: Sequence[Engine], *, asleep_idle: bool) -> float:
        """Return for how long a model has had its room; 0 while it starts or wakes."""
        # A model that fails again and again must not hold its room as if it just started.
        if asleep_idle or any(given_up(engine) for engine in own):
            return math.inf
        since = [engine.since for engine in own if engine.state is ReplicaState.SERVING]
        return self._clock.monotonic() - min(since) if since else 0.0

    def _start_seconds(self, spec: ModelSpec) -> float:
        if starts := self._start_times.seconds():
            known = starts.get(spec.name)  # of one that is not known: as long as the others take
            return max(MIN_START_SECONDS, known or statistics.median(starts.values()))
        kinds = {device.kind for device in self._devices.devices}
        return START_SECONDS[DeviceKind.GPU if DeviceKind.GPU in kinds else DeviceKind.CPU]

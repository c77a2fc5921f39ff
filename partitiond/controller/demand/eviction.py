"""Evicts idle models for scaled-to-zero models with requests, or sends those back to zero."""

import asyncio
import dataclasses
import logging
import statistics
from collections.abc import Callable, Mapping
from typing import Final

from partitiond.controller.demand.room import (
    free_room,
    held_by_model,
    level_to_go_to,
    needs_of,
    room_of,
)
from partitiond.controller.demand.scaling import Scaling
from partitiond.controller.journal import Journal
from partitiond.controller.profiles.targets import best_profiles
from partitiond.controller.runtime.loop import Controller
from partitiond.controller.runtime.sleeping import given_up
from partitiond.controller.runtime.start_times import StartTimes
from partitiond.controller.runtime.watching import DeviceWatch, room_on
from partitiond.core.errors import PartitiondError
from partitiond.core.hardware.kinds import Device, DeviceKind
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.diff import START_SECONDS
from partitiond.core.plan.record import Placement, Plan
from partitiond.core.replica.eviction import (
    Resident,
    Room,
    RoomNeed,
    expected_rate,
    victims_for,
)
from partitiond.core.replica.obstacles import Obstacle
from partitiond.core.replica.sleep import STOPPED, Traffic, scales_to_zero
from partitiond.core.replica.states import ReplicaState
from partitiond.planner.model.candidates import candidates_for
from partitiond.planner.model.draw import most_host_cores
from partitiond.ports import Clock, Store

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""Pause between two looks at models that were woken and have no place."""
PLACING_SECONDS: Final = 5.0
"""A model that was woken and has no place after so long gets more room, or goes back to zero."""
STARTS_SECONDS: Final = 30.0
"""Age at which it is read again how long starts take. Chosen, not measured."""
NEEDS_SECONDS: Final = 2.0
"""Age at which the needs of a waiting model are looked up again. Waiting models are asked about ten
times a second: with dozens of them the control plane would do little else."""
MIN_START_SECONDS: Final = 0.1
"""Least duration of a start in the price of an eviction, so that none is free."""
_NOBODY: Final = Traffic(waiting=0, idle_seconds=0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class _KnownNeeds:
    at: float
    plan: Plan | None
    devices: tuple[Device, ...]
    needs: tuple[RoomNeed, ...]


class Evictor:
    """Decides by `core.replica.eviction` which models go to zero for which others.

    Attributes:
        plan_again: called when room was made for a model that found none in the plan.
        planning: whether a plan is being made, or is about to be.
        obstacles: what keeps models from running, by name.
        least_idle_seconds: a model that was asked for less long ago is not evicted.
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
        self._obstacles = obstacles
        self._homeless: dict[str, float] = {}
        self._woken: set[str] = set()
        self._promised: dict[str, RoomNeed] = {}
        self._starts: Mapping[str, float] = {}
        self._starts_at: float | None = None
        self._told: set[str] = set()
        self._known_needs: dict[str, _KnownNeeds] = {}

    async def run(self) -> None:
        """Look periodically, until cancelled, for models that were woken and have no place."""
        while True:
            try:
                self.look()
            except PartitiondError as error:
                log.warning("cannot see who waits for room: %s", error)
            except Exception:
                log.exception("the watch over models without room broke")
            await asyncio.sleep(LOOK_SECONDS)

    def make_room(self, model: str) -> bool:
        """Evict for a model before it is woken; return whether it has room, now or after that."""
        obstacle = self._obstacles().get(model)
        if obstacle is not None and not self._own(model):
            self._tell(model, str(obstacle))  # no model is evicted for one that cannot run
            return False
        needs = self._needs(model)
        if not needs:
            self._woken.add(model)
            return True  # its needs are not known: the plan has to say
        room = self._free(model)
        found = victims_for(
            needs, room, self._residents(model), least_idle_seconds=self._least_idle
        )
        if found is None:
            self._tell(model, "no room, and nobody is idle.")
            return False
        self._told.discard(model)
        self._evict(found, model)
        fitting = [need for need in needs if self._free(model)(need.device_id).covers(need.room)]
        self._promised[model] = (fitting or list(needs))[0]
        self._homeless[model] = self._clock.monotonic()
        self._woken.add(model)
        return True

    def awaited(self) -> frozenset[str]:
        """Models that were woken, or that requests wait for, and that have no place."""
        levels = self._sleep.levels
        plan = self._controller.plan
        placed = {p.model for p in (plan.placements if plan is not None else ())}
        traffic = self._sleep.traffic
        asked = {m for m in self._homeless if traffic.get(m, _NOBODY).waiting > 0}
        return frozenset(self._woken | asked) - placed - levels.keys()

    def _tell(self, model: str, why: str) -> None:
        if model not in self._told:
            self._told.add(model)
            self._journal.note("model-waits", model, why)

    def look(self) -> None:
        """Make more room for woken models without a place; those without requests go to zero."""
        specs = {r.spec.name: r.spec for r in self._store.models() if scales_to_zero(r.spec)}
        plan = self._controller.plan
        placed = {p.model for p in (plan.placements if plan is not None else ())}
        levels, now = self._sleep.levels, self._clock.monotonic()
        self._told &= levels.keys()
        self._known_needs = {m: k for m, k in self._known_needs.items() if m in specs}
        homeless = [name for name in specs if name not in levels and name not in placed]
        self._promised = {m: need for m, need in self._promised.items() if m in homeless}
        self._homeless = {name: self._homeless.get(name, now) for name in homeless}
        self._woken &= self._homeless.keys()
        for name in homeless:
            if self._planning() or now - self._homeless[name] < PLACING_SECONDS:
                continue
            self._homeless[name] = now
            if self._sleep.traffic.get(name, _NOBODY).waiting == 0:
                self._sleep.put_to_sleep(name, STOPPED, "it found no room, and nobody waits for it")
                continue
            self._evict_one_more(specs[name])

    def _evict_one_more(self, spec: ModelSpec) -> None:
        """Evict the cheapest model: the plan found no room where there seemed to be some."""
        devices = {need.device_id for need in self._needs(spec.name)}
        needs = [RoomNeed(device_id, Room(0)) for device_id in devices]

        def none(_device_id: str) -> Room:
            return Room(-1)

        found = victims_for(
            needs, none, self._residents(spec.name), least_idle_seconds=self._least_idle
        )
        if found:
            self._evict(found[:1], spec.name)
            self._plan_again()

    @property
    def _least_idle(self) -> float:
        return self._scaling.options.evict_idle_seconds

    def _evict(self, models: tuple[str, ...], asker: str) -> None:
        specs = {r.spec.name: r.spec for r in self._store.models()}
        for model in models:
            sleeps = specs[model].engine.sleep_mode and model not in self._sleep.levels
            engines = [e for e in self._controller.engines if e.live]
            own = [e.placement for e in engines if e.placement.model == model]
            level = level_to_go_to(own, can_sleep=sleeps)
            self._sleep.put_to_sleep(model, level, f"makes room for {asker}")

    def _own(self, model: str) -> list[Placement]:
        plan = self._controller.plan
        return [p for p in (plan.placements if plan is not None else ()) if p.model == model]

    def _needs(self, model: str) -> tuple[RoomNeed, ...]:
        own = self._own(model)
        if own:  # no plan is made for the model: it comes back where it was
            first = min(own, key=lambda p: p.partition.memory_bytes)
            return (RoomNeed(first.device_id, room_of(first.partition)),)
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

    def _held(self) -> dict[str, dict[str, Room]]:
        controller = self._controller
        return held_by_model(controller.desired, controller.engines, self._sleep.levels)

    def _free(self, asker: str) -> Callable[[str], Room]:
        """Return what is free on a device for the asker, without what others were promised."""
        devices, plan = self._devices.devices, self._controller.plan
        room = dict(room_on(devices, plan, self._devices.problem))
        holders = self._held()
        held = [own for model, own in holders.items() if model != asker]
        promised = [
            {need.device_id: need.room}
            for model, need in self._promised.items()
            if model not in {asker, *holders, *self._sleep.levels}
        ]
        return free_room(devices, room, [*held, *promised], self._controller.leases())

    def _residents(self, asker: str) -> tuple[Resident, ...]:
        """Models that hold room and may go to zero."""
        held, traffic = self._held(), self._sleep.traffic
        begun = {
            engine.placement.model
            for engine in self._controller.engines
            # A model that fails again and again must not hold its room as if it just started.
            if engine.state is ReplicaState.SERVING or given_up(engine)
        }
        found = []
        for record in self._store.models():
            spec = record.spec
            name = spec.name
            seen = traffic.get(name)
            if name == asker or name not in held or not scales_to_zero(spec):
                continue
            idle = 0.0 if seen is None or seen.waiting else seen.idle_seconds
            asleep = name in self._sleep.levels
            found.append(
                Resident(
                    model=name,
                    idle_seconds=idle,
                    rate_req_per_s=expected_rate(self._scaling.req_per_s(name), idle),
                    restart_seconds=self._restart_seconds(spec),
                    frees=tuple(held[name].items()),
                    busy=idle <= 0 or not (asleep or name in begun),
                )
            )
        return tuple(found)

    def _restart_seconds(self, spec: ModelSpec) -> float:
        now = self._clock.monotonic()
        if self._starts_at is None or now - self._starts_at > STARTS_SECONDS:
            self._starts = StartTimes(self._store).seconds()
            self._starts_at = now
        known = self._starts.get(spec.name)
        if known is not None:
            return max(MIN_START_SECONDS, known)
        if self._starts:  # not known: as long as the others take
            return max(MIN_START_SECONDS, statistics.median(self._starts.values()))
        kinds = {device.kind for device in self._devices.devices}
        return START_SECONDS[DeviceKind.GPU if DeviceKind.GPU in kinds else DeviceKind.CPU]

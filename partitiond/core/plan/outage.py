"""Finds the models that serve nothing for a while as a plan is applied, and for how long. Pure.

Simulates the order of `core.replica.reconcile`: on each device the first waiting replica that fits
starts. If none fits, replaced replicas make way for the first waiting one: they drain, and then
that one starts. The last serving replica of a model makes way only if nothing else can go on any
more. Old replicas of a model are drained once all of its new replicas serve.
"""

import dataclasses
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.hardware.room import fits, overlap
from partitiond.core.numbers.grouping import by_key
from partitiond.core.performance.interference import mode_overhead_bytes
from partitiond.core.plan.record import Placement, PlanDiff

LONGEST_DRAIN_SECONDS: Final = 120.0
"""The reconciler's own deadline is the same."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outage:
    """A time without any replica of a model, after the plan is applied.

    Attributes:
        from_seconds: the last old replica takes nothing new from then on.
        to_seconds: the first new one serves.
    """

    model: str
    from_seconds: float
    to_seconds: float

    @property
    def seconds(self) -> float:
        """How long the outage lasts."""
        return self.to_seconds - self.from_seconds


def drain_seconds(placement: Placement) -> float:
    """Return about how long a full replica takes to finish its requests: batch / throughput
    (Little).
    """
    candidate = placement.candidate
    if candidate.capacity_req_per_s <= 0:
        return LONGEST_DRAIN_SECONDS
    return min(LONGEST_DRAIN_SECONDS, candidate.batch / candidate.capacity_req_per_s)


def outages(
    diff: PlanDiff,
    order: Sequence[Placement],
    room: Mapping[str, int],
    seconds: Callable[[Placement], float],
) -> tuple[Outage, ...]:
    """Return the outages that applying a plan causes, by when they begin.

    A model has none if no replica of it ran before, or none is wanted any more.

    Args:
        diff: the changes.
        order: placements to start, the first ones first (`core.plan.start_order`).
        room: bytes that engines may hold, by device; devices that are gone are not listed.
        seconds: time until the engine of a placement serves.
    """
    walk = _Walk(diff, order, room, seconds)
    walk.run()
    return tuple(sorted(walk.found, key=lambda o: (o.from_seconds, o.model)))


class _Walk:
    """The state of the devices at one moment; local to `outages`."""

    def __init__(
        self,
        diff: PlanDiff,
        order: Sequence[Placement],
        room: Mapping[str, int],
        seconds: Callable[[Placement], float],
    ) -> None:
        leaving = [p for p in (*(old for old, _ in diff.move), *diff.stop) if p.device_id in room]
        there = [*(p for p in diff.keep if p.device_id in room), *leaving]
        self.found: list[Outage] = []
        self._room, self._seconds = room, seconds
        self._held = by_key((p.device_id, p) for p in there)
        self._outgoing = by_key((p.device_id, p) for p in leaving)
        self._leaves = by_key((p.model, p.device_id) for p in leaving)
        self._missing = by_key((p.device_id, p) for p in order)
        self._left = Counter(p.model for p in order)
        self._serving = Counter(p.model for p in there)
        self._down: dict[str, float] = {}
        self._starting: dict[str, Placement] = {}
        self._draining: dict[str, list[Placement]] = {d: [] for d in room}
        self._events: list[tuple[float, int, Placement, bool]] = []
        self._serial = itertools.count()

    def run(self) -> None:
        """Advance until nothing happens any more."""
        for device_id in self._room:
            self._begin(device_id, 0.0)
        for device_id in self._room:
            self._make_way(device_id, 0.0)
        now = 0.0
        while self._events or self._end_standstill(now):
            now, _, placement, ready = heapq.heappop(self._events)
            if ready:
                touched = self._ready(placement, now)
            else:
                self._held[placement.device_id].remove(placement)
                self._draining[placement.device_id].remove(placement)
                touched = {placement.device_id}
            for device_id in sorted(touched):
                self._begin(device_id, now)
            for device_id in sorted(touched):
                self._make_way(device_id, now)

    def _end_standstill(self, now: float) -> bool:
        """At a standstill, let last replicas make way, too; return whether any did."""
        for device_id in self._room:
            self._make_way(device_id, now, last_ones=True)
        return bool(self._events)

    def _ready(self, placement: Placement, now: float) -> set[str]:
        model = placement.model
        del self._starting[placement.device_id]
        self._serving[model] += 1
        self._left[model] -= 1
        since = self._down.pop(model, None)
        if since is not None:
            self.found.append(Outage(model, since, now))
        ran = {*self._leaves[model]}
        replaced = {d for d in ran if any(p.model == model for p in self._outgoing[d])}
        # The replica that was the last of this model may make way now.
        return {placement.device_id} | replaced

    def _begin(self, device_id: str, now: float) -> None:
        """Drain the replicas of models that are fully replaced, and start the first that fits."""
        self._drain(now, [p for p in self._outgoing[device_id] if not self._left[p.model]])
        missing, held = self._missing[device_id], self._held[device_id]
        if device_id in self._starting:
            return
        fitting = next((p for p in missing if self._fits(p, held)), None)
        if fitting is not None:
            missing.remove(fitting)
            held.append(fitting)
            self._starting[device_id] = fitting
            self._happens(now + self._seconds(fitting), fitting, ready=True)

    def _make_way(self, device_id: str, now: float, *, last_ones: bool = False) -> None:
        if device_id not in self._starting:
            missing = self._missing[device_id]
            self._drain(now, self._in_the_way(missing, device_id, last_ones=last_ones))

    def _in_the_way(
        self, missing: Iterable[Placement], device_id: str, *, last_ones: bool
    ) -> list[Placement]:
        leaving = self._draining[device_id]
        coming = {p.model for p in self._starting.values()}
        candidates = [
            p
            for p in self._outgoing[device_id]
            if self._serving[p.model] > 1 or (last_ones and p.model not in coming)
        ]
        for placement in missing:
            held = [p for p in self._held[device_id] if p not in leaving]
            if self._fits(placement, held):
                return []
            victims: list[Placement] = []
            in_place = sorted(
                candidates, key=lambda p: not overlap(p.partition, placement.partition)
            )
            for old in in_place:
                held.remove(old)
                victims.append(old)
                if self._fits(placement, held):
                    return victims
        return []

    def _drain(self, now: float, victims: Sequence[Placement]) -> None:
        for old in list(victims):
            self._outgoing[old.device_id].remove(old)
            self._draining[old.device_id].append(old)
            self._serving[old.model] -= 1
            if not self._serving[old.model] and self._left[old.model]:
                self._down[old.model] = now
            self._happens(now + drain_seconds(old), old, ready=False)

    def _happens(self, at: float, placement: Placement, *, ready: bool) -> None:
        heapq.heappush(self._events, (at, next(self._serial), placement, ready))

    def _fits(self, placement: Placement, held: Iterable[Placement]) -> bool:
        wanted = placement.partition
        room = self._room[placement.device_id] - mode_overhead_bytes(wanted.mode)
        return fits(wanted, [p.partition for p in held], room)

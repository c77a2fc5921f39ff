"""Chooses the models to evict when a scaled-to-zero model gets a request and does not fit. Pure.

Only idle models that may be scaled to zero are ever evicted. The cost of an eviction is that the
model has to start again at its next request, so the expected price of an eviction is the model's
expected request rate times the seconds that a start takes. The model with the lowest price for the
room it frees is evicted first. The expected rate falls while a model gets no requests
(`expected_rate`), so if nothing else is known the model idle longest is evicted first.
docs/planning.md compares this with least recently used and with random choice.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Final

MIN_RATE: Final = 1e-9


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """Resources of one device, free, held or needed.

    Attributes:
        memory_bytes: of the device.
        units: resources that are not shared: CPU cores, SM percent or MIG slices; 0 if only
            memory counts.
    """

    memory_bytes: int
    units: int = 0

    def __add__(self, other: "Room") -> "Room":
        return Room(self.memory_bytes + other.memory_bytes, self.units + other.units)

    def covers(self, need: "Room") -> bool:
        """Return whether the need fits into this room."""
        return self.memory_bytes >= need.memory_bytes and self.units >= need.units


NO_ROOM: Final = Room(0)


@dataclasses.dataclass(frozen=True, slots=True)
class Resident:
    """A model that holds room and may be evicted.

    Attributes:
        idle_seconds: since its last request; 0 while it has one.
        rate_req_per_s: request rate expected now (`expected_rate`).
        restart_seconds: how long its next request waits for the restart.
        frees: room that an eviction would free, by device.
        busy: the model has requests, is just starting, or must not be evicted for another reason.
    """

    model: str
    idle_seconds: float
    rate_req_per_s: float
    restart_seconds: float
    frees: tuple[tuple[str, Room], ...]
    busy: bool = False

    def on(self, device_id: str) -> Room:
        """Return the room that an eviction frees on the device."""
        return dict(self.frees).get(device_id, NO_ROOM)

    @property
    def price(self) -> float:
        """Expected seconds of waiting per second while the model is evicted."""
        return max(self.rate_req_per_s, MIN_RATE) * self.restart_seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Popularity:
    """Recent requests for a model: a count in which old requests fade.

    Attributes:
        weight: the count, faded to the time `at`.
        at: monotonic seconds.
    """

    weight: float = 0.0
    at: float = 0.0

    def with_requests(self, count: int, now: float, half_life_seconds: float) -> "Popularity":
        """Return the popularity with `count` more requests now."""
        return Popularity(self._faded(now, half_life_seconds) + count, now)

    def req_per_s(self, now: float, half_life_seconds: float) -> float:
        """Return requests per second that the count stands for."""
        return self._faded(now, half_life_seconds) * math.log(2) / half_life_seconds

    def _faded(self, now: float, half_life_seconds: float) -> float:
        return self.weight * math.pow(0.5, max(0.0, now - self.at) / half_life_seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class RoomNeed:
    """One way to place the requested model."""

    device_id: str
    room: Room


def by_price(resident: Resident, device_id: str) -> float:
    """Return the expected waiting that an eviction costs, per share of memory that it frees. The
    lowest is evicted first.
    """
    freed = resident.on(device_id)
    # Bytes stand for the share: units are used in proportion to bytes, or not at all.
    return resident.price / max(1, freed.memory_bytes)


def expected_rate(forecast_req_per_s: float, idle_seconds: float) -> float:
    """Return the request rate expected of a model after an idle time.

    The rate is the forecast while requests come as often as usual. A gap of t seconds is unlikely
    at a rate above 1 / t, so 1 / t is an upper bound.
    """
    if idle_seconds <= 0:
        return forecast_req_per_s
    most = 1.0 / idle_seconds
    return min(forecast_req_per_s, most) if forecast_req_per_s > 0 else most


def victims_for(
    needs: Sequence[RoomNeed],
    free: Callable[[str], Room],
    residents: Sequence[Resident],
    *,
    least_idle_seconds: float = 0.0,
) -> tuple[str, ...] | None:
    """Choose the models to evict so that one need fits: () if one fits already, None if none can.

    Of several ways, chooses the one that costs the least waiting.

    Args:
        needs: ways to place the model, preferred ones first.
        free: free room of a device now.
        residents: models that could be evicted.
        least_idle_seconds: models with a more recent request stay.
    """
    movable = [r for r in residents if not r.busy and r.idle_seconds >= least_idle_seconds]
    best: tuple[float, tuple[str, ...]] | None = None
    for need in needs:
        found = _victims(need, free(need.device_id), movable)
        if found is None:
            continue
        cost = math.fsum(resident.price for resident in found)
        if best is None or cost < best[0]:
            best = cost, tuple(resident.model for resident in found)
    return None if best is None else best[1]


def _victims(need: RoomNeed, free: Room, movable: Sequence[Resident]) -> list[Resident] | None:
    there = [r for r in movable if r.on(need.device_id) != NO_ROOM]
    there.sort(key=lambda r: (by_price(r, need.device_id), -r.idle_seconds, r.model))
    taken: list[Resident] = []
    room = free
    for resident in there:
        if room.covers(need.room):
            break
        taken.append(resident)
        room = room + resident.on(need.device_id)
    if not room.covers(need.room):
        return None
    # A large model chosen late may make an earlier, small one needless: keep the dearest.
    for resident in sorted(taken, key=lambda r: -r.price):
        left = [other for other in taken if other is not resident]
        rest = free
        for other in left:
            rest = rest + other.on(need.device_id)
        if rest.covers(need.room):
            taken = left
    return taken

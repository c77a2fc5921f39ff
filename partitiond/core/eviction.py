"""Who gives up its room when a model at zero is asked for and does not fit. Pure.

Only models that may go to zero, and have nothing to do now, are ever asked to. Which of them: what
an eviction costs is that the model has to start again at its next request, so its expected price
is the rate at which requests are expected of it times the seconds a start takes. The model with
the lowest price for what it frees goes first. A model's expected rate falls the longer nobody asks
for it (`expected_rate`), so without anything else known the one idle longest goes first.
`bench/bench_eviction.py` compares this with least recently used and with chance.
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
        units: what is not shared there: CPU cores, SM percent or MIG slices; 0 where only memory
            counts.
    """

    memory_bytes: int
    units: int = 0

    def __add__(self, other: "Room") -> "Room":
        return Room(self.memory_bytes + other.memory_bytes, self.units + other.units)

    def covers(self, need: "Room") -> bool:
        """Whether the need fits in."""
        return self.memory_bytes >= need.memory_bytes and self.units >= need.units


NO_ROOM: Final = Room(0)


@dataclasses.dataclass(frozen=True, slots=True)
class Resident:
    """A model that holds room and may be asked to give it up.

    Attributes:
        idle_seconds: since its last request; 0 while it has one.
        rate_req_per_s: requests expected of it now (`expected_rate`).
        restart_seconds: what its next request waits for it to come back.
        frees: by device, what would come free.
        busy: it has requests, is just starting, or must not go for another reason.
    """

    model: str
    idle_seconds: float
    rate_req_per_s: float
    restart_seconds: float
    frees: tuple[tuple[str, Room], ...]
    busy: bool = False

    def on(self, device_id: str) -> Room:
        """What comes free there."""
        return dict(self.frees).get(device_id, NO_ROOM)

    @property
    def price(self) -> float:
        """Seconds of waiting expected by the second while it is gone."""
        return max(self.rate_req_per_s, MIN_RATE) * self.restart_seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Popularity:
    """How often a model was asked for lately: a count in which old requests fade.

    Attributes:
        weight: the count, faded to the time `at`.
        at: monotonic seconds.
    """

    weight: float = 0.0
    at: float = 0.0

    def with_requests(self, count: int, now: float, half_life_seconds: float) -> "Popularity":
        """With so many more, now."""
        return Popularity(self._faded(now, half_life_seconds) + count, now)

    def req_per_s(self, now: float, half_life_seconds: float) -> float:
        """Requests by the second that it stands for."""
        return self._faded(now, half_life_seconds) * math.log(2) / half_life_seconds

    def _faded(self, now: float, half_life_seconds: float) -> float:
        return self.weight * math.pow(0.5, max(0.0, now - self.at) / half_life_seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class Need:
    """One way to place the model that is asked for."""

    device_id: str
    room: Room


Order = Callable[[Resident, str], float]
"""How dear a resident is on a device; the least goes first."""


def by_price(resident: Resident, device_id: str) -> float:
    """Our order: the expected waiting that it costs, for the share of the room that it frees."""
    freed = resident.on(device_id)
    # Bytes stand for the share: units are taken in step with them, or not at all.
    return resident.price / max(1, freed.memory_bytes)


def by_idle(resident: Resident, _device_id: str) -> float:
    """Least recently used first."""
    return -resident.idle_seconds


def expected_rate(forecast_req_per_s: float, idle_seconds: float) -> float:
    """Requests expected of a model after so long without one.

    Its forecast while it is asked for as often as usual. A gap of t seconds is a surprise for a
    higher rate than 1 / t, so that is the most that is believed then.
    """
    if idle_seconds <= 0:
        return forecast_req_per_s
    most = 1.0 / idle_seconds
    return min(forecast_req_per_s, most) if forecast_req_per_s > 0 else most


def victims_for(
    needs: Sequence[Need],
    free: Callable[[str], Room],
    residents: Sequence[Resident],
    *,
    least_idle_seconds: float = 0.0,
    order: Order = by_price,
) -> tuple[str, ...] | None:
    """Who goes so that one of the needs fits; nobody where one fits already, None where none can.

    Of several ways the one that costs the least waiting.

    Args:
        needs: ways to place the model, the preferred first.
        free: what is free on a device now.
        residents: who could go.
        least_idle_seconds: who was asked for less long ago stays.
        order: who goes first.
    """
    movable = [r for r in residents if not r.busy and r.idle_seconds >= least_idle_seconds]
    best: tuple[float, tuple[str, ...]] | None = None
    for need in needs:
        found = _victims(need, free(need.device_id), movable, order)
        if found is None:
            continue
        cost = math.fsum(resident.price for resident in found)
        if best is None or cost < best[0]:
            best = cost, tuple(resident.model for resident in found)
    return None if best is None else best[1]


def _victims(
    need: Need, free: Room, movable: Sequence[Resident], order: Order
) -> list[Resident] | None:
    there = [r for r in movable if r.on(need.device_id) != NO_ROOM]
    there.sort(key=lambda r: (order(r, need.device_id), -r.idle_seconds, r.model))
    taken: list[Resident] = []
    room = free
    for resident in there:
        if room.covers(need.room):
            break
        taken.append(resident)
        room = room + resident.on(need.device_id)
    if not room.covers(need.room):
        return None
    # A large one that came late may have made a small one's going needless: the dearest stay.
    for resident in sorted(taken, key=lambda r: -r.price):
        left = [other for other in taken if other is not resident]
        rest = free
        for other in left:
            rest = rest + other.on(need.device_id)
        if rest.covers(need.room):
            taken = left
    return taken

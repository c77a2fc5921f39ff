"""Decides which models step down for models that requests wait for, if not all fit. Pure.

A model serves, sleeps (its process stays, its weights wait in host memory), or is on disk (it has
no process). The lower it stands, the less it holds and the longer its next request waits. The price
of a step down is the waiting that is expected of it: the model's expected request rate times the
seconds above its SLO that its next request waits longer (`counted_seconds`). The models whose
steps cost the least waiting for the bytes that they free step down, and a bound says what no choice
of them would cost less than. Device memory and host memory are rooms alike: a model that falls
asleep frees room of its device and takes room of its host, so others may have to give up their
sleep for it. Warm is no state between: the process that engines are forked from is one for all
models, and measured starts say what it and the page cache save.

- Requests for one model wait together, and are served together once it is there.
- Popularity fades slowly: of models asked for in turns the popular one stays. No model keeps its
  room for a time of its own beside that: it made others wait longer than it saved starts.
- Models without requests step down first. If they do not suffice, a model that has requests steps
  down, too, once it has had its turn and the other has waited as long: a busy model locks nobody
  out. It finishes what it serves, and then waits for its own turn.
- Models are looked at in the order of their waits. One that has waited for a turn, and finds no
  room yet, is not overtaken on the devices where it could have some.

docs/planning.md compares the price with least recently used.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final

MIN_RATE: Final = 1e-9
TURN_STARTS: Final = 2.0
"""A turn of a busy model, in starts of it and of the model that waits: both together take at most a
third of the time, unless `MAX_TURN_SECONDS` cuts the turn (two starts of 60 s: 60 %). Chosen."""
MIN_TURN_SECONDS: Final = 10.0
MAX_TURN_SECONDS: Final = 40.0
"""Bounds of a turn: who waits one turn and starts in 20 s has its first token within a minute."""


WITHIN_SLO: Final = 0.01
"""What a second of waiting within the SLO counts, of one above it: of models whose starts are all
within theirs, those step down that are asked for least. Chosen."""


def counted_seconds(wait_seconds: float, slo_seconds: float) -> float:
    """Return what a wait for the first token counts: little up to the SLO, fully above it."""
    within = min(wait_seconds, slo_seconds)
    return wait_seconds - within + WITHIN_SLO * within


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """Resources of one device or host, free, held or needed.

    Attributes:
        memory_bytes: of the device or host.
        units: resources that are not shared: CPU cores, SM percent or MIG slices; 0 if only
            memory counts.
    """

    memory_bytes: int
    units: int = 0

    def __add__(self, other: "Room") -> "Room":
        return Room(self.memory_bytes + other.memory_bytes, self.units + other.units)

    def __sub__(self, other: "Room") -> "Room":
        return Room(self.memory_bytes - other.memory_bytes, self.units - other.units)

    @property
    def is_gain(self) -> bool:
        """Return whether it is more than nothing."""
        return self.memory_bytes > 0 or self.units > 0

    def lacks(self, taken: "Room") -> bool:
        """Return whether there is less than nothing of what was taken, memory and units apart."""
        lacks_memory = taken.memory_bytes > 0 and self.memory_bytes < 0
        return lacks_memory or (taken.units > 0 and self.units < 0)


NO_ROOM: Final = Room(0)


@dataclasses.dataclass(frozen=True, slots=True)
class StepDown:
    """One way for a model to hold less than it does.

    Attributes:
        level: of sleep that it goes to (`core.replica.sleep`).
        wait_seconds: how much longer its next request waits from there (`counted_seconds`).
        frees: room by device or host; negative where the step takes some.
    """

    level: int
    wait_seconds: float
    frees: tuple[tuple[str, Room], ...]

    def on(self, place: str) -> Room:
        """Return the room that the step frees there."""
        return dict(self.frees).get(place, NO_ROOM)


@dataclasses.dataclass(frozen=True, slots=True)
class Resident:
    """A model that holds room, and may step down.

    Attributes:
        idle_seconds: since its last request; 0 while it has one.
        rate_req_per_s: request rate expected now (`expected_rate`).
        had_seconds: since it has its room, served or asleep; 0 while it starts or wakes, or when it
            must stay for another reason.
        start_seconds: how long a start takes.
        steps: lightest first.
        priority: a model that has requests never steps down for one of lower priority.
    """

    model: str
    idle_seconds: float
    rate_req_per_s: float
    had_seconds: float
    start_seconds: float
    steps: tuple[StepDown, ...]
    priority: int = 0

    def price(self, step: StepDown) -> float:
        """Return the expected seconds of waiting per second that the step costs."""
        return max(self.rate_req_per_s, MIN_RATE) * step.wait_seconds


@dataclasses.dataclass(frozen=True, slots=True)
class RoomNeed:
    """One way to place a model: what it takes, by device and host; the device comes first."""

    takes: tuple[tuple[str, Room], ...]

    @property
    def device_id(self) -> str:
        """Return the device of the place."""
        return self.takes[0][0]


@dataclasses.dataclass(frozen=True, slots=True)
class Waiter:
    """A model that requests wait for, and that has no place.

    Attributes:
        needs: ways to place it, preferred ones first.
        waited_seconds: since the first of these requests came.
        start_seconds: how long it takes to serve once it has room.
    """

    model: str
    needs: tuple[RoomNeed, ...]
    waited_seconds: float
    start_seconds: float
    priority: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """Room for a model that was asked for.

    Attributes:
        need: the place that it has room for, after the steps.
        steps: (model, step) that make the room, in no order; () if it was free.
        price: expected seconds of waiting per second that the steps cost.
        bound: no choice of the models that step down first (idle ones if they do) costs less.
    """

    model: str
    need: RoomNeed
    steps: tuple[tuple[str, StepDown], ...]
    price: float
    bound: float


@dataclasses.dataclass(frozen=True, slots=True)
class RoomDecision:
    """Who is to be more ready now, and who less.

    Attributes:
        granted: in the order in which they asked.
        waiting: why each of the others has to wait, in one clause.
    """

    granted: tuple[Grant, ...]
    waiting: Mapping[str, str]


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


def expected_rate(forecast_req_per_s: float, idle_seconds: float) -> float:
    """Return the request rate expected of a model after an idle time.

    The rate is the forecast while requests come as often as usual. A gap of t seconds is unlikely
    at a rate above 1 / t, so 1 / t is an upper bound.
    """
    if idle_seconds <= 0:
        return forecast_req_per_s
    most = 1.0 / idle_seconds
    return min(forecast_req_per_s, most) if forecast_req_per_s > 0 else most


def readiness(
    waiters: Sequence[Waiter],
    residents: Sequence[Resident],
    free: Mapping[str, Room],
    *,
    least_idle_seconds: float = 0.0,
) -> RoomDecision:
    """Choose who gets room, and who steps down for that.

    Args:
        waiters: none of them is among the residents that could step down.
        residents: models that hold room.
        free: room by device and host that nobody holds; none where a place is not named.
        least_idle_seconds: models with a more recent request count as busy.
    """
    left, room = list(residents), dict(free)
    granted: list[Grant] = []
    waiting: dict[str, str] = {}
    kept: set[str] = set()
    for waiter in sorted(waiters, key=lambda a: -a.waited_seconds):
        needs = [need for need in waiter.needs if need.device_id not in kept]
        found = _room_for(waiter, needs, room, left, least_idle_seconds)
        if found is None:
            later = [
                r for r in left if r.priority <= waiter.priority or _is_idle(r, least_idle_seconds)
            ]
            ways = [(need.device_id, _chosen(need, room, later)) for need in needs]
            hoped = {device: steps for device, steps in ways if steps is not None}
            who = [resident for steps in hoped.values() for resident, _ in steps]
            turn = max((_turn(waiter, r) for r in who), default=MIN_TURN_SECONDS)
            waiting[waiter.model] = _why_not(waiter, needs, hoped, turn)
            if waiter.waited_seconds >= turn:
                kept |= hoped.keys()
            continue
        granted.append(found)
        gone = dict(found.steps)
        left = [resident for resident in left if resident.model not in gone]
        room = _after(room, found.need, gone.values())
    return RoomDecision(tuple(granted), waiting)


def _room_for(
    waiter: Waiter,
    needs: Sequence[RoomNeed],
    free: Mapping[str, Room],
    residents: Sequence[Resident],
    least_idle_seconds: float,
) -> Grant | None:
    """Return the place that costs the least waiting; of models with requests only if it has to."""
    idle = [r for r in residents if _is_idle(r, least_idle_seconds)]
    due = [r for r in residents if r in idle or _had_its_turn(r, waiter)]
    for movable in (idle, due):
        ways = [(need, _chosen(need, free, movable)) for need in needs]
        found = [(_price(steps), need, steps) for need, steps in ways if steps is not None]
        if found:
            price, need, steps = min(found, key=lambda way: way[0])
            bound = min(price, *(_bound(need, free, movable) for need in needs))
            chosen = tuple((resident.model, step) for resident, step in steps)
            return Grant(waiter.model, need, chosen, price, bound)
    return None


def _is_idle(resident: Resident, least_idle_seconds: float) -> bool:
    is_idle = resident.idle_seconds > 0 and resident.idle_seconds >= least_idle_seconds
    return is_idle and resident.had_seconds > 0


def _had_its_turn(resident: Resident, waiter: Waiter) -> bool:
    had = min(waiter.waited_seconds, resident.had_seconds)
    return had >= _turn(waiter, resident) and resident.priority <= waiter.priority


def _turn(waiter: Waiter, resident: Resident) -> float:
    """Return for how many seconds a busy model keeps its room from one that waits for it."""
    turn = TURN_STARTS * (waiter.start_seconds + resident.start_seconds)
    return min(MAX_TURN_SECONDS, max(MIN_TURN_SECONDS, turn))


def _why_not(waiter: Waiter, needs: Sequence[RoomNeed], hoped: Collection[str], turn: float) -> str:
    if waiter.needs and not needs:
        return "no room: a model that has waited longer gets the next one"
    if not hoped:
        return "no room, and what could step down does not free enough"
    return f"no room, and too few are idle: those with requests keep theirs for up to {turn:.0f} s"


def _price(steps: Iterable[tuple[Resident, StepDown]]) -> float:
    return math.fsum(resident.price(step) for resident, step in steps)


def _bound(need: RoomNeed, free: Mapping[str, Room], movable: Iterable[Resident]) -> float:
    """Return what no choice costs less than: for one resource alone models could go in parts."""
    bound = 0.0
    for place, taken in need.takes:
        for of in (attrgetter("memory_bytes"), attrgetter("units")):
            short, least, parts = of(taken) - of(free.get(place, NO_ROOM)), 0.0, []
            for resident in movable if of(taken) > 0 else ():
                freed = [(resident.price(step), of(step.on(place))) for step in resident.steps]
                if rates := [price / most for price, most in freed if most > 0]:
                    parts.append((min(rates), max(most for _, most in freed)))
            for rate, most in sorted(parts):
                least += rate * min(max(0, short), most)
                short -= most
            bound = max(bound, least)
    return bound


def _chosen(
    need: RoomNeed, free: Mapping[str, Room], movable: Sequence[Resident]
) -> list[tuple[Resident, StepDown]] | None:
    """Choose steps after which the need fits and no place is overdrawn; None if none suffice."""
    chosen: dict[str, tuple[Resident, StepDown]] = {}

    def frees_more(way: tuple[Resident, StepDown], place: str) -> bool:
        before = chosen.get(way[0].model)
        if before is None:
            return way[1].on(place).is_gain
        return way[1].level > before[1].level and (way[1].on(place) - before[1].on(place)).is_gain

    while (short := _overdrawn(need, free, [step for _, step in chosen.values()])) is not None:
        ways = [(resident, step) for resident in movable for step in resident.steps]
        for way in _by_price(ways, short):
            if frees_more(way, short):
                chosen[way[0].model] = way
                if _overdrawn(need, free, [step for _, step in chosen.values()]) != short:
                    break
        else:
            return None
    # A large model chosen late may make an earlier, small one needless: keep the dearest.
    for resident, _ in sorted(chosen.values(), key=lambda way: -way[0].price(way[1])):
        others = [step for other, step in chosen.values() if other is not resident]
        if _overdrawn(need, free, others) is None:
            del chosen[resident.model]
    return list(chosen.values())


def _by_price(
    ways: Iterable[tuple[Resident, StepDown]], place: str
) -> list[tuple[Resident, StepDown]]:
    """Order steps by the expected waiting that they cost, per share of memory that they free."""

    def key(way: tuple[Resident, StepDown]) -> tuple[float, float, str, int]:
        resident, step = way
        # Bytes stand for the share: units are used in proportion to bytes, or not at all.
        freed = max(1, step.on(place).memory_bytes)
        return resident.price(step) / freed, -resident.idle_seconds, resident.model, step.level

    return sorted(ways, key=key)


def _overdrawn(need: RoomNeed, free: Mapping[str, Room], steps: Collection[StepDown]) -> str | None:
    """Return the first place of which the need or the steps take more than there is, if any.

    A place that is overdrawn already is no obstacle to who takes nothing there.
    """
    after = _after(free, need, steps)
    takes = [*need.takes]
    takes += [(place, NO_ROOM - freed) for step in steps for place, freed in step.frees]
    return next((place for place, taken in takes if after[place].lacks(taken)), None)


def _after(free: Mapping[str, Room], need: RoomNeed, steps: Iterable[StepDown]) -> dict[str, Room]:
    """Return the room that is free when the steps are taken and the need is placed."""
    room = dict(free)
    for place, taken in need.takes:
        room[place] = room.get(place, NO_ROOM) - taken
    for step in steps:
        for place, freed in step.frees:
            room[place] = room.get(place, NO_ROOM) + freed
    return room

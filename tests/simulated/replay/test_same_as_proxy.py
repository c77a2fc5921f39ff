"""Proxy and simulators make the same decisions in generated histories."""

import asyncio
import contextlib
import dataclasses
import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.dispatch.admission import Cost, Rejected
from partitiond.core.dispatch.dispatcher import Dispatcher
from partitiond.core.dispatch.places import EVERYBODY, RequestOwner
from partitiond.core.dispatch.quarantine import Exposure
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute, ReplicaRoute
from partitiond.core.hardware.kinds import SharingMode
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.dispatch.flights import Flight, FlightTarget
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.dispatch.replicas import LiveReplica
from partitiond.simulated.fleet.device import FleetDevice
from partitiond.simulated.fleet.dispatch import FinishedRequest, FleetModel
from partitiond.simulated.fleet.engine import FleetEngine, FleetRequest
from partitiond.simulated.fleet.places import FleetReplica
from partitiond.simulated.replay import dispatch
from partitiond.simulated.replay.batch import Batch
from partitiond.simulated.replay.batch import Sequence as BatchSequence
from partitiond.simulated.replay.engine import SharedDevice, SteppedEngine
from partitiond.simulated.replay.events import SimulatedClock
from partitiond.simulated.replay.models import EngineModel
from tests.simulated.replay.samples import ConstantSteps, candidate

Decision = tuple[int, str | Rejected]
"""Of which request, and the replica that it started on; or why it was refused."""


@dataclasses.dataclass(frozen=True)
class Ask:
    """What a client sends."""

    name: int
    cost: Cost
    prompt_tokens: int = 10
    output_tokens: int = 10
    share: RequestOwner = EVERYBODY
    max_wait_seconds: float = math.inf


class Draws:
    """Two numbers in turn, since one decision takes two: the same for all, however often asked."""

    def __init__(self) -> None:
        self.both = (0.0, 0.0)
        self._turn = itertools.cycle((0, 1))

    def __call__(self) -> float:
        return self.both[next(self._turn)]


class Side(Protocol):
    """One of the three."""

    decisions: list[Decision]
    draws: Draws

    @property
    def dispatcher(self) -> Dispatcher[Any, Any]: ...

    def apply(self, route: ModelRoute, replicas: Sequence[ReplicaRoute]) -> None:
        """A newer table; what runs on replicas that are not in it is lost."""

    def arrive(self, ask: Ask) -> None: ...

    def end(self, name: int) -> None:
        """A request that runs got its last token."""

    def leave(self, name: int) -> None:
        """The client of one that waits is gone."""

    def run(self, until: float) -> None:
        """Time passes, and deadlines."""


# The proxy


class HandLoop(asyncio.AbstractEventLoop):
    """An event loop with timers only, whose time passes where it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, asyncio.TimerHandle, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self)
        heapq.heappush(self._due, (when, next(self._numbers), handle, lambda: callback(*args)))
        return handle

    def run(self, until: float) -> None:
        """Call what is due, of equal times the first one first."""
        while self._due and self._due[0][0] <= until:
            when, _, handle, call = heapq.heappop(self._due)
            if not handle.cancelled():
                self.now = max(self.now, when)
                call()
        self.now = until


class Owner:
    """Of a request in the proxy."""

    def __init__(self, name: int, side: "InProxy") -> None:
        self._name = name
        self._side = side

    def placed(self, replica: FlightTarget) -> None:
        self._side.started[self._name] = asyncio.get_running_loop().time()
        self._side.decisions.append((self._name, replica.replica_id))

    def refused(self, rejected: Rejected) -> None:
        self._side.decisions.append((self._name, rejected))

    def exposure(self, now: float) -> Exposure:
        raise NotImplementedError

    def suspected(self) -> None:
        raise NotImplementedError

    def crashed(self) -> None:
        raise  # noqa: PLE0704 -- called inside `except`


class InProxy:
    def __init__(self, route: ModelRoute) -> None:
        self.decisions: list[Decision] = []
        self.draws = Draws()
        self._loop = HandLoop()  # type: ignore[abstract]
        self._asked: dict[int, tuple[Ask, Flight]] = {}
        self.started: dict[int, float] = {}
        self._model = LiveModel(route)
        self._model.slots.places.draw = self.draws

    @property
    def dispatcher(self) -> Dispatcher[Any, Any]:
        return self._model.slots

    @contextlib.contextmanager
    def _in_loop(self) -> Iterator[float]:
        asyncio._set_running_loop(self._loop)
        try:
            yield self._loop.now
        finally:
            asyncio._set_running_loop(None)

    def apply(self, route: ModelRoute, replicas: Sequence[ReplicaRoute]) -> None:
        with self._in_loop():
            self._model.apply(route, replicas, ProxyOptions())
            for replica in self._model.retired:
                for flight in list(replica.flights):
                    flight.leave()

    def arrive(self, ask: Ask) -> None:
        with self._in_loop() as now:
            owner = Owner(ask.name, self)
            flight = Flight(owner, "", ask.cost, now, ask.max_wait_seconds)
            flight.share = ask.share
            self._asked[ask.name] = ask, flight
            placed = self._model.place(flight)
            if isinstance(placed, LiveReplica):
                owner.placed(placed)
            elif placed is not None:
                owner.refused(placed)

    def end(self, name: int) -> None:
        """In the order in which `proxy.edge.exchange` does it."""
        with self._in_loop() as now:
            ask, flight = self._asked[name]
            replica, slots = flight.replica, self._model.slots
            assert isinstance(replica, LiveReplica)
            flight.leave()
            slots.settle(flight, float(ask.prompt_tokens + ask.output_tokens))
            seconds, planned = now - self.started[name], replica.route.service_seconds
            slots.learn(replica.replica_id, seconds, ask.output_tokens, planned, now)

    def leave(self, name: int) -> None:
        with self._in_loop():
            self._model.stop_waiting(self._asked[name][1])

    def run(self, until: float) -> None:
        with self._in_loop():
            self._loop.run(until)


# The simulation


class EngineByHand(SteppedEngine):
    """It tells what starts, and ends what it is told to."""

    started: Callable[[BatchSequence], None]

    def add(self, sequence: BatchSequence) -> None:
        self.started(sequence)


class InSimulation:
    def __init__(self, route: ModelRoute) -> None:
        self.decisions: list[Decision] = []
        self.draws = Draws()
        self._clock = SimulatedClock()
        self._names: dict[dispatch.SimulatedRequest, int] = {}
        self._flights: dict[int, dispatch.SimulatedRequest] = {}
        self._sequences: dict[int, BatchSequence] = {}
        self._model = dispatch.SimulatedModel(self._clock, route, ())
        self._model.dispatcher.places.draw = self.draws
        self._model.on_done = self._done

    @property
    def dispatcher(self) -> Dispatcher[Any, Any]:
        return self._model.dispatcher

    def _done(self, flight: dispatch.SimulatedRequest) -> None:
        if flight.rejected is not None:
            self.decisions.append((self._names[flight], flight.rejected))

    def _replica(self, route: ReplicaRoute) -> dispatch.SimulatedReplica:
        batch = Batch(route.max_sequences, 1000, 10**6)
        device = SharedDevice(SharingMode.WHOLE)
        engine = EngineByHand(self._clock, device, candidate("m"), batch, ConstantSteps())
        replica = dispatch.SimulatedReplica(route, engine)

        def started(sequence: BatchSequence) -> None:
            name = self._names[replica.flight_of(sequence)]
            self._sequences[name] = sequence
            self.decisions.append((name, replica.replica_id))

        engine.started = started
        return replica

    def apply(self, route: ModelRoute, replicas: Sequence[ReplicaRoute]) -> None:
        known = {replica.replica_id: replica for replica in self._model.replicas}
        wanted = [known.get(one.replica_id) or self._replica(one) for one in replicas]
        for replica, one in zip(wanted, replicas, strict=True):
            replica.draining = one.draining
        self._model.apply(route, wanted)

    def arrive(self, ask: Ask) -> None:
        share = ask.share
        caller = dispatch.SimulatedCaller(share.key, share.weight, share.priority)
        now = self._clock.now
        flight = dispatch.SimulatedRequest(now, ask.prompt_tokens, ask.output_tokens, caller)
        flight.cost, flight.max_wait_seconds = ask.cost, ask.max_wait_seconds
        self._names[flight], self._flights[ask.name] = ask.name, flight
        self._model.place(flight)

    def end(self, name: int) -> None:
        replica = self._flights[name].replica
        assert replica is not None
        replica.engine.on_ended(self._sequences[name])

    def leave(self, name: int) -> None:
        self._model.leave(self._flights[name])

    def run(self, until: float) -> None:
        self._clock.run(until)


# The fleet


class FleetEngineByHand(FleetEngine):
    """It tells what starts."""

    started: Callable[[FleetRequest], None]

    def add(self, request: FleetRequest) -> None:
        self.started(request)


class InFleet(FinishedRequest):
    def __init__(self, route: ModelRoute) -> None:
        self.decisions: list[Decision] = []
        self.draws = Draws()
        self._clock = SimulatedClock()
        self._names: dict[FleetRequest, int] = {}
        self._requests: dict[int, FleetRequest] = {}
        self._where: dict[int, FleetReplica] = {}
        self._replicas: dict[str, FleetReplica] = {}
        self._model = FleetModel(self._clock, route, self)
        self._model.dispatcher.places.draw = self.draws

    @property
    def dispatcher(self) -> Dispatcher[Any, Any]:
        return self._model.dispatcher

    def answered(self, request: FleetRequest) -> None: ...

    def refused(self, request: FleetRequest, rejected: Rejected) -> None:
        self.decisions.append((self._names[request], rejected))

    def _replica(self, route: ReplicaRoute) -> FleetReplica:
        replica = FleetReplica(route, self._model.clock, self._model.ended)
        device = FleetDevice(self._clock, SharingMode.WHOLE)
        behaves = EngineModel(ConstantSteps(), 10**6, 1000)
        engine = FleetEngineByHand(self._clock, device, candidate("m"), behaves, replica)

        def started(request: FleetRequest) -> None:
            name = self._names[request]
            self._where[name] = replica
            self.decisions.append((name, replica.replica_id))

        engine.started = started
        replica.engine = engine
        return replica

    def apply(self, route: ModelRoute, replicas: Sequence[ReplicaRoute]) -> None:
        wanted = {one.replica_id: one for one in replicas}
        for name in [name for name in self._replicas if name not in wanted]:
            self._model.lose(self._replicas.pop(name))
        for name, one in wanted.items():
            known = self._replicas.get(name)
            if known is None:
                self._replicas[name] = self._replica(one)
                self._model.add(self._replicas[name])
            elif one.draining and not known.draining:
                self._model.drain(known)
        self._model.route = route

    def arrive(self, ask: Ask) -> None:
        request = FleetRequest(self._clock.now, ask.prompt_tokens, ask.output_tokens, ask.cost)
        request.share, request.max_wait_seconds = ask.share, ask.max_wait_seconds
        self._names[request], self._requests[ask.name] = ask.name, request
        self._model.place(request)

    def end(self, name: int) -> None:
        self._model.ended(self._requests[name], self._where[name])

    def leave(self, name: int) -> None:
        self._model.leave(self._requests[name])

    def run(self, until: float) -> None:
        self._clock.run(until)


SIDES: tuple[Callable[[ModelRoute], Side], ...] = (InProxy, InSimulation, InFleet)

# Histories

TICK = 1 / 64
"""Times are sums of powers of two, which no clock rounds: equal ones are so for everybody."""


@dataclasses.dataclass(frozen=True)
class Step:
    """What happens next; numbers choose among what there is."""

    what: str
    after: int
    number: int
    other: int
    ask: Ask


class History:
    """Leads all three sides through the same."""

    def __init__(self, route: ModelRoute) -> None:
        self.sides = [make(route) for make in SIDES]
        self.route = route
        self.replicas: list[ReplicaRoute] = []
        self.asked: dict[int, Ask] = {}
        self.running: dict[int, str] = {}
        self.waiting: list[int] = []
        self.now = 0.0
        self._seen = 0
        self._number = 0

    def each(self, act: Callable[[Side], None]) -> None:
        """It happens to all, and all decide the same."""
        for side in self.sides:
            act(side)
        first, *others = self.sides
        for other in others:
            assert other.decisions[self._seen :] == first.decisions[self._seen :]
            assert counts(other) == counts(first)
        for name, outcome in first.decisions[self._seen :]:
            self.waiting.remove(name)
            if isinstance(outcome, str):
                self.running[name] = outcome
        self._seen = len(first.decisions)

    def table(self) -> None:
        """The newest one reaches all."""
        listed = {replica.replica_id for replica in self.replicas}
        self.running = {n: where for n, where in self.running.items() if where in listed}
        self.each(lambda side: side.apply(self.route, self.replicas))

    def pass_time(self, ticks: int) -> None:
        """So that no step is at the time of another, or of a deadline that another began."""
        self._number += 1
        self.now += ticks * TICK + TICK / 128
        self.each(lambda side: side.run(self.now))

    def arrive(self, ask: Ask) -> None:
        """A request comes."""
        self.asked[ask.name] = ask
        self.waiting.append(ask.name)
        self.each(lambda side: side.arrive(ask))

    def step(self, step: Step) -> None:
        """One thing happens."""
        self.pass_time(step.after)
        for side in self.sides:
            side.draws.both = step.number % 16 / 16, step.other % 16 / 16
        number, other = step.number, step.other
        match step.what:
            case "arrive":
                self.arrive(step.ask)
            case "end" if self.running:
                name = list(self.running)[number % len(self.running)]
                del self.running[name]
                self.each(lambda side: side.end(name))
            case "leave" if self.waiting:
                gone = self.waiting.pop(number % len(self.waiting))
                self.each(lambda side: side.leave(gone))
            case "come":
                self.replicas.append(
                    ReplicaRoute(
                        f"m-{self._number}", "m", f"/none/{self._number}", "", 1 + number % 6,
                        (0, 60, 200)[other % 3], 1000, service_seconds=0.1 + 0.37 * (other % 9),
                    )
                )  # fmt: skip
                self.table()
            case "drain" if self.replicas:
                at = number % len(self.replicas)
                self.replicas[at] = dataclasses.replace(self.replicas[at], draining=True)
                self.table()
            case "die" if self.replicas:
                del self.replicas[number % len(self.replicas)]
                self.table()
            case "route":
                self.route = dataclasses.replace(
                    self.route,
                    availability=list(ModelAvailability)[number % len(ModelAvailability)],
                    holds=other % 4 != 0,
                    ready_at=self.now + 7 * TICK * other if other % 3 else 0.0,
                    max_wait_seconds=(0.5, 2.0, 30.0)[other % 3],
                    max_queue=(1, 4, 9)[number % 3],
                )
                self.table()
            case "slow" if self.replicas:
                slow = self.replicas[number % len(self.replicas)].replica_id
                for replica in self.replicas * 40:
                    seconds = 1.0 + other % 5 * (replica.replica_id == slow)
                    for side in self.sides:
                        side.dispatcher.learn(replica.replica_id, seconds, 5.0, 1.0, self.now)
                self.pass_time(70)  # paces are looked at once a second


def counts(side: Side) -> tuple[int, int, int]:
    dispatcher = side.dispatcher
    return len(dispatcher.queue), dispatcher.held, dispatcher.turned_away


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    words = ["arrive"] * 12 + ["end"] * 7 + ["leave", "come", "drain", "die", "route", "slow"]
    drawn = st.tuples(
        st.sampled_from(words),
        st.sampled_from([0, 0, 0, 1, 9, 70]),
        st.integers(0, 1000),
        st.integers(0, 1000),
        st.sampled_from([None, 0, 3, 40, 100, 300]),
    )
    return [
        step_of(name, *one)
        for name, one in enumerate(draw(st.lists(drawn, min_size=40, max_size=60)))
    ]


def step_of(name: int, *drawn: Any) -> Step:
    what, after, number, other, wait = drawn
    # No two have deadlines at the same time, nor a second apart.
    longest = math.inf if wait is None else wait * TICK + name * TICK / 2**12
    share = RequestOwner(f"key {number % 3}", (1.0, 0.1, 3.0)[number % 3], int(number % 5 == 0))
    tokens = 1 + other % 90
    cost = Cost((1, 1, 1, 2, 5)[other % 5], tokens)
    return Step(what, after, number, other, Ask(name, cost, tokens, 1 + tokens % 7, share, longest))


ROUTE = ModelRoute("m", ModelAvailability.SERVING, "m", max_queue=4, max_wait_seconds=2.0)


def lead(steps: Sequence[Step], first: Sequence[int], route: ModelRoute = ROUTE) -> History:
    """All steps, with replicas of so many slots to begin with."""
    history = History(route)
    for number, slots in enumerate(first):
        history.replicas.append(
            ReplicaRoute(
                f"first-{number}", "m", f"/none/first-{number}", "", slots, 0, 1000,
                service_seconds=0.3,
            )
        )  # fmt: skip
    history.table()
    for step in steps:
        history.step(step)
    history.pass_time(10_000)
    assert not any(len(side.dispatcher.queue) for side in history.sides)
    return history


@settings(max_examples=200)
@given(steps=histories(), first=st.lists(st.integers(1, 4), max_size=4))
def test_whatever_happens_all_three_decide_the_same(steps: list[Step], first: list[int]) -> None:
    lead(steps, first)


@pytest.mark.parametrize("make", SIDES)
def test_who_waited_in_vain_is_told_to_come_after_those_that_still_wait(
    make: Callable[[ModelRoute], Side],
) -> None:
    """100 wait for 4 slots of 2 s: the first that leaves would come after 99 others."""
    route = dataclasses.replace(ROUTE, max_queue=200, max_wait_seconds=1e6)
    side = make(route)
    side.apply(route, [ReplicaRoute("m-0", "m", "/none/0", "", 4, 0, 1000, service_seconds=2.0)])
    for name in range(104):
        side.arrive(Ask(name, Cost(1, 1)))
    side.run(1e6)
    told = [
        (outcome.code, outcome.retry_after_seconds)
        for _, outcome in side.decisions
        if isinstance(outcome, Rejected)
    ]
    assert len(told) == 100
    assert told[0] == ("queue_timeout", 50)
    assert told[-1] == ("queue_timeout", 1), "nobody waits any more"


@pytest.mark.parametrize("make", SIDES)
def test_the_queue_knows_of_all_slots_also_of_those_that_are_taken(
    make: Callable[[ModelRoute], Side],
) -> None:
    """They set the credit of keys that used less than their share."""
    side = make(ROUTE)
    side.apply(
        ROUTE,
        [ReplicaRoute(f"m-{n}", "m", f"/none/{n}", "", n, 0, 1000) for n in (2, 3)],
    )
    for name in range(5):
        side.arrive(Ask(name, Cost(1, 1)))
    side.arrive(Ask(5, Cost(2, 1)))
    assert side.dispatcher.queue._keys.slots == 5
    side.end(4)
    assert len(side.dispatcher.queue) == 1
    assert side.dispatcher.queue._keys.slots == 5


@pytest.mark.parametrize("make", SIDES)
def test_a_change_of_the_route_reaches_those_who_wait(
    make: Callable[[ModelRoute], Side],
) -> None:
    starting = dataclasses.replace(ROUTE, availability=ModelAvailability.STARTING, holds=True)
    side = make(starting)
    side.apply(starting, [])
    side.arrive(Ask(0, Cost(1, 1)))
    assert side.decisions == []
    side.apply(dataclasses.replace(ROUTE, availability=ModelAvailability.UNAVAILABLE), [])
    ((_, refused),) = side.decisions
    assert isinstance(refused, Rejected)
    assert refused.code == "model_unavailable"

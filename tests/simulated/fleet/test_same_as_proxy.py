"""Proxy and simulator make the same decisions in generated histories."""

import asyncio
import contextlib
import dataclasses
import itertools
import math
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.dispatch.admission import Cost, Rejected
from partitiond.core.dispatch.dispatcher import Dispatcher
from partitiond.core.dispatch.places import EVERYBODY, RequestOwner
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute, ReplicaRoute
from partitiond.core.hardware.kinds import SharingMode
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.dispatch.flights import Flight
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.dispatch.replicas import LiveReplica
from partitiond.simulated.fleet.device import FleetDevice
from partitiond.simulated.fleet.dispatch import FinishedRequest, FleetModel
from partitiond.simulated.fleet.engine import FleetEngine, FleetRequest
from partitiond.simulated.fleet.engine_model import EngineModel
from partitiond.simulated.fleet.events import SimulatedClock
from partitiond.simulated.fleet.places import FleetReplica
from tests.simulated.samples import ConstantSteps, candidate

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


class Side:
    """One of the two: a table reaches it, requests arrive, end and leave, time passes."""

    def __init__(self, dispatcher: Dispatcher[Any, Any]) -> None:
        self.decisions: list[Decision] = []
        self.draws = (0.0, 0.0)
        """Two numbers in turn, since one decision takes two: the same for both sides."""
        self.dispatcher = dispatcher
        turn = itertools.cycle((0, 1))
        dispatcher.places.draw = lambda: self.draws[next(turn)]

    def counts(self) -> tuple[int, int, int, int]:
        """All slots count, also those that are taken: they set the credit of modest keys."""
        of = self.dispatcher
        return len(of.queue), of.held, of.turned_away, of.queue._keys.slots


class HandLoop(asyncio.AbstractEventLoop):
    """An event loop with timers only, whose time passes where it is told to."""

    def __init__(self) -> None:
        self.clock = SimulatedClock()

    def time(self) -> float:
        return self.clock.now

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self)

        def due() -> None:
            if not handle.cancelled():
                callback(*args)

        self.clock.at(when, due)
        return handle


class InProxy(Side):
    def __init__(self, route: ModelRoute) -> None:
        self._loop = HandLoop()  # type: ignore[abstract]
        self._asked: dict[int, tuple[Ask, Flight]] = {}
        self._started: dict[int, float] = {}
        self._model = LiveModel(route)
        super().__init__(self._model.slots)

    @contextlib.contextmanager
    def _in_loop(self) -> Iterator[float]:
        asyncio._set_running_loop(self._loop)
        try:
            yield self._loop.time()
        finally:
            asyncio._set_running_loop(None)

    def apply(self, route: ModelRoute, replicas: Sequence[ReplicaRoute]) -> None:
        with self._in_loop():
            self._model.apply(route, replicas, ProxyOptions())

    def arrive(self, ask: Ask) -> None:
        def started(replica: Any) -> None:
            self._started[ask.name] = self._loop.time()
            self.decisions.append((ask.name, replica.replica_id))

        def refused(rejected: Rejected) -> None:
            self.decisions.append((ask.name, rejected))

        with self._in_loop() as now:
            owner: Any = types.SimpleNamespace(placed=started, refused=refused)
            flight = Flight(owner, "", ask.cost, now, ask.max_wait_seconds)
            flight.share = ask.share
            self._asked[ask.name] = ask, flight
            placed = self._model.place(flight)
            if isinstance(placed, LiveReplica):
                started(placed)
            elif placed is not None:
                refused(placed)

    def end(self, name: int) -> None:
        """In the order in which `proxy.edge.exchange` does it."""
        with self._in_loop() as now:
            ask, flight = self._asked[name]
            replica, slots = flight.replica, self._model.slots
            assert isinstance(replica, LiveReplica)
            flight.leave()
            slots.settle(flight, float(ask.prompt_tokens + ask.output_tokens))
            slots.learn(now - self._started[name])

    def run(self, until: float) -> None:
        with self._in_loop():
            self._loop.clock.run(until)


class FleetEngineByHand(FleetEngine):
    """It tells what starts."""

    started: Callable[[FleetRequest], None]

    def add(self, request: FleetRequest) -> None:
        self.started(request)


class InFleet(Side, FinishedRequest):
    def __init__(self, route: ModelRoute) -> None:
        self._clock = SimulatedClock()
        self._names: dict[FleetRequest, int] = {}
        self._requests: dict[int, FleetRequest] = {}
        self._where: dict[int, FleetReplica] = {}
        self._replicas: dict[str, FleetReplica] = {}
        self._model = FleetModel(self._clock, route, self)
        super().__init__(self._model.dispatcher)

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
        for one in replicas[len(self._replicas) :]:
            self._replicas[one.replica_id] = self._replica(one)
            self._model.add(self._replicas[one.replica_id])

    def arrive(self, ask: Ask) -> None:
        request = FleetRequest(self._clock.now, ask.prompt_tokens, ask.output_tokens, ask.cost)
        request.share, request.max_wait_seconds = ask.share, ask.max_wait_seconds
        self._names[request], self._requests[ask.name] = ask.name, request
        self._model.place(request)

    def end(self, name: int) -> None:
        self._model.ended(self._requests[name], self._where[name])

    def run(self, until: float) -> None:
        self._clock.run(until)


AnySide = InProxy | InFleet

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
    """Leads both sides through the same."""

    def __init__(self, route: ModelRoute) -> None:
        self.sides: tuple[AnySide, AnySide] = InProxy(route), InFleet(route)
        self.route = route
        self.replicas: list[ReplicaRoute] = []
        self.asked: dict[int, Ask] = {}
        self.running: dict[int, str] = {}
        self.waiting: list[int] = []
        self.now = 0.0
        self._seen = 0
        self._number = 0

    def each(self, act: Callable[[AnySide], None]) -> None:
        """It happens to both, and both decide the same."""
        for side in self.sides:
            act(side)
        first, other = self.sides
        assert other.decisions[self._seen :] == first.decisions[self._seen :]
        assert other.counts() == first.counts()
        for name, outcome in first.decisions[self._seen :]:
            self.waiting.remove(name)
            if isinstance(outcome, str):
                self.running[name] = outcome
        self._seen = len(first.decisions)

    def table(self) -> None:
        """The newest one reaches all."""
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
            side.draws = step.number % 16 / 16, step.other % 16 / 16
        number, other = step.number, step.other
        match step.what:
            case "arrive":
                self.arrive(step.ask)
            case "end" if self.running:
                name = list(self.running)[number % len(self.running)]
                del self.running[name]
                self.each(lambda side: side.end(name))
            case "come":
                kv_tokens, seconds = (0, 60, 200)[other % 3], 0.1 + 0.37 * (other % 9)
                self.replicas.append(
                    table_row(f"m-{self._number}", 1 + number % 6, kv_tokens, seconds)
                )
                self.table()


def step_of(name: int, drawn: tuple[str, int, int, int, int | None]) -> Step:
    what, after, number, other, wait = drawn
    # No two have deadlines at the same time, nor a second apart.
    longest = math.inf if wait is None else wait * TICK + name * TICK / 2**12
    share = RequestOwner(f"key {number % 3}", (1.0, 0.1, 3.0)[number % 3], int(number % 5 == 0))
    tokens = 1 + other % 90
    cost = Cost((1, 1, 1, 2, 5)[other % 5], tokens)
    return Step(what, after, number, other, Ask(name, cost, tokens, 1 + tokens % 7, share, longest))


WORDS = ["arrive"] * 12 + ["end"] * 7 + ["come"]
HISTORIES = st.lists(
    st.tuples(
        st.sampled_from(WORDS),
        st.sampled_from([0, 0, 0, 1, 9, 70]),
        st.integers(0, 1000),
        st.integers(0, 1000),
        st.sampled_from([None, 0, 3, 40, 100, 300]),
    ),
    min_size=40,
    max_size=60,
).map(lambda drawn: [step_of(name, one) for name, one in enumerate(drawn)])
ROUTE = ModelRoute("m", ModelAvailability.SERVING, "m", max_queue=4, max_wait_seconds=2.0)


def table_row(name: str, slots: int, kv_tokens: int, seconds: float) -> ReplicaRoute:
    url = f"/none/{name}"
    return ReplicaRoute(name, "m", url, "", slots, kv_tokens, 1000, service_seconds=seconds)


@settings(max_examples=100)
@given(steps=HISTORIES, first=st.lists(st.integers(1, 4), max_size=4))
def test_whatever_happens_both_decide_the_same(steps: list[Step], first: list[int]) -> None:
    """With replicas of so many slots to begin with."""
    history = History(ROUTE)
    history.replicas = [table_row(f"first-{n}", slots, 0, 0.3) for n, slots in enumerate(first)]
    history.table()
    for step in steps:
        history.step(step)
    history.pass_time(10_000)
    assert not any(len(side.dispatcher.queue) for side in history.sides)

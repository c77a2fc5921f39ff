"""The dispatcher of one model gives the right decisions when driven by hand."""

import dataclasses
import math

import pytest

from partitiond.core.dispatch.admission import Cost, Rejected, RequestOwner, Waiting, service_time
from partitiond.core.dispatch.dispatcher import Dispatcher
from partitiond.core.dispatch.fair_queue import FairQueue
from partitiond.core.dispatch.places import Request
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute
from tests.core.dispatch.fleet_hosts import ROUTE, OwnPlaces, Slots

STARTING = dataclasses.replace(ROUTE, availability=ModelAvailability.STARTING, holds=True)
UNAVAILABLE = dataclasses.replace(ROUTE, availability=ModelAvailability.UNAVAILABLE)


class SharedPlaces(OwnPlaces):
    def join(
        self, queue: FairQueue[Request], entry: Waiting[Request], most: int, *, again: bool
    ) -> Waiting[Request] | None:
        queue.max_entries = most - self.elsewhere[0]
        return super().join(queue, entry, most, again=again)


class Model:
    """A dispatcher with its replicas, r0 and on."""

    def __init__(self, *slots: int, seconds: float = 1.0, route: ModelRoute = ROUTE) -> None:
        self.replicas = [Slots(f"r{n}", max_sequences=most) for n, most in enumerate(slots)]
        self.slots = SharedPlaces(self.replicas, lambda: 0.0)
        self.dispatcher = Dispatcher(route, self.slots, service_time(seconds))
        self.dispatcher.changed(0.0)

    def come(self, request: Request, now: float = 0.0, *, again: bool = False) -> object:
        return self.dispatcher.arrives(request, now, again=again)

    def waits(self, *requests: Request, now: float = 0.0, again: bool = False) -> Waiting[Request]:
        """These come and wait; the last one's place in the queue."""
        for request in requests:
            entry = self.come(request, now, again=again)
            assert isinstance(entry, Waiting), entry
        return entry  # type: ignore[return-value]

    def refused(self, request: Request, now: float = 0.0) -> tuple[str, int | None]:
        return told(self.come(request, now))

    def decided(self, now: float = 0.0) -> list[tuple[Request, object]]:
        found: list[tuple[Request, object]] = []
        while (decision := self.dispatcher.next_decision(now)) is not None:
            found.append(decision)
        return found

    def ends(self, now: float = 0.0) -> list[tuple[str, int | None]]:
        """All that is decided are refusals: these."""
        return [told(outcome) for _, outcome in self.decided(now)]

    def starts(self, now: float = 0.0) -> list[Request]:
        """Those that start now, in their order."""
        found = self.decided(now)
        assert all(isinstance(outcome, Slots) for _, outcome in found)
        return [request for request, _ in found]

    def becomes(self, route: ModelRoute, now: float, *slots: int) -> None:
        """Another route, and replicas that come with it."""
        self.replicas += [Slots(f"new-{n}", max_sequences=most) for n, most in enumerate(slots)]
        self.dispatcher.changed(now, route=route)

    def hold(self, now: float = 4.0, route: ModelRoute = STARTING) -> list[tuple[Request, object]]:
        """Its replicas go, and another is promised; what is decided then."""
        for replica in self.replicas:
            replica.draining = True
        self.becomes(route, now)
        return self.decided(now)

    def paid(self, key: str) -> float:
        """Tokens of the queue that the key has had, per weight."""
        account = self.dispatcher.queue._keys._accounts.get(key)
        return 0.0 if account is None else max(0.0, account.tag)


def full(*slots: int, seconds: float = 1.0) -> Model:
    """A model on which every slot is taken."""
    model = Model(*slots, seconds=seconds)
    for replica in model.replicas:
        replica.sequences = replica.max_sequences
    return model


def ask(key: str = "", *, sequences: int = 1, wait: float = math.inf) -> Request:
    return Request(Cost(sequences, 100 * sequences), RequestOwner(key), wait)


def again_beside(*tried: str) -> Request:
    request = ask()
    request.tried = frozenset(tried)
    return request


def told(outcome: object) -> tuple[str, int | None]:
    assert isinstance(outcome, Rejected), outcome
    return outcome.code, outcome.retry_after_seconds


def test_it_waits_for_a_place_and_gets_the_first() -> None:
    model, waits = full(1), ask()
    entry = model.waits(waits, now=3.0)
    assert (entry.since, entry.deadline) == (3.0, 13.0)
    assert model.decided() == []
    model.replicas[0].sequences = 0
    assert model.decided() == [(waits, model.replicas[0])]
    assert model.replicas[0].sequences == 1
    assert model.dispatcher.is_idle
    assert waits.entry is None


def test_one_that_cannot_start_in_time_is_told_of_what_is_before_it() -> None:
    model = full(1, seconds=3.0)
    model.waits(ask(), ask(), ask())
    assert model.refused(ask()) == ("wait_too_long", 12)
    assert model.refused(ask("another", wait=2.0)) == ("wait_too_long", 3)


def test_who_waits_elsewhere_for_the_same_places_counts() -> None:
    model = full(1, seconds=3.0)
    model.slots.elsewhere = 2, 3
    assert model.refused(ask()) == ("wait_too_long", 12)
    model.dispatcher.service = service_time(1.0)
    model.waits(ask(), ask())
    refused = model.come(ask())
    assert told(refused) == ("queue_full", 6)
    assert "(4 requests wait)" in refused.message  # type: ignore[attr-defined]
    model.dispatcher.expires(next(iter(model.dispatcher.queue)), 10.0)
    assert model.ends() == [("queue_timeout", 5)]


def test_who_loses_its_place_is_told_so() -> None:
    model, flood = full(1), [ask("flood") for _ in range(4)]
    model.waits(*flood, ask("modest"))
    ((displaced, outcome),) = model.decided()
    assert (displaced, told(outcome)[0], displaced.entry) == (flood[-1], "queue_full", None)
    assert model.refused(ask("flood"))[0] == "queue_full"


def test_a_retry_goes_first_is_not_refused_and_pays_once() -> None:
    model = Model(1, 1)
    retried = ask()
    model.come(retried)
    model.come(ask())
    model.waits(*[ask(wait=9.0) for _ in range(4)])
    retried.tried = frozenset({"r0"})
    paid = model.paid("")
    model.dispatcher.service = service_time(100.0)  # nobody else would be taken
    model.waits(retried, again=True)
    model.replicas[1].sequences = 0
    assert model.decided() == [(retried, model.replicas[1])]
    model.replicas[1].sequences = 0
    assert model.come(retried, again=True) is model.replicas[1], "before those who wait"
    assert model.paid("") == paid


def test_a_retry_waits_for_a_replica_that_has_not_failed_it_and_is_not_kept_without() -> None:
    model, retried = full(1, 1), again_beside("r0")
    model.waits(retried, again=True)
    model.replicas[0].sequences = 0
    assert model.decided() == []
    model.replicas[1].sequences = 0
    assert model.decided() == [(retried, model.replicas[1])]
    model = full(1, 1)
    model.waits(again_beside("r0"), again=True)
    model.replicas[1].ejected = True
    model.dispatcher.changed(1.0)
    assert model.ends() == [("upstream_connect", 1)]


def test_who_leaves_is_told_nothing_any_more() -> None:
    model, first, second = full(1), ask(), ask()
    entry = model.waits(first)
    model.waits(second)
    assert [model.dispatcher.leaves(first), model.dispatcher.leaves(first)] == [True, False]
    assert not model.dispatcher.expires(entry, 10.0)
    model.replicas[0].sequences = 0
    assert model.starts() == [second]


def test_who_leaves_between_its_refusal_and_its_telling_is_not_told() -> None:
    model, first, second = full(1), ask(), ask()
    model.waits(first, second)
    model.replicas.clear()
    model.becomes(UNAVAILABLE, 1.0)
    decision = model.dispatcher.next_decision(1.0)
    assert decision is not None
    assert decision[0] is first
    assert not model.dispatcher.leaves(second), "it has no place in the queue"
    assert model.decided() == []


def test_a_deadline_that_passes_while_nobody_serves_is_no_lack_of_slots() -> None:
    model = Model(route=dataclasses.replace(STARTING, ready_at=5.0))
    entry = model.waits(ask())
    assert (model.dispatcher.held, model.dispatcher.turned_away) == (1, 0)
    assert model.dispatcher.expires(entry, 10.0)
    assert model.ends() == [("model_starting", 30)]


def test_while_nobody_serves_the_promise_and_the_queues_length_count() -> None:
    model = Model(route=dataclasses.replace(STARTING, ready_at=8.0))
    assert model.refused(ask(wait=7.0)) == ("model_starting", 8)
    assert model.refused(ask(wait=4.0), 3.5) == ("model_starting", 5)
    model.waits(ask(wait=4.5), now=3.5)
    assert (model.dispatcher.held, model.dispatcher.turned_away) == (1, 2)
    slow = Model(route=STARTING, seconds=1000.0)
    slow.waits(*[ask() for _ in range(4)])
    assert slow.refused(ask()) == ("queue_full", 1)
    assert slow.dispatcher.held == 4, "who was refused has not waited"
    unpromised = Model(route=dataclasses.replace(STARTING, holds=False))
    assert unpromised.refused(ask()) == ("model_starting", 30)
    assert unpromised.dispatcher.turned_away == 0


def test_who_waits_when_the_last_replica_goes_is_held_in_order_or_told() -> None:
    model, patient, hurried, last = full(1), ask(), ask(wait=6.0), ask()
    model.waits(patient, hurried, last)
    coming = dataclasses.replace(STARTING, ready_at=9.0, max_wait_seconds=30.0)
    (refused, outcome), *held = model.hold(4.0, coming)
    assert (refused, told(outcome)) == (hurried, ("model_starting", 5)), "4 s of its 6 are over"
    assert [request for request, _ in held] == [last, patient], "each goes to the front"
    assert [entry.deadline for _, entry in held if isinstance(entry, Waiting)] == [34.0, 34.0]
    assert len(model.dispatcher.queue) == 2
    assert (model.dispatcher.held, model.dispatcher.turned_away) == (2, 1)
    model.becomes(ROUTE, 9.0, 2)
    assert model.starts(9.0) == [patient, last]


@pytest.mark.parametrize(
    ("sequences", "how", "before"),
    [
        (1, "waits", 0), (1, "held twice", 0),
        # It had its turn, and did not fit; leaving the queue it got back what it had paid.
        (2, "set aside", 0),
        # As one that found nobody listening where it was sent.
        (1, "was admitted", 100),
    ],
)  # fmt: skip
def test_who_is_held_pays_once_when_it_starts(sequences: int, how: str, before: int) -> None:
    model, waits = full(2 * sequences - 1), ask("a", sequences=sequences)
    if how == "was admitted":
        model.replicas[0].sequences = 0
        assert isinstance(model.come(waits), Slots)
        model.waits(waits, now=1.0, again=True)
    else:
        model.replicas[0].sequences -= how == "set aside"
        model.waits(waits)
    if how == "set aside":
        assert model.decided() == []
        assert model.paid("a") == 200
    model.hold()
    if how == "held twice":
        model.becomes(ROUTE, 5.0, 1)
        model.replicas[1].sequences = 1
        assert model.decided(5.0) == []
        model.hold(6.0)
    assert model.paid("a") == before
    model.becomes(ROUTE, 9.0, sequences)
    assert model.starts(9.0) == [waits]
    assert model.paid("a") == 100 * sequences
    model.dispatcher.settle(waits, 60.0)
    assert model.paid("a") == 60 or how == "was admitted"


def test_who_is_held_and_leaves_pays_nothing() -> None:
    model, waits = full(1), ask("a")
    model.waits(waits)
    assert len(model.hold()) == 1
    assert model.dispatcher.leaves(waits)
    assert model.paid("a") == 0
    assert not model.dispatcher.queue._owing
    assert model.dispatcher.is_idle


def test_held_ones_are_told_once_no_replica_comes_any_more() -> None:
    model = Model(route=STARTING)
    model.come(ask())
    model.becomes(UNAVAILABLE, 1.0)
    assert model.ends() == [("model_unavailable", 30)]
    model.come(ask())
    model.becomes(STARTING, 1.0)
    model.waits(ask())
    model.dispatcher.changed(1.0, removed=True)
    assert [code for code, _ in model.ends()] == ["model_unavailable"]


def test_a_request_of_many_batches_takes_one_and_pays_for_all() -> None:
    model, large = Model(8, seconds=1.0), ask("a", sequences=1000)
    model.replicas[0].sequences = 7
    assert model.come(large) is model.replicas[0]
    assert (model.replicas[0].sequences, large.takes, large.rounds) == (15, Cost(8, 800), 125)
    assert model.paid("a") == 100_000
    model.dispatcher.settle(large, 60_000.0)
    assert model.paid("a") == 60_000
    small = ask()
    assert model.come(small) is not model.replicas[0]
    assert (small.takes, small.rounds) == (small.cost, 1)


def test_a_request_of_many_batches_keeps_others_waiting_as_one() -> None:
    """Else every other key would be told of a wait that the other replicas spare it."""
    model = full(8, 4)
    model.waits(ask("a", sequences=1000))
    assert model.dispatcher.queue.sequences == 8
    model.waits(ask("b"))
    model.replicas[1].sequences = 3
    (started,) = model.starts()
    assert (started.takes, started.rounds) == (Cost(4, 400), 250), "of the replica that it got"
    assert model.paid("a") == 100_000


def test_one_key_does_not_take_all_replicas_while_another_is_active() -> None:
    model, first, second = Model(8, 8), ask("a", sequences=1000), ask("a", sequences=1000)
    assert isinstance(model.come(ask("o")), Slots)
    taken = model.come(first)
    assert isinstance(taken, Slots)
    model.waits(second)
    assert model.starts() == []
    small = ask("o")
    model.waits(small)
    assert model.starts() == [small]
    assert model.starts() == []
    taken.sequences = 0
    assert model.starts() == [second]


def test_a_request_of_no_sequence_takes_one_place() -> None:
    replica = Slots("r", 2, max_sequences=2)
    dispatcher = Dispatcher(ROUTE, SharedPlaces([replica], lambda: 0.0))
    dispatcher.changed(0.0)
    assert isinstance(dispatcher.arrives(Request(Cost(0, 0)), 0.0), Waiting)
    assert dispatcher.queue.sequences == 1, "it is before those that come after it"
    replica.sequences = 1
    assert dispatcher.next_decision(0.0) is not None

"""The dispatcher of one model gives the right decisions when driven by hand."""

import dataclasses
import math

from partitiond.core.dispatch.admission import Cost, Rejected, ServiceTime, Waiting
from partitiond.core.dispatch.dispatcher import Dispatcher
from partitiond.core.dispatch.fair_queue import FairQueue
from partitiond.core.dispatch.places import Places, Request, RequestOwner
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute

ROUTE = ModelRoute("m", ModelAvailability.SERVING, "m", max_queue=4, max_wait_seconds=10.0)
STARTING = dataclasses.replace(ROUTE, availability=ModelAvailability.STARTING, holds=True)


@dataclasses.dataclass
class Replica:
    replica_id: str
    max_sequences: int
    sequences: int = 0
    kv_tokens: int = 0
    kv_cache_tokens: int = 0
    draining: bool = False
    ejected: bool = False


class Slots(Places[Request, Replica]):
    elsewhere = 0, 0

    def add(self, load: Replica, request: Request) -> None:
        load.sequences += request.cost.sequences

    def waiting_elsewhere(self) -> tuple[int, int]:
        return self.elsewhere

    def join(
        self, queue: FairQueue[Request], entry: Waiting[Request], most: int, *, again: bool
    ) -> Waiting[Request] | None:
        queue.max_entries = most - self.elsewhere[0]
        return super().join(queue, entry, most, again=again)


class Model:
    """A dispatcher with its replicas."""

    def __init__(self, *slots: int, seconds: float = 1.0, route: ModelRoute = ROUTE) -> None:
        self.replicas = [Replica(f"r{n}", limit) for n, limit in enumerate(slots)]
        self.slots = Slots(self.replicas, lambda: 0.0)
        self.dispatcher = Dispatcher(route, self.slots, ServiceTime(seconds))
        self.dispatcher.changed(0.0)

    def come(self, request: Request, now: float = 0.0, *, again: bool = False) -> object:
        return self.dispatcher.arrives(request, now, again=again)

    def decided(self, now: float = 0.0) -> list[tuple[Request, object]]:
        found: list[tuple[Request, object]] = []
        while (decision := self.dispatcher.next_decision(now)) is not None:
            found.append(decision)
        return found

    def fill(self, now: float = 0.0) -> list[Request]:
        """Take every slot."""
        made = [ask() for replica in self.replicas for _ in range(replica.max_sequences)]
        for request in made:
            assert isinstance(self.come(request, now), Replica)
        return made


def ask(key: str = "", *, sequences: int = 1, wait: float = math.inf) -> Request:
    return Request(Cost(sequences, 100 * sequences), RequestOwner(key), wait)


def told(outcome: object) -> tuple[str, int | None]:
    assert isinstance(outcome, Rejected)
    return outcome.code, outcome.retry_after_seconds


def test_it_starts_where_there_is_room_and_pays() -> None:
    model = Model(1, 4)
    assert model.come(ask("a")) is model.replicas[0]
    assert model.come(ask("a")) is model.replicas[1]
    assert model.dispatcher.queue._keys._accounts["a"].tag == 200.0


def test_it_waits_for_a_place_and_gets_the_first() -> None:
    model = Model(1)
    model.fill()
    waits = ask()
    entry = model.come(waits, 3.0)
    assert isinstance(entry, Waiting)
    assert (entry.since, entry.deadline) == (3.0, 13.0)
    assert model.decided() == []
    model.replicas[0].sequences = 0
    assert model.decided() == [(waits, model.replicas[0])]
    assert model.replicas[0].sequences == 1
    assert model.dispatcher.is_idle
    assert waits.entry is None


def test_it_waits_for_an_ejected_replica_that_comes_back() -> None:
    model = Model(1)
    model.replicas[0].ejected = True
    waits = ask()
    assert isinstance(model.come(waits), Waiting)
    assert model.decided() == []
    model.replicas[0].ejected = False
    assert model.decided() == [(waits, model.replicas[0])]


def test_one_that_cannot_start_in_time_is_told_of_what_is_before_it() -> None:
    model = Model(1, seconds=3.0)
    model.fill()
    for _ in range(3):
        assert isinstance(model.come(ask()), Waiting)
    assert told(model.come(ask())) == ("wait_too_long", 12)
    assert told(model.come(ask("another", wait=2.0))) == ("wait_too_long", 3)


def test_who_waits_elsewhere_for_the_same_places_counts() -> None:
    model = Model(1, seconds=3.0)
    model.fill()
    model.slots.elsewhere = 2, 3
    assert told(model.come(ask())) == ("wait_too_long", 12)
    model.dispatcher.service = ServiceTime(1.0)
    assert isinstance(model.come(ask()), Waiting)
    assert isinstance(model.come(ask()), Waiting)
    full = model.come(ask())
    assert told(full) == ("queue_full", 6)
    assert isinstance(full, Rejected)
    assert "(4 requests wait)" in full.message
    waits = next(iter(model.dispatcher.queue))
    model.dispatcher.expires(waits, 10.0)
    assert [told(outcome) for _, outcome in model.decided()] == [("queue_timeout", 5)]


def test_who_loses_its_place_is_told_so() -> None:
    model = Model(1)
    model.fill()
    flood = [ask("flood") for _ in range(4)]
    for request in flood:
        model.come(request)
    modest = ask("modest")
    assert isinstance(model.come(modest), Waiting)
    ((displaced, outcome),) = model.decided()
    assert displaced is flood[-1]
    assert told(outcome)[0] == "queue_full"
    assert displaced.entry is None
    assert told(model.come(ask("flood")))[0] == "queue_full"


def test_a_retry_goes_first_is_not_refused_and_pays_once() -> None:
    model = Model(1, 1)
    retried, *_ = model.fill()
    for _ in range(4):
        model.come(ask(wait=9.0))
    retried.tried = frozenset({"r0"})
    paid = model.dispatcher.queue._keys._accounts[""].tag
    model.dispatcher.service = ServiceTime(100.0)  # nobody else would be taken
    assert isinstance(model.come(retried, again=True), Waiting)
    model.replicas[1].sequences = 0
    assert model.decided() == [(retried, model.replicas[1])]
    model.replicas[1].sequences = 0
    assert model.come(retried, again=True) is model.replicas[1], "before those who wait"
    assert model.dispatcher.queue._keys._accounts[""].tag == paid


def test_a_retry_waits_for_a_replica_that_has_not_failed_it() -> None:
    model = Model(1, 1)
    retried, _ = model.fill()
    retried.tried = frozenset({"r0"})
    assert isinstance(model.come(retried, again=True), Waiting)
    model.replicas[0].sequences = 0
    assert model.decided() == []
    model.replicas[1].sequences = 0
    assert model.decided() == [(retried, model.replicas[1])]


def test_a_retry_with_nowhere_to_go_is_not_kept() -> None:
    model = Model(1, 1)
    model.fill()
    retried = ask()
    retried.tried = frozenset({"r0"})
    assert isinstance(model.come(retried, again=True), Waiting)
    model.replicas[1].ejected = True
    model.dispatcher.changed(1.0)
    ((refused, outcome),) = model.decided()
    assert refused is retried
    assert told(outcome) == ("upstream_connect", 1)


def test_who_leaves_is_told_nothing_any_more() -> None:
    model = Model(1)
    model.fill()
    first, second = ask(), ask()
    entry = model.come(first)
    assert isinstance(entry, Waiting)
    model.come(second)
    assert model.dispatcher.leaves(first)
    assert not model.dispatcher.leaves(first)
    assert not model.dispatcher.expires(entry, 10.0)
    model.replicas[0].sequences = 0
    assert model.decided() == [(second, model.replicas[0])]


def test_who_leaves_between_its_refusal_and_its_telling_is_not_told() -> None:
    model = Model(1)
    model.fill()
    waiting = [ask(), ask()]
    for request in waiting:
        model.come(request)
    model.replicas.clear()
    model.dispatcher.changed(1.0, route=dataclasses.replace(ROUTE, availability=UNAVAILABLE))
    first = model.dispatcher.next_decision(1.0)
    assert first is not None
    assert first[0] is waiting[0]
    assert not model.dispatcher.leaves(waiting[1]), "it has no place in the queue"
    assert model.decided() == []


UNAVAILABLE = ModelAvailability.UNAVAILABLE


def test_a_deadline_that_passes_while_nobody_serves_is_no_lack_of_slots() -> None:
    model = Model(route=dataclasses.replace(STARTING, ready_at=5.0))
    waits = ask()
    entry = model.come(waits)
    assert isinstance(entry, Waiting)
    assert (model.dispatcher.held, model.dispatcher.turned_away) == (1, 0)
    assert model.dispatcher.expires(entry, 10.0)
    assert [told(outcome) for _, outcome in model.decided()] == [("model_starting", 30)]


def test_who_cannot_wait_for_the_replica_is_told_when_it_comes() -> None:
    model = Model(route=dataclasses.replace(STARTING, ready_at=8.0))
    assert told(model.come(ask(wait=7.0))) == ("model_starting", 8)
    assert told(model.come(ask(wait=4.0), 3.5)) == ("model_starting", 5)
    assert isinstance(model.come(ask(wait=4.5), 3.5), Waiting)
    assert (model.dispatcher.held, model.dispatcher.turned_away) == (1, 2)


def test_while_nobody_serves_only_the_queues_length_counts() -> None:
    model = Model(route=STARTING, seconds=1000.0)
    for _ in range(4):
        assert isinstance(model.come(ask()), Waiting)
    assert told(model.come(ask())) == ("queue_full", 1)


def test_without_a_promise_nobody_waits_for_a_replica() -> None:
    model = Model(route=dataclasses.replace(STARTING, holds=False))
    assert told(model.come(ask())) == ("model_starting", 30)
    assert model.dispatcher.turned_away == 0


def test_who_waits_when_the_last_replica_goes_is_held_in_order_or_told() -> None:
    model = Model(1)
    model.fill()
    patient, hurried, last = ask(), ask(wait=6.0), ask()
    for request in (patient, hurried, last):
        model.come(request)
    model.replicas[0].draining = True
    coming = dataclasses.replace(STARTING, ready_at=9.0, max_wait_seconds=30.0)
    model.dispatcher.changed(4.0, route=coming)
    (refused, outcome), (one, longer), (other, as_long) = model.decided()
    assert refused is hurried
    assert told(outcome) == ("model_starting", 5)
    assert (one, other) == (last, patient), "each goes to the front"
    assert isinstance(longer, Waiting)
    assert isinstance(as_long, Waiting)
    assert longer.deadline == as_long.deadline == 34.0
    assert len(model.dispatcher.queue) == 2
    assert (model.dispatcher.held, model.dispatcher.turned_away) == (2, 1)
    model.replicas.append(Replica("new", 2))
    model.dispatcher.changed(9.0, route=ROUTE)
    assert [request for request, _ in model.decided(9.0)] == [patient, last]


def paid(model: Model, key: str) -> float:
    """Tokens of the queue that the key has had, per weight."""
    account = model.dispatcher.queue._keys._accounts.get(key)
    return 0.0 if account is None else max(0.0, account.tag)


def hold(model: Model, now: float = 4.0) -> None:
    """Its replicas go, and another is promised."""
    for replica in model.replicas:
        replica.draining = True
    model.dispatcher.changed(now, route=STARTING)
    model.decided(now)


def test_who_is_held_pays_when_it_starts() -> None:
    model = Model(1)
    model.fill()
    waits = ask("a")
    model.come(waits)
    hold(model)
    assert paid(model, "a") == 0
    model.replicas.append(Replica("new", 1))
    model.dispatcher.changed(9.0, route=ROUTE)
    assert model.decided(9.0) == [(waits, model.replicas[1])]
    assert paid(model, "a") == 100
    model.dispatcher.settle(waits, 60.0)
    assert paid(model, "a") == 60


def test_who_is_held_twice_pays_once() -> None:
    model = Model(1)
    model.fill()
    waits = ask("a")
    model.come(waits)
    hold(model)
    model.replicas.append(Replica("full", 1, sequences=1))
    model.dispatcher.changed(5.0, route=ROUTE)
    assert model.decided(5.0) == []
    hold(model, 6.0)
    model.replicas.append(Replica("new", 1))
    model.dispatcher.changed(9.0, route=ROUTE)
    assert [request for request, _ in model.decided(9.0)] == [waits]
    assert paid(model, "a") == 100


def test_who_is_held_after_it_was_set_aside_pays_once() -> None:
    """It had its turn, and did not fit; leaving the queue it got back what it had paid."""
    model = Model(2)
    assert isinstance(model.come(ask()), Replica)
    large = ask("a", sequences=2)
    model.come(large)
    model.decided()
    assert paid(model, "a") == 200
    hold(model)
    assert paid(model, "a") == 0
    model.replicas.append(Replica("new", 2))
    model.dispatcher.changed(9.0, route=ROUTE)
    assert [request for request, _ in model.decided(9.0)] == [large]
    assert paid(model, "a") == 200


def test_who_is_held_after_it_was_admitted_has_paid() -> None:
    """As one that found nobody listening where it was sent."""
    model = Model(1)
    sent = ask("a")
    assert model.come(sent) is model.replicas[0]
    assert paid(model, "a") == 100
    assert isinstance(model.come(sent, 1.0, again=True), Waiting)
    hold(model)
    model.replicas.append(Replica("new", 1))
    model.dispatcher.changed(9.0, route=ROUTE)
    assert [request for request, _ in model.decided(9.0)] == [sent]
    assert paid(model, "a") == 100


def test_who_is_held_and_leaves_pays_nothing() -> None:
    model = Model(1)
    model.fill()
    waits = ask("a")
    model.come(waits)
    hold(model)
    assert model.dispatcher.leaves(waits)
    assert paid(model, "a") == 0
    assert not model.dispatcher.queue._owing


def test_who_is_held_may_leave() -> None:
    model = Model(1)
    model.fill()
    waits = ask()
    model.come(waits)
    model.replicas[0].draining = True
    model.dispatcher.changed(4.0, route=STARTING)
    assert len(model.decided()) == 1
    assert model.dispatcher.leaves(waits)
    assert model.dispatcher.is_idle


def test_what_was_waited_already_counts() -> None:
    model = Model(1)
    model.fill()
    model.come(ask(wait=6.0))
    model.replicas[0].draining = True
    model.dispatcher.changed(4.0, route=dataclasses.replace(STARTING, ready_at=9.0))
    assert [told(outcome) for _, outcome in model.decided()] == [("model_starting", 5)]


def test_held_ones_are_told_once_no_replica_comes_any_more() -> None:
    model = Model(route=STARTING)
    model.come(ask())
    model.dispatcher.changed(1.0, route=dataclasses.replace(ROUTE, availability=UNAVAILABLE))
    assert [told(outcome) for _, outcome in model.decided()] == [("model_unavailable", 30)]
    model.come(ask())
    model.dispatcher.changed(1.0, route=STARTING)
    assert isinstance(model.come(ask()), Waiting)
    model.dispatcher.changed(1.0, removed=True)
    assert [told(outcome)[0] for _, outcome in model.decided()] == ["model_unavailable"]


def test_a_pace_is_learned_beside_another_replica_only() -> None:
    alone, two = Model(1), Model(1, 1)
    for model in (alone, two):
        for _ in range(20):
            model.dispatcher.learn("r0", 9.0, 1.0, 1.0, 0.0)
            model.dispatcher.learn("r1", 1.0, 1.0, 1.0, 0.0)
    assert not alone.dispatcher.slowness.factors(1.0)
    assert two.dispatcher.slowness.factors(1.0)
    assert alone.dispatcher.service.seconds > 1.0


def test_what_each_takes_may_be_given() -> None:
    replica = Replica("r", 2)
    dispatcher = Dispatcher(ROUTE, Slots([replica], lambda: 0.0), each=Cost(1, 0))
    dispatcher.changed(0.0)
    replica.sequences = 2
    assert isinstance(dispatcher.arrives(Request(Cost(0, 0)), 0.0), Waiting)
    assert dispatcher.queue.sequences == 1, "it is before those that come after it"
    replica.sequences = 1
    assert dispatcher.next_decision(0.0) is not None

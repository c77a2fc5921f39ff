"""The event loop's work grows with the size of the fleet, and nothing is done twice.

The tests count calls, not seconds: each of these calls was once made for every pair of objects, or
repeated for all objects at every request.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from pydantic import TypeAdapter
from sqlalchemy import event

from partitiond import serde
from partitiond.api import profile_rows
from partitiond.api.app import create_app
from partitiond.api.replies import ANSWERS
from partitiond.controller.journal import MOST_AT_ONCE, Journal
from partitiond.controller.plans import demands
from partitiond.controller.profiles import staleness, targets
from partitiond.controller.runtime import engine_matching as holdings
from partitiond.controller.runtime import launches, routes
from partitiond.controller.runtime.loop import STARTS_PER_PASS, of_one_pass
from partitiond.controller.runtime.routes import RoutedEngine, RoutePolicy, routing_from
from partitiond.controller.views import records as views
from partitiond.core.demand.traffic import UsageCount
from partitiond.core.dispatch.routing import ModelAvailability
from partitiond.core.events import Event
from partitiond.core.hardware.partition import MpsShare
from partitiond.core.keys.usage import UsagePosition, Used
from partitiond.core.plan.record import Infeasible
from partitiond.core.replica.observation import (
    Action,
    ObservedReplica,
    StartEngine,
    StopEngine,
    StopReason,
)
from partitiond.core.replica.states import ReplicaState
from partitiond.core.units import Bytes
from partitiond.devices.fake import fake_gpus
from partitiond.planner.model.types import PlanRequest
from partitiond.store import SqlStore, open_store
from tests.api.conftest import TOKEN, asking
from tests.controller.fakes import FakeClock
from tests.controller.host import Host, serving
from tests.controller.samples import NOW, measured_profile, placement, plan, record, spec

MANY = 40


class Counted:
    """Counts the calls of functions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        self._monkeypatch = monkeypatch

    def count(
        self, where: Any, name: str, which: Callable[..., bool] = lambda *_, **__: True
    ) -> None:
        """Count a function where it is used, by its name, or those calls of which this holds."""
        plain = getattr(where, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += which(*args, **kwargs)
            return plain(*args, **kwargs)

        self._monkeypatch.setattr(where, name, counted)

    def taken(self) -> dict[str, int]:
        """The calls since the last time."""
        found = dict(self.calls)
        self.calls.clear()
        return found


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def names() -> list[str]:
    return [f"m{number:02d}" for number in range(MANY)]


def engine(model: str) -> RoutedEngine:
    state, place = ReplicaState.SERVING, placement(f"{model}-1")
    observed = ObservedReplica(f"{model}-1", f"g-{model}", place, state, 0, state_since=0.0)
    return RoutedEngine(observed, f"{model}-1", f"/run/{model}.sock", 4096, 256)


def test_each_model_is_routed_by_its_own_engines_alone(counted: Counted) -> None:
    counted.count(routes, "_serves")
    table = routing_from(
        desired=[placement(f"{name}-1") for name in names()],
        engines=[engine(name) for name in names()],
        models=[record(name) for name in names()],
        keys=[],
        policy=RoutePolicy(),
        version=1,
    )
    assert counted.taken()["_serves"] <= 6 * MANY
    assert {route.availability for route in table.models} == {ModelAvailability.SERVING}
    assert [route.replica_id for route in table.replicas] == [f"{name}-1" for name in names()]


def test_each_place_is_compared_with_its_own_replicas_engines_alone(counted: Counted) -> None:
    counted.count(holdings, "is_engine_of")
    places = [placement(f"{name}-1") for name in names()]
    found = holdings.held(places, [], (), lambda place: place.replica_id)
    assert [name for name, _ in found] == [f"{name}-1" for name in names()]
    seen = views.placed_views(
        places, [], name_for=lambda place: place.replica_id, asleep=(), fetching={}, hosts={}
    )
    assert len(seen) == MANY
    assert counted.taken().get("is_engine_of", 0) <= 2 * MANY


def test_the_cores_of_other_engines_are_gone_through_once() -> None:
    class Launch:
        looks = 0

        @property
        def cores(self) -> tuple[int, ...]:
            Launch.looks += 1
            return (0, 1)

    (device,) = fake_gpus("a100-80gb", 1, cores=range(64))
    others: Sequence[Any] = [Launch() for _ in range(MANY)]
    share = MpsShare(device.id, Bytes(2**30), 10)
    place = dataclasses.replace(placement("a-1"), device_id=device.id, partition=share)
    cores = launches.cores_for(place, device, others)
    assert Launch.looks == MANY
    assert not {0, 1} & set(cores)


def test_a_pass_starts_so_many_engines_and_does_all_else() -> None:
    starts: list[Action] = [StartEngine(placement(f"{name}-1"), 60.0) for name in names()]
    stop = StopEngine("z-1", "g", StopReason.NOT_WANTED, 1.0)
    decided = (stop, *starts, stop)
    done = of_one_pass(decided)
    assert done == (stop, *starts[:STARTS_PER_PASS], stop)
    assert of_one_pass(done) == done
    assert STARTS_PER_PASS < MANY


class FewCalls:
    """A store of events, which counts how often it is written."""

    def __init__(self) -> None:
        self.written: list[int] = []

    def add_events(self, events: Sequence[Event]) -> Sequence[Event]:
        self.written.append(len(events))
        return events


def test_what_one_plan_changes_is_written_at_once() -> None:
    store = FewCalls()
    journal = Journal(store, FakeClock())  # type: ignore[arg-type]
    new = plan(*(placement(f"{name}-1") for name in names()))
    journal.plan_applied(new, None, new.devices, names())
    assert store.written == [MANY]
    with journal.together():
        journal.note("one", "s", "m")
        journal.note("two", "s", "m")
        assert store.written == [MANY]
    assert store.written == [MANY, 2]
    journal.note("three", "s", "m")
    assert store.written == [MANY, 2, 1]


def test_no_transaction_holds_more_events_than_take_some_tens_of_milliseconds() -> None:
    store = FewCalls()
    journal = Journal(store, FakeClock())  # type: ignore[arg-type]
    with journal.together():
        for number in range(MOST_AT_ONCE + 1):
            journal.note("k", str(number), "m")
    assert store.written == [MOST_AT_ONCE, 1]


def test_what_is_noted_in_a_block_that_breaks_is_written_as_well() -> None:
    store = FewCalls()
    journal = Journal(store, FakeClock())  # type: ignore[arg-type]
    with contextlib.suppress(ZeroDivisionError), journal.together():
        journal.note("one", "s", "m")
        raise ZeroDivisionError
    assert store.written == [1]


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    """Models with two profiles each, which nobody has planned."""
    here = Host(solve=nothing_found)
    for name in names():
        here.store.add_model(record(name, auto=False))
        here.measured(name)
    async with serving(here):
        yield here


async def nothing_found(_: PlanRequest, **__: object) -> Infeasible:
    return Infeasible(("nothing is searched for.",), ())


async def test_what_did_not_change_is_made_once_for_all_plans(host: Host, counted: Counted) -> None:
    await host.service.plans.preview()
    counted.count(demands, "candidates_for")
    counted.count(targets, "best_profiles")
    counted.count(staleness, "stale_reasons")
    await host.service.plans.preview()
    assert counted.taken() == {}
    host.service.profiles.keep(measured_profile("m07", cores=1, profile_id="z-newest"))
    await host.service.plans.preview()
    made = counted.taken()
    assert made["candidates_for"] == 1
    assert made["best_profiles"] <= 2  # for plans, and for what is shown
    assert made["stale_reasons"] <= 2


async def test_no_request_waits_for_what_reads_requests_to_be_built(
    host: Host, counted: Counted
) -> None:
    app = create_app(host.service, admin_token=TOKEN)
    serde.prepare(ANSWERS)
    counted.count(TypeAdapter, "__init__")
    async with asking(app) as http:
        (await http.post("/plan", json={})).raise_for_status()
        (await http.get("/models")).raise_for_status()
    assert counted.taken().get("__init__", 0) == 0


def statements(store: SqlStore) -> list[str]:
    """The statements that a store runs from now on; one that is run with many values is one."""
    seen: list[str] = []
    event.listen(
        store._engine,
        "before_cursor_execute",
        lambda _conn, _cursor, statement, *_: seen.append(statement),
    )
    return seen


def test_what_many_keys_used_is_booked_in_as_many_statements_as_of_one() -> None:
    store = open_store(":memory:")

    def book(used: dict[str, int], epoch: str) -> None:
        counts = {key: {"a": UsageCount(requests=many)} for key, many in used.items()}
        position = UsagePosition(epoch, counts, {})
        store.add_usage(
            "2030-01-31T17", {(key, "a"): Used(requests=n) for key, n in used.items()}, position
        )
        assert store.usage_position() == position

    seen = statements(store)
    book({"k": 1}, "one")
    few = len(seen)
    book(dict.fromkeys(names(), 2), "one")
    del seen[:]
    book({**dict.fromkeys(names(), 3), "k": 1}, "two")
    assert len(seen) - 1 <= few + 1  # the position is read back; keys that are gone are deleted
    hours = {one.key_id: one.used.requests for one in store.usage("2030-01-31T17", "2030-01-31T17")}
    assert hours == {**dict.fromkeys(names(), 5), "k": 2}
    store.close()


def test_many_events_are_written_in_one_statement_and_keep_their_order() -> None:
    store = open_store(":memory:")
    given = [Event(0, NOW, "k", name, f"of {name}", "") for name in names()]
    seen = statements(store)
    stored = store.add_events(given)
    assert sum(one.startswith("INSERT") for one in seen) == 1
    assert [one.subject for one in stored] == names()
    assert [one.id for one in stored] == list(range(1, MANY + 1))
    later = store.add_events(
        [Event(0, NOW, "k", "late", "m", ""), Event(0, NOW, "k", "z", "m", "")]
    )
    assert [one.id for one in later] == [MANY + 1, MANY + 2]
    assert list(store.events()) == [*stored, *later]
    assert not store.add_events([])
    store.close()


async def test_a_profile_is_serialised_once_for_all_lists(host: Host, counted: Counted) -> None:
    counted.count(profile_rows, "to_json_bytes", lambda value: not isinstance(value, tuple))
    app = create_app(host.service, admin_token=TOKEN)
    async with asking(app) as http:

        async def listed(**params: str) -> bytes:
            answer = await http.get("/profiles", params=params)
            views = host.service.profiles.views(params.get("model"))
            assert answer.json() == [serde.to_jsonable(view) for view in views]
            return answer.content

        first = await listed()
        assert counted.taken()["to_json_bytes"] == 2 * MANY
        assert await listed() == first
        await listed(model="m03")
        assert counted.taken().get("to_json_bytes", 0) == 0
        # Another one under an id that is known is another one.
        known = host.service.parts.store.profiles("m03")[0]
        changed = dataclasses.replace(known, dtype="float16")
        host.service.profiles.keep(changed, replace=True)
        await listed(model="m03")
        assert await listed() != first
        assert counted.taken()["to_json_bytes"] == 1
        host.service.profiles.prune(delete=True)
        await listed()
        assert counted.taken().get("to_json_bytes", 0) == 0


def test_what_is_stale_is_compared_again_once_anything_has_changed() -> None:
    profile, other = measured_profile("a"), measured_profile("b")
    version, revision = ["1.0.0"], ["r1"]
    known = staleness.Staleness(
        spec_of=spec,
        fetched_revision=lambda _: revision[0],
        engine_version=lambda _: version[0],
        devices=tuple,
    )
    made = profile.provenance
    assert made.engine_version != "9.9.9"
    before = known.reasons(profile), known.reasons(other)
    assert (known.reasons(profile), known.reasons(other)) == before
    version[0] = "9.9.9"
    assert known.reasons(profile) != before[0]
    version[0] = "1.0.0"
    assert known.reasons(profile) == before[0]
    # Another profile under the same id is another one.
    now = dataclasses.replace(made, engine_version="9.9.9")
    replaced = dataclasses.replace(profile, provenance=now)
    version[0] = "9.9.9"
    assert known.reasons(profile)
    assert known.reasons(replaced) == ()

"""The event loop's work grows with the size of the fleet, and nothing is done twice.

The tests count calls, not seconds: each of these calls was once made for every pair of objects, or
repeated for all objects at every request.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
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
from partitiond.controller.runtime.loop import STARTS_PER_PASS, limit_starts
from partitiond.core.demand.traffic import UsageCount
from partitiond.core.events import Event
from partitiond.core.keys.usage import UsagePosition
from partitiond.core.plan.record import Infeasible
from partitiond.core.replica.observation import (
    Action,
    StartEngine,
    StopEngine,
    StopReason,
)
from partitiond.planner.model.types import PlanRequest
from partitiond.store import open_store
from tests.api.conftest import TOKEN, asking
from tests.controller.fakes import FakeClock
from tests.controller.host import Host
from tests.controller.samples import measured_profile, placement, plan, record

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


def test_a_pass_starts_so_many_engines_and_does_all_else() -> None:
    starts: list[Action] = [StartEngine(placement(f"{name}-1")) for name in names()]
    stop = StopEngine("z-1", "g", StopReason.NOT_WANTED, 1.0)
    decided = (stop, *starts, stop)
    done = limit_starts(decided)
    assert done == (stop, *starts[:STARTS_PER_PASS], stop)
    assert limit_starts(done) == done
    assert STARTS_PER_PASS < MANY


class FewCalls:
    """A store of events, which counts how often it is written."""

    def __init__(self) -> None:
        self.written: list[int] = []

    def add_events(self, events: Sequence[Event]) -> Sequence[Event]:
        self.written.append(len(events))
        return events


def test_what_one_plan_changes_is_written_at_once_and_not_too_much_of_it() -> None:
    """No transaction holds more events than take some tens of milliseconds."""
    store = FewCalls()
    journal = Journal(store, FakeClock())  # type: ignore[arg-type]
    new = plan(*(placement(f"{name}-1") for name in names()))
    journal.plan_applied(new, None, new.devices, names())
    with journal.one_transaction():
        journal.note("one", "s", "m")
        journal.note("two", "s", "m")
        assert store.written == [MANY]
    journal.note("three", "s", "m")
    with contextlib.suppress(ZeroDivisionError), journal.one_transaction():
        journal.note("four", "s", "m")
        raise ZeroDivisionError
    with journal.one_transaction():
        for number in range(MOST_AT_ONCE + 1):
            journal.note("k", str(number), "m")
    assert store.written == [MANY, 2, 1, 1, MOST_AT_ONCE, 1]


def make_host() -> Host:
    """Models with two profiles each, which nobody has planned."""
    here = Host(solve=nothing_found)
    for name in names():
        here.store.add_model(record(name, auto=False))
        here.measured(name)
    return here


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


def test_what_many_keys_used_is_booked_in_as_many_statements_as_of_one() -> None:
    store = open_store(":memory:")
    seen: list[str] = []
    event.listen(
        store._engine, "before_cursor_execute", lambda _conn, _cursor, text, *_: seen.append(text)
    )

    def book(used: dict[str, int], epoch: str) -> int:
        del seen[:]
        counts = {key: {"a": UsageCount(requests=many)} for key, many in used.items()}
        used_now = {(key, "a"): UsageCount(n) for key, n in used.items()}
        store.add_usage("2030-01-31T17", used_now, {"": UsagePosition(epoch, counts)})
        return len(seen)

    few = book({"k": 1}, "one")
    book(dict.fromkeys(names(), 2), "one")
    assert book({**dict.fromkeys(names(), 3), "k": 1}, "two") <= few + 1  # keys that are gone
    hours = {one.key_id: one.requests for one in store.usage("2030-01-31T17", "2030-01-31T17")}
    assert hours == {**dict.fromkeys(names(), 5), "k": 2}
    store.close()


async def test_a_profile_is_serialised_once_for_all_lists_and_no_request_builds_readers(
    host: Host, counted: Counted
) -> None:
    app = create_app(host.service, admin_token=TOKEN)
    serde.prepare(ANSWERS)
    counted.count(profile_rows, "to_json_bytes", lambda value: not isinstance(value, tuple))
    counted.count(TypeAdapter, "__init__")
    async with asking(app) as http:

        async def listed(**params: str) -> bytes:
            answer = await http.get("/profiles", params=params)
            views = host.service.profiles.views(params.get("model"))
            assert answer.json() == [serde.to_jsonable(view) for view in views]
            return answer.content

        first = await listed()
        assert counted.taken() == {"to_json_bytes": 2 * MANY}
        assert await listed() == first
        await listed(model="m03")
        (await http.post("/plan", json={})).raise_for_status()
        assert sum(counted.taken().values()) == 0
        # Another one under an id that is known is another one.
        known = host.service.parts.store.profiles("m03")[0]
        changed = dataclasses.replace(known, dtype="float16")
        host.service.profiles.keep(changed, replace=True)
        await listed(model="m03")
        assert await listed() != first
        assert counted.taken()["to_json_bytes"] == 1

"""Events are found by their fields, and kept for as long as promised."""

import dataclasses

import pytest

from partitiond.core.events import EventFilter
from partitiond.store import Store, event_repository


def messages(store: Store, wanted: EventFilter, after: int = 0, limit: int = 200) -> list[str]:
    return [event.message for event in store.events(after, limit, wanted)]


def test_each_condition_narrows(store: Store) -> None:
    store.add_event("2030-01-01T00:00:00.000Z", "plan-applied", "plan-1", "1", actor="ada@a")
    store.add_event("2030-01-02T00:00:00.000Z", "plan-waits", "plan-2", "2")
    store.add_event("2030-01-03T00:00:00.000Z", "planet", "plan_3", "3", actor="bob@b")
    assert messages(store, EventFilter(kinds=("plan-*",))) == ["1", "2"]
    assert messages(store, EventFilter(kinds=("plan-waits", "planet"))) == ["2", "3"]
    assert messages(store, EventFilter(subject="plan-*")) == ["1", "2"]
    assert messages(store, EventFilter(subject="plan_*")) == ["3"]
    assert messages(store, EventFilter(actor="*")) == ["1", "3"]
    assert messages(store, EventFilter(actor="ada@a")) == ["1"]
    assert messages(store, EventFilter(actor="Ada@*")) == [], "another person"
    assert messages(store, EventFilter(since="2030-01-02T00:00:00.000Z")) == ["2", "3"]
    assert messages(store, EventFilter(until="2030-01-02T00:00:00.000Z")) == ["1"]
    since = EventFilter(since="2030-01-01T00:00:00.000Z")
    assert [event.message for event in store.events(0, 2, since)] == ["1", "2"]
    newest = dataclasses.replace(since, newest=True)
    assert [event.message for event in store.events(0, 2, newest)] == ["2", "3"]
    assert messages(store, EventFilter(actor="*", since="2030-01-02T00:00:00.000Z")) == ["3"]


def test_the_newest_come_without_a_beginning_and_the_oldest_with_one(store: Store) -> None:
    for number in range(5):
        store.add_event(f"2030-01-0{number + 1}T00:00:00.000Z", "k", "s", str(number))
    assert messages(store, EventFilter(kinds=("k",)), limit=2) == ["3", "4"]
    assert messages(store, EventFilter(since="2030-01-02"), limit=2) == ["1", "2"]
    assert messages(store, EventFilter(kinds=("k",)), after=2, limit=2) == ["2", "3"]


def test_what_somebody_asked_for_outlives_what_happened_by_itself(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_repository, "MAX_EVENTS", 10)
    monkeypatch.setattr(event_repository, "MAX_AUDIT_EVENTS", 50)
    monkeypatch.setattr(event_repository, "DROP_EVERY", 5)
    for number in range(1, 101):
        store.add_event("t", "k", "s", str(number), actor="ada" if number % 20 == 0 else "")
    named = messages(store, EventFilter(actor="*"), limit=1000)
    assert named == ["60", "80", "100"]
    everything = messages(store, EventFilter(), limit=1000)
    assert [m for m in everything if m not in named] == [str(n) for n in range(91, 100)]

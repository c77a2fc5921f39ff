"""The event loop never waits for a store whose lock another process holds."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from partitiond.core.errors import StoreBusyError
from partitiond.core.events import Event
from partitiond.core.model.record import ModelRecord
from partitiond.store import SqlStore, open_store
from tests.store.holder import locked

MakeRecord = Callable[..., ModelRecord]
PATIENCE_SECONDS = 0.05


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    made = open_store(tmp_path / "s.sqlite3", patience_seconds=PATIENCE_SECONDS)
    yield made
    made.close()


def test_a_lock_is_waited_for_once_and_the_next_writes_only_try(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partitiond.store.sessions.LOCKED_SECONDS", 3600.0)
    with locked(store.path):
        for patience_ms in (PATIENCE_SECONDS * 1000, 0, 0):
            assert store._patience_ms() == patience_ms
            with pytest.raises(StoreBusyError, match="locked by another process"):
                store.add_event("t", "k", "s", "m")
        assert store.events() == []  # readers are not stopped
    store.add_event("t", "k", "s", "m")
    assert len(store.events()) == 1


def test_whoever_waits_is_told_that_it_is_still_locked(store: SqlStore) -> None:
    with locked(store.path), pytest.raises(StoreBusyError) as caught:
        store.wait_until_writable(0.01)
    assert "nothing was changed" in caught.value.hint
    store.wait_until_writable(0.0)


def test_after_a_wait_that_ended_well_calls_are_patient_again(
    store: SqlStore, make_record: MakeRecord
) -> None:
    with locked(store.path), pytest.raises(StoreBusyError):
        store.add_model(make_record())
    store.wait_until_writable(5.0)
    assert store._patience_ms() == PATIENCE_SECONDS * 1000
    store.add_model(make_record())


def test_a_store_in_memory_is_nobody_elses() -> None:
    store = open_store(":memory:")
    store.wait_until_writable(0.0)
    store.close()


def test_events_are_stored_together_or_not_at_all(store: SqlStore) -> None:
    events = [Event(0, "t", "k", str(number), "m") for number in range(5)]
    with locked(store.path), pytest.raises(StoreBusyError):
        store.add_events(events)
    assert store.events() == []
    stored = store.add_events(events)
    assert [event.subject for event in stored] == ["0", "1", "2", "3", "4"]
    assert [event.id for event in stored] == sorted(event.id for event in stored)
    assert list(store.events()) == list(stored)

"""The event loop never waits for a store whose lock another process holds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.errors import StoreBusyError
from partitiond.core.events import Event
from partitiond.store import Store, open_store
from tests.store.holder import locked

PATIENCE_SECONDS = 0.05


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = open_store(tmp_path / "s.sqlite3", patience_seconds=PATIENCE_SECONDS)
    yield made
    made.close()


def test_a_lock_is_waited_for_once_and_the_next_writes_only_try(
    store: Store, monkeypatch: pytest.MonkeyPatch
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


def test_after_a_wait_that_ended_well_calls_are_patient_again(store: Store) -> None:
    events = [Event(0, "t", "k", str(number), "m") for number in range(5)]
    with locked(store.path):
        with pytest.raises(StoreBusyError):
            store.add_events(events)
        with pytest.raises(StoreBusyError) as caught:
            store.wait_until_writable(0.01)
    assert "nothing was changed" in caught.value.hint
    store.wait_until_writable(5.0)
    assert store._patience_ms() == PATIENCE_SECONDS * 1000
    assert store.events() == [], "events are stored together or not at all"
    stored = store.add_events(events)
    assert [event.subject for event in stored] == ["0", "1", "2", "3", "4"]
    assert [event.id for event in stored] == sorted(event.id for event in stored)
    assert list(store.events()) == list(stored)

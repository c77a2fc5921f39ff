"""The record of a head: kept in its store, counted at each start, above all epochs after a
take-over.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.errors import StoreError
from partitiond.hosts import head
from partitiond.hosts.calls.fencing import HeadSession, Obedience, obedience
from partitiond.store import Store, open_store

NOW = "2026-01-01T00:00:00Z"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "store.sqlite3")
    yield opened
    opened.close()


def started(store: Store) -> HeadSession:
    return head.start_head(lambda _: None, store, NOW, is_head=True)


def test_a_head_is_overtaken_by_a_higher_epoch_that_a_host_of_its_own_obeys() -> None:
    """Or by a later start of its own, of which there is one after the restore of a backup."""
    assert head.overtaken(2, {}) == ""
    assert head.overtaken(2, {"two": 0, "three": 1}) == ""
    assert "later start of this control plane" in head.overtaken(2, {"two": 2})
    why = head.overtaken(2, {"two": 3, "three": 5, "four": 5, "five": 0})
    assert "with epoch 5; this one has 2" in why
    assert "partitiond hosts --forget four" in why


def test_each_start_counts_and_a_take_over_is_another_head_of_a_higher_epoch(
    store: Store, tmp_path: Path
) -> None:
    assert head.load_head(store) is None
    first, second = started(store), started(store)
    assert (first.id, first.epoch, first.start) == (second.id, 1, 1)
    assert second.start == 2
    assert first.session != second.session
    head.note_epoch(store, 4, NOW)
    head.note_epoch(store, 3, NOW)
    took = head.take_over(store, NOW)
    assert (took.epoch, took.starts) == (5, 2)
    assert took.id != first.id
    store.close()
    again = open_store(tmp_path / "store.sqlite3")
    assert head.load_head(again) == took
    third = started(again)
    again.close()
    assert (third.id, third.epoch, third.start) == (took.id, 5, 3)
    assert obedience(second, third) is Obedience.ADOPT
    assert obedience(third, second) is Obedience.REFUSE


def test_a_record_that_cannot_be_read_is_said_and_can_be_taken_over(store: Store) -> None:
    store.set_mark(head.MARK, "", "{}", NOW)
    with pytest.raises(StoreError, match="head's record"):
        started(store)
    assert head.take_over(store, NOW).epoch == 1

"""The ledger is read back as written, newest first, within its bounds."""

import dataclasses

import pytest

from partitiond.store import Store, ledger_repository
from tests.controller.samples import ENTRY


def test_entries_read_back_newest_first(store: Store) -> None:
    for number in range(3):
        store.add_ledger_entries([dataclasses.replace(ENTRY, requests=number)])
    store.add_ledger_entries([dataclasses.replace(ENTRY, model="b", replica_id="b-1")])
    assert [e.requests for e in store.ledger(model="a")] == [2, 1, 0]
    assert [e.requests for e in store.ledger(replica_id="a-1", limit=1)] == [2]
    assert store.ledger(model="b")[0].findings == ENTRY.findings
    assert store.ledger(model="b", replica_id="a-1") == []


def test_a_busy_replica_does_not_push_out_the_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_repository, "MAX_OF_REPLICA", 3)
    monkeypatch.setattr(ledger_repository, "MAX_ENTRIES", 5)
    monkeypatch.setattr(ledger_repository, "DROP_EVERY", 1)
    store.add_ledger_entries([dataclasses.replace(ENTRY, replica_id="a-2")])
    for number in range(20):
        store.add_ledger_entries([dataclasses.replace(ENTRY, requests=number)])
    assert [e.requests for e in store.ledger(replica_id="a-1")] == [19, 18, 17]
    assert len(store.ledger(replica_id="a-2")) == 1
    for number in range(3, 13):
        store.add_ledger_entries([dataclasses.replace(ENTRY, replica_id=f"a-{number}")])
    assert [e.replica_id for e in store.ledger()] == ["a-12", "a-11", "a-10", "a-9", "a-8"]

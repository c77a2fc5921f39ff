"""Each transaction commits at the level of synchronisation that it needs to survive a power loss.

The tests read SQLite's setting on the connection at the moment of each commit. No test shows that
SQLite then waits for the disk: `docs/failing.md` has the command that counts its calls.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Connection, Engine, event

from partitiond.core.keys.record import KeyRecord
from partitiond.store import Store, open_store
from tests.store.make import make_job, make_plan, make_profile, make_record

NORMAL: Final = 1
FULL: Final = 2
"""As `PRAGMA synchronous` says them."""
KEY: Final = KeyRecord(id="k1", sha256="a" * 64, created_at="t")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "s.sqlite3")
    yield opened
    opened.close()


@pytest.fixture
def levels(store: Store) -> Iterator[list[int]]:
    """The level of each transaction that was committed since."""
    seen: list[int] = []

    def note(connection: Connection) -> None:
        seen.append(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())

    event.listen(Engine, "commit", note)
    yield seen
    event.remove(Engine, "commit", note)


def test_what_somebody_asked_for_is_on_the_disk(store: Store, levels: list[int]) -> None:
    store.add_model(make_record())
    store.update_model(make_record(version=2), expected_version=1)
    store.remove_model("opt-125m")
    store.set_plan(make_plan())
    store.set_mark("cordon", "GPU-a", "memory")
    store.set_mark("cordon", "GPU-a", None)
    store.add_event("t", "key-removed", "k1", "", actor="ada")
    store.add_key(KEY)
    store.update_key(dataclasses.replace(KEY, label="other"))
    store.remove_key("k1")
    assert levels == [FULL] * 10


def test_what_partitiond_notes_by_itself_does_not_wait_for_the_disk(
    store: Store,
    levels: list[int],
) -> None:
    store.add_event("t", "engine-exited", "opt-1", "")
    store.put_job(make_job())
    store.add_profile(make_profile())
    store.next_counter("job")
    store.add_usage("2030-01-01T00", {}, {})
    assert levels == [NORMAL] * 5


def test_a_call_that_fails_leaves_no_level_behind(store: Store, levels: list[int]) -> None:
    store.add_key(KEY)
    with pytest.raises(Exception, match="exists already"):
        store.add_key(KEY)
    store.next_counter("a")
    assert levels == [FULL, NORMAL]

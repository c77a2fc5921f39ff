"""A body that cannot be read is set aside: it harms no other, and stays in its row."""

import json
import logging
import sqlite3
from pathlib import Path

import pytest

from partitiond import serde
from partitiond.controller.drift.marks import LIFTED
from partitiond.controller.drift.marks import MARK as DRIFT
from partitiond.core.errors import ConflictError, StoreError
from partitiond.core.keys.record import KeyRecord
from partitiond.core.model.record import ModelRecord
from partitiond.core.profile.jobs import Job, JobState, Progress
from partitiond.core.replica.releases import Release, ReleaseState
from partitiond.serde import BODY_VERSION
from partitiond.store import Store, open_store
from tests.controller.host import Host, serving
from tests.controller.samples import CORRECTION, NOW, measured_profile, placement, plan, record

LOST = [
    ("model", "spec", "name", "a"),
    ("profile", "body", "model", "a"),
    ("job", "body", "id", "job-a"),
    ("plan", "body", "id", "plan-2"),
    ("api_key", "body", "id", "key-a"),
]


def fill(store: Store) -> None:
    for name in ("a", "b"):
        store.add_model(record(name))
        store.add_profile(measured_profile(name))
        store.add_key(KeyRecord(id=f"key-{name}", sha256=name * 64, created_at=NOW))
        progress = Progress("queued", "waits", None, None)
        store.put_job(Job(f"job-{name}", "profile", name, JobState.QUEUED, NOW, NOW, progress))
    store.set_plan(plan(placement("a-1"), plan_id="plan-1"))
    store.set_plan(plan(placement("b-1"), plan_id="plan-2"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store.sqlite3"
    store = open_store(path)
    fill(store)
    store.close()
    return path


def change(path: Path, where: tuple[str, str, str, str], body: str) -> str:
    """Returns the body that was there."""
    table, column, key, value = where
    with sqlite3.connect(path) as here:
        (old,) = here.execute(f"SELECT {column} FROM {table} WHERE {key} = ?", (value,)).fetchone()
        here.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (body, value))
    here.close()
    return str(old)


NAMES = {"a", "job-a", "key-a", measured_profile("a").id}


def _name(one: object) -> str:
    return one.spec.name if isinstance(one, ModelRecord) else str(getattr(one, "id", ""))


def everything(store: Store) -> dict[str, list[object]]:
    return {
        "model": list(store.models()),
        "profile": list(store.profiles()),
        "job": list(store.jobs()),
        "plan": [store.plan()],
        "api_key": list(store.keys()),
    }


def of(path: Path) -> tuple[dict[str, list[object]], list[str]]:
    """What is read of a store, and what cannot be."""
    store = open_store(path)
    try:
        return everything(store), [body.what for body in store.unread()]
    finally:
        store.close()


@pytest.mark.parametrize("lost", LOST)
def test_one_that_cannot_be_read_harms_no_other(
    path: Path, lost: tuple[str, str, str, str]
) -> None:
    whole, nothing = of(path)
    assert nothing == []
    old = change(path, lost, '{"body_version": 99, "id": 7}')
    assert json.loads(old)["body_version"] == BODY_VERSION
    here, (what,) = of(path)
    table = lost[0]
    assert what.startswith(table.removeprefix("api_"))
    left = [None] if table == "plan" else [one for one in whole[table] if _name(one) not in NAMES]
    assert here == whole | {table: left}
    later = json.loads(old) | {"body_version": 99, "colour": {"red": 1}}
    change(path, lost, json.dumps(later))  # fields of a later release are ignored
    assert of(path) == (whole, [])


def test_it_is_told_once_and_to_who_asks_for_it_by_name(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "partitiond.store.sessions")
    for lost in LOST:
        change(path, lost, "[]")
    store = open_store(path)
    for _ in range(3):  # jobs are read anew each time, models are not
        assert [one.spec.name for one in store.models()] == ["b"]
        assert [one.id for one in store.jobs()] == ["job-b"]
    for name in ("model a", "job-a"):
        assert sum("cannot be read" in one and name in one for one in caplog.messages) == 1
    for ask in (lambda: store.model("a"), lambda: store.job("job-a"), lambda: store.key("key-a")):
        with pytest.raises(StoreError, match="another release"):
            ask()
    with pytest.raises(ConflictError):  # it is not overwritten either
        store.add_model(record("a"))
    assert store.plan() is None  # and not plan-1, which would move what runs
    assert [found.id for found in store.applied_plans(9)] == ["plan-1"]
    third = plan(placement("a-1"), plan_id="plan-3")
    store.set_plan(third)
    assert store.plan() == third
    store.close()


STRANGE = (
    "UPDATE model SET spec = '{}' WHERE name = 'a'",
    "UPDATE profile SET body = '{}' WHERE model = 'a'",
    "UPDATE mark SET value = '{}' WHERE kind = 'drift'",
    "UPDATE release SET state = 'paused'",
)


async def test_a_daemon_starts_on_strange_bodies_and_lists_the_others(path: Path) -> None:
    before = open_store(path)
    before.set_mark(DRIFT, CORRECTION.profile_id, serde.to_stored_json(CORRECTION), NOW)
    before.set_mark(LIFTED, measured_profile("a").id, NOW, NOW)
    before.put_release(Release("a", 1, NOW, ReleaseState.SERVING, record("a").spec))
    before.close()
    with sqlite3.connect(path) as here:
        for strange in STRANGE:
            here.execute(strange)
    here.close()
    host = Host(open_store(path))
    host.profiler.gate.clear()
    async with serving(host):
        assert [view.record.spec.name for view in host.service.models.models()] == ["b"]
        assert measured_profile("b").id in {v.profile.id for v in host.service.profiles.views()}
        assert host.service.drift.report().corrections == ()
        assert host.store.releases("a") == []
    with sqlite3.connect(path) as here:
        kept = here.execute("SELECT count(*) FROM mark WHERE kind IN ('drift', 'drift-lifted')")
        assert kept.fetchone() == (2,)
    here.close()

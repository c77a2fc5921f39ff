"""Stores of earlier schemas are read as they were meant."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from partitiond.core.errors import StoreError
from partitiond.core.keys.record import KeyRecord
from partitiond.store import open_store
from partitiond.store.connection import make_engine
from partitiond.store.migrate import MIGRATIONS, upgrade

KEYS = [
    ("key-1", "a" * 64, "laptop", '["m", "n"]', "2026-01-01T00:00:00.000Z"),
    ("key-2", "b" * 64, "", "[]", "2026-01-02T00:00:00.000Z"),
    ("key-3", "c" * 64, "two\nlines \u00fc", '["m", "m"]', "2026-01-03T00:00:00.000Z"),
]


def make_store(tmp_path: Path, *revisions: str) -> Path:
    """A store of an earlier version of partitiond: only these of its migrations existed."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (folder / "versions").glob("r*.py"):
        if file.name[1:5] not in revisions:
            file.unlink()
    path = tmp_path / "s.sqlite3"
    path.touch()
    engine = make_engine(path, 1)
    upgrade(engine, folder)
    engine.dispose()
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store from before keys had terms, with models, an event and three keys."""
    path = make_store(tmp_path, "0001", "0002")
    spec = {"name": "m", "source": {"kind": "hub", "ref": "org/m"}}
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "INSERT INTO api_key (id, sha256, label, models, created_at) VALUES (?, ?, ?, ?, ?)",
            KEYS,
        )
        connection.execute("DELETE FROM api_key WHERE id = 'key-2'")
        connection.execute(
            "INSERT INTO api_key (id, sha256, label, models, created_at) VALUES (?, ?, ?, ?, ?)",
            KEYS[1],
        )
        connection.execute(
            "INSERT INTO model VALUES ('m', 4, 'hub', 'org/m', 'vllm', 't', 'u', ?)",
            (json.dumps(spec),),
        )
        connection.execute("INSERT INTO mark VALUES ('cordon', 'gpu-1', 'fan', 't')")
        connection.execute("INSERT INTO counter VALUES ('routing-version', 41)")
    connection.close()
    return path


def test_an_old_store_is_read_as_it_was_meant(old: Path) -> None:
    store = open_store(old)
    at = [f"2026-01-0{day}T00:00:00.000Z" for day in (1, 2, 3)]
    assert list(store.keys()) == [  # in their order
        KeyRecord(id="key-1", sha256="a" * 64, label="laptop", models=("m", "n"), created_at=at[0]),
        KeyRecord(
            id="key-3", sha256="c" * 64, label="two lines \u00fc", models=("m",), created_at=at[2]
        ),
        KeyRecord(id="key-2", sha256="b" * 64, created_at=at[1]),
    ]
    record = store.model("m")
    assert (record.version, record.spec.aliases, dict(record.spec.request_defaults)) == (4, (), {})
    assert store.marks("cordon") == {"gpu-1": "fan"}
    assert store.next_counter("routing-version") == 42
    store.add_key(KeyRecord(id="key-4", sha256="d" * 64, created_at="t"))
    assert list(store.keys())[-1].id == "key-4"
    store.close()
    (copy,) = old.parent.glob("s.sqlite3.before-migration-from-0002")
    with sqlite3.connect(copy) as connection:
        assert len(connection.execute("SELECT label FROM api_key").fetchall()) == 3
    connection.close()


def test_a_key_that_cannot_be_read_stops_the_migration(old: Path) -> None:
    with sqlite3.connect(old) as connection:
        connection.execute("UPDATE api_key SET models = 'no list' WHERE id = 'key-1'")
    connection.close()
    with pytest.raises(StoreError, match="key-1") as refused:
        open_store(old)
    assert "was not changed" in refused.value.hint
    with sqlite3.connect(old) as connection:
        assert len(connection.execute("SELECT label FROM api_key").fetchall()) == 3
    connection.close()

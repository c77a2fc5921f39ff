"""`partitiond host join|leave` and `partitiond head take-over` refuse what is not theirs, and say
what to do."""

from pathlib import Path

from partitiond.cli.exits import Exit
from partitiond.hosts.head import load_head
from partitiond.hosts.one_master import note_joined
from partitiond.settings.schema import load_settings
from partitiond.store import open_store
from partitiond.store.lock import StateLock
from tests.cli.conftest import Cli


def test_joining_needs_a_head(cli: Cli) -> None:
    found = cli("host join")
    assert found.code == Exit.BAD_INPUT
    assert "partitiond host join gpu-head:6380" in found.err


def test_joining_is_refused_where_engines_could_read_the_token(cli: Cli) -> None:
    found = cli("host join gpu-head")
    assert found.code == Exit.BAD_INPUT
    assert "cluster.trust_engines" in found.err


def test_a_host_that_joined_no_other_does_not_leave(cli: Cli) -> None:
    found = cli("host leave")
    assert found.code == Exit.CONFLICT
    assert "joined no other" in found.err


def test_a_take_over_raises_the_epoch_each_time(cli: Cli, tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"))
    first, second = (cli(*state, "head", "take-over", "--json").json for _ in range(2))
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert first["head"] != second["head"]
    store = open_store(tmp_path / "state" / "partitiond.sqlite3")
    record = load_head(store)
    store.close()
    assert record is not None
    assert (record.id, record.epoch) == (second["head"], 2)
    assert "epoch 3" in cli(*state, "head", "take-over").err


def test_a_take_over_waits_for_no_daemon_and_is_not_for_a_host_that_obeys(
    cli: Cli, home: Path
) -> None:
    state = home / "state"
    values = {"state_dir": str(state), "cluster.head": "gpu-head", "cluster.trust_engines": True}
    settings = load_settings(overrides=values).settings
    with StateLock.acquire(settings.lock_path):
        found = cli("--state-dir", str(state), "head", "take-over")
    assert found.code == Exit.CONFLICT
    assert "Stop that daemon first" in found.err
    note_joined(settings)
    found = cli("--state-dir", str(state), "head", "take-over")
    assert found.code == Exit.CONFLICT
    assert "obeys the head gpu-head:6380" in found.err

"""`host join`, `down` and `hosts --take-over` refuse what is not theirs, and say what to do."""

import stat
from pathlib import Path

import pytest

from partitiond.cli.exits import Exit
from partitiond.cluster.bundle import unpack_bundle
from partitiond.cluster.certificates import check_files
from partitiond.hosts.head import load_head
from partitiond.hosts.one_master import note_joined
from partitiond.settings.schema import load_settings
from partitiond.store import open_store
from partitiond.store.lock import StateLock
from tests.cli.conftest import Cli


def test_joining_ending_and_taking_over_that_cannot_be_are_refused(cli: Cli, home: Path) -> None:
    cli("host join").refused(Exit.BAD_INPUT, "partitiond host join gpu-head:6380")
    cli("host join gpu-head").refused(Exit.BAD_INPUT, "cluster.trust_engines")
    state = home / "state"
    values = {"state_dir": str(state), "cluster.head": "gpu-head", "cluster.trust_engines": True}
    settings = load_settings(overrides=values).settings
    with StateLock.acquire(settings.lock_path):
        cli("--state-dir", state, "hosts", "--take-over").refused(4, "Stop that daemon first")
    note_joined(settings)
    obeys = cli("--state-dir", state, "hosts", "--take-over")
    obeys.refused(Exit.CONFLICT, "obeys the head gpu-head:6380")
    cli("--state-dir", state, "down", "--keep-engines").refused(2, "systemctl stop partitiond")
    cli("--state-dir", state, "down").refused(Exit.CONFLICT, "run folder")


def test_a_take_over_raises_the_epoch_each_time(cli: Cli, tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"))
    first, second = (cli(*state, "hosts", "--take-over", "--json").json for _ in range(2))
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert first["head"] != second["head"]
    store = open_store(tmp_path / "state" / "partitiond.sqlite3")
    record = load_head(store)
    store.close()
    assert record is not None
    assert (record.id, record.epoch) == (second["head"], 2)
    assert "epoch 3" in cli(*state, "hosts", "--take-over").err


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """State folder of a head that has its own certificate."""
    return tmp_path / "head"


def run(cli: Cli, head: Path, *words: str | Path, code: int = 0) -> str:
    done = cli("--state-dir", head, "host", "certificate", *words)
    assert done.code == code, done.err
    return done.err


def test_a_head_makes_its_own_and_bundles_for_others(cli: Cli, head: Path, tmp_path: Path) -> None:
    assert "cannot be read" in run(cli, head, code=2)
    assert not head.exists() or not list(head.iterdir())
    assert "400 days left" in run(cli, head, "--make", "--address", "127.0.0.4")
    assert "good" in run(cli, head)
    check_files(head / "cluster-tls", ["127.0.0.4"])
    out = tmp_path / "out"
    out.mkdir()
    told = run(cli, head, "--for", "gpu-1", "--address", "127.0.0.5", "--out", out)
    assert "scp" in told
    assert (head / "cluster-token").read_text().strip() not in told
    path = out / "gpu-1.bundle"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    joined = tmp_path / "joined"
    name = unpack_bundle(path, token_path=joined / "cluster-token", tls_dir=joined / "cluster-tls")
    assert name == "gpu-1"
    check_files(joined / "cluster-tls", ["127.0.0.5", "gpu-1"])
    assert "good" in run(cli, joined)
    for words in (("--make",), ("--for", "gpu-2", "--address", "127.0.0.6", "--out", out)):
        assert "another host's authority" in run(cli, joined, *words, code=4)
    assert not (out / "gpu-2.bundle").exists()
    assert not (joined / "cluster-ca").exists()


def test_a_head_replaces_its_certificate_and_who_is_none_is_sent_elsewhere(
    cli: Cli, head: Path, tmp_path: Path
) -> None:
    run(cli, head, "--make", "--address", "127.0.0.4")
    shown = cli("--state-dir", head, "host", "certificate", "--make", "--json",
                "--address", "127.0.0.7")  # fmt: skip
    assert shown.json["made"] is True
    check_files(head / "cluster-tls", ["127.0.0.7"])
    joined = cli("--state-dir", tmp_path / "x", "--set", "cluster.head=gpu-head", "--set",
                 "cluster.trust_engines=true", "host", "certificate", "--make")  # fmt: skip
    joined.refused(4, "gpu-head:6380")
    own = ("--state-dir", tmp_path / "y", "--set", f"cluster.tls_dir={head / 'cluster-tls'}")
    assert cli(*own, "host", "certificate").code == 0
    made = cli(*own, "host", "certificate", "--make", "--address", "127.0.0.4")
    made.refused(4, "your own")
    for words in (
        "--for gpu-1",
        "--address 127.0.0.5",
        "--out /tmp",
        "--make --out /tmp",
        "--for gpu-1 --make --address 127.0.0.5",
        "--for ../gpu-1 --address 127.0.0.5",
        "--for gpu-1 --address ü",
        "--for gpu-1 --address 127.0.0.5 --out /proc/nowhere",
    ):
        run(cli, head, *words.split(), code=2)

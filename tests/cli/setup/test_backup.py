"""`partitiond setup backup` and `partitiond setup restore` work as a user types them."""

import contextlib
import dataclasses
from pathlib import Path

import pytest

from partitiond.store import open_store
from tests.cli.conftest import Cli
from tests.controller.samples import measured_profile


def keep(home: Path, profile_id: str) -> None:
    with contextlib.closing(open_store(home / "state" / "partitiond.sqlite3")) as store:
        store.add_profile(dataclasses.replace(measured_profile("a"), id=profile_id))


def test_a_backup_is_made_checked_and_restored_with_settings_only_when_asked_for(
    cli: Cli, home: Path
) -> None:
    keep(home, "first")
    file = home / "b.gz"
    made = cli("setup backup", file, "--json")
    assert (made.code, made.json["profiles"]) == (0, 1)
    assert "is whole" in cli("setup restore --check", file).err
    keep(home, "second")
    cli("setup restore", file).ended(0, "What was there before", "Start the daemon again")
    with contextlib.closing(open_store(home / "state" / "partitiond.sqlite3")) as store:
        assert [profile.id for profile in store.profiles()] == ["first"]
    config = home / "config" / "partitiond" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[planner]\nseed = 7\n")
    file = home / "with-settings.gz"
    cli("setup backup", file)
    config.unlink()
    assert "were left alone" in cli("setup restore", file).err
    assert not config.exists()
    assert "Settings written" in cli("setup restore", file, "--with-settings").err
    assert "seed = 7" in config.read_text()


def test_refusals_have_their_exit_codes(cli: Cli, home: Path) -> None:
    file = home / "b.gz"
    assert cli("setup backup", file).code == 3  # no store yet
    keep(home, "first")
    assert cli("setup backup", file).code == 0
    assert cli("setup backup", file).code == 4
    assert cli("setup backup", file, "--force").code == 0
    assert cli("setup restore", home / "missing.gz").code == 3
    file.write_bytes(file.read_bytes()[:-100])
    cli("setup restore", file).refused(2, "Nothing was changed")


def test_each_value_names_its_origin(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[proxy]\nport = 9001\nmax_queue = 7\n")
    monkeypatch.setenv("PARTITIOND_PROXY__MAX_QUEUE", "8")
    given = ("--config", file, "--set", "planner.seed=3")
    shown = cli(*given, "setup", "config", "show", "--json").json
    assert shown["proxy.port"] == {"value": 9001, "origin": f"file {file}:proxy.port"}
    assert shown["proxy.max_queue"]["value"] == 8
    assert shown["planner.seed"] == {"value": 3, "origin": "--set planner.seed"}

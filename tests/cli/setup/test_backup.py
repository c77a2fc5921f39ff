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


def test_a_backup_is_made_checked_and_restored(cli: Cli, home: Path) -> None:
    keep(home, "first")
    file = home / "b.gz"
    made = cli("setup backup", file, "--json")
    assert (made.code, made.json["profiles"]) == (0, 1)
    assert "is whole" in cli("setup restore --check", file).err
    keep(home, "second")
    cli("setup restore", file).ended(0, "What was there before", "Start the daemon again")
    with contextlib.closing(open_store(home / "state" / "partitiond.sqlite3")) as store:
        assert [profile.id for profile in store.profiles()] == ["first"]


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


def test_one_setting_is_written_to_the_file_and_the_rest_of_it_stays(
    cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "sub" / "config.toml"
    config = ("--config", file, "setup", "config")
    file.parent.mkdir()
    file.write_text("# ours\n")
    cli(*config, "set", "proxy.port=9001").ended(0, f"proxy.port is 9001, in {file}")
    cli(*config, "set", "proxy.require_keys=yes").ended(0)
    assert file.read_text() == "# ours\n\n[proxy]\nrequire_keys = true\nport = 9001\n"
    cli(*config, "set", "proxy.require_keys=").ended(0, "has its default")
    assert cli(*config, "show", "--json").json["proxy.port"]["value"] == 9001
    before = file.read_text()
    for words, says in (
        (("proxy.prot=1",), "Did you mean proxy.port"),
        (("proxy.port=many", "proxy.max_queue=7"), "proxy.port"),
        (("proxy.host=0.0.0.0",), "beyond loopback"),
        (("proxy.port",), "key=value"),
    ):
        cli(*config, "set", *words).refused(2, says)
        assert file.read_text() == before

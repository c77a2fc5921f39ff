"""`partitiond setup config` shows each value that is in force, and its origin."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli


def test_each_value_names_its_origin(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[proxy]\nport = 9001\nmax_queue = 7\n")
    monkeypatch.setenv("PARTITIOND_PROXY__MAX_QUEUE", "8")

    shown = cli(
        "--config", file, "--set", "planner.seed=3", "setup", "config", "show", "--json"
    ).json

    assert shown["proxy.port"] == {"value": 9001, "origin": f"file {file}:proxy.port"}
    assert shown["proxy.max_queue"]["value"] == 8
    assert shown["proxy.max_queue"]["origin"].startswith("environment")
    assert shown["planner.seed"]["value"] == 3
    assert shown["planner.seed"]["origin"] == "--set planner.seed"
    assert shown["proxy.host"]["origin"] == "default"


def test_the_table_shows_every_setting(cli: Cli) -> None:
    from partitiond.settings.schema import list_settings

    keys = [line.split()[0] for line in cli("setup config show").out.splitlines()]
    assert set(keys) == {info.key for info in list_settings()}


def test_state_dir_is_a_setting(cli: Cli, home: Path) -> None:
    shown = cli("--state-dir", home / "other", "setup", "config", "path", "--json").json
    assert shown["state_dir"] == str(home / "other")
    assert shown["config_file"] is None

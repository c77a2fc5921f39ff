"""`partitiond setup config set` makes the file that is named, and says what is wrong in it."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli


def test_a_file_that_is_missing_is_made_and_a_refused_value_names_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "new" / "config.toml"
    named = ("--config", file, "setup", "config", "set")
    cli(*named, "proxy.port", "9001").ended(0, "proxy.port is 9001")
    assert file.read_text() == "[proxy]\nport = 9001\n"
    cli(*named, "proxy.port=http").refused(2, f"must be a whole number, got 'http' (file {file}:")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    own = tmp_path / "partitiond" / "config.toml"
    cli("setup config set proxy.port=9002").ended(0, f"proxy.port is 9002, in {own}")
    cli(*named, "proxy.port").refused(2, "or proxy.port= to restore the default")

"""`partitiond setup config set` makes the file that is named, and says what is wrong in it."""

from pathlib import Path

from tests.cli.conftest import Cli


def test_a_file_that_is_missing_is_made_and_a_refused_value_names_it(
    cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "new" / "config.toml"
    named = ("--config", file, "setup", "config", "set")
    cli(*named, "proxy.port", "9001").ended(0, "proxy.port is 9001")
    assert file.read_text() == "[proxy]\nport = 9001\n"
    cli(*named, "proxy.port=http").refused(2, f"must be a whole number, got 'http' (file {file}:")
    cli(*named, "proxy.port").refused(2, "Write for example proxy.port=9000")

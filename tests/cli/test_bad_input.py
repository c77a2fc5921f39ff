"""Bad input gives one clear message, a hint, the right exit status, and never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from partitiond.cli.main import main
from tests.cli.conftest import Cli


def test_without_a_daemon_commands_say_how_to_start_one(cli: Cli) -> None:
    for words in (
        *("status", "plan", "apply", "events", "keys show", "keys create", "keys remove x"),
        *("keys show x", "keys update x --label y", "keys update x --rotate 1h", "models"),
        *("models add opt-125m", "models show x", "models remove x", "models update x --demand 2"),
        *("profile opt-125m", "profile show", "profile show x"),
        *("profile jobs", "profile jobs x", "profile jobs x --cancel"),
    ):
        cli(*words.split()).refused(5, "127.0.0.1:1", "partitiond serve")
    assert cli("down").code == 0, "stopping one that does not run is no error"
    assert cli("down", "--json").json == {"stopped": False, "engines_kept": False}


def test_what_makes_no_sense_is_refused(cli: Cli) -> None:
    for words, code, said in (
        ("frobnicate", 2, ("frobnicate",)),
        ("--config none.toml setup config show", 2, ("none.toml",)),
        ("models update opt-125m", 2, ("nothing to change",)),
        ("profile opt-125m --memory much", 2, ("not a size", "6GiB")),
        ("profile opt-125m --memory 0", 2, ("above 0",)),
        ("--set proxy.port setup config show", 2, ("key=value",)),
    ):
        cli(words).refused(code, *said)


def test_debug_adds_the_traceback_to_message_advice_and_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--debug", "--set", "nonsense", "setup", "config", "show"])
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert "Traceback" in said
    assert "key=value" in said
    assert "what to do" in said


def test_bad_files_are_named(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    for content, word in (
        (None, "fleet.toml"),
        ("[[models", "fleet.toml"),
        ("", "model"),
        ("[[models]]\nmodel = 'no-such-model'", "no-such-model"),
    ):
        if content is not None:
            file.write_text(content)
        for command in ("plan --from", "up -f", "profile import"):
            cli(command, file).refused(2, "fleet.toml" if "import" in command else word)


def test_numbers_that_are_none(cli: Cli) -> None:
    for words in (
        "models update x --demand nan",
        "models update x --ttft inf --tpot 1",
        "models add opt-125m --weight nan",
        "profile opt-125m --time-limit inf",
        "plan --time-limit nan",
        "plan --time-limit -1",
        "plan --from fleet.toml --time-limit nan",
        "plan --from fleet.toml --time-limit -1",
    ):
        result = cli(*words.split())
        result.refused(2, "finite number")
        assert [line[:5] for line in result.err.splitlines()] == ["error", "  wha"]


def test_the_program_says_in_words_that_the_disk_is_full() -> None:
    """As a program of its own: `python -m partitiond`."""
    command = [sys.executable, "-m", "partitiond", "models", "catalog", "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert all(words in done.stderr for words in ("the disk is full", "Free some space"))
    assert not any(words in done.stderr for words in ("Traceback", "Exception ignored"))

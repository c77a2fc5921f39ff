"""Bad input gives one clear message, a hint, the right exit status, and never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from partitiond.cli.main import main
from partitiond.core.errors import SettingsError
from tests.cli.conftest import Cli, Result

SIMULATED = ("profile", "opt-125m", "--engine-kind", "simulated", "--weights", "dummy")


def refused(result: Result, code: int, *words: str) -> None:
    assert result.code == code, result.err
    assert "Traceback" not in result.err + result.out
    assert result.out == ""
    for word in words:
        assert word in " ".join(result.err.split())


def test_without_a_daemon_commands_say_how_to_start_one(cli: Cli) -> None:
    for words in (
        "status",
        "models list",
        "models add opt-125m",
        "models show x",
        "models remove x",
        "models update x --demand 2",
        "profile list",
        "profile show x",
        "profile export x",
        "plan",
        "apply",
        "profile jobs list",
        "profile jobs show x",
        "profile jobs cancel x",
        "events",
        "keys list",
        "keys create",
        "keys remove x",
        "keys show x",
        "keys update x --label y",
        "keys rotate x",
    ):
        refused(cli(*words.split()), 5, "127.0.0.1:1", "partitiond serve")


def test_stopping_a_daemon_that_does_not_run_is_no_error(cli: Cli) -> None:
    assert cli("down").code == 0
    assert cli("down", "--json").json == {"stopped": False, "engines_kept": False}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("frobnicate",), 2, ("frobnicate",)),
        (("--config", "none.toml", "setup", "config", "show"), 2, ("none.toml",)),
        (("plan", "--objective", "max-fun"), 2, ("max-fun", "min-devices")),
        (("models", "add", "opt-125m", "--ttft", "1"), 2, ("--tpot",)),
        (("models", "update", "opt-125m"), 2, ("nothing to change",)),
        (("profile", "no-such-model"), 2, ("no-such-model", "opt-125m")),
        (("profile", "opt-125m", "--weights", "heavy"), 2, ("heavy", "dummy")),
        (("profile", "opt-125m", "--device", "GPU-9", "--weights", "dummy"), 10, ("GPU-9",)),
        ((*SIMULATED, "--memory", "much"), 2, ("not a size", "6GiB")),
        ((*SIMULATED, "--memory", "0"), 2, ("above 0",)),
        (
            (*SIMULATED, "--max-num-batched-tokens", "0"),
            2,
            ("greater than or equal to 16",),
        ),
        (
            (*SIMULATED, "--variant", "int4-awq"),
            2,
            ("what the variant 'int4-awq'", "--quantization"),
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    cli: Cli, words: tuple[str, ...], code: int, said: tuple[str, ...]
) -> None:
    refused(cli(*words), code, *said)


def test_broken_settings_file(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text("[proxy\nport = 1")
    refused(cli("--config", file, "setup", "config", "show"), 2, "broken.toml", "TOML")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("proxy.port", "key=value"),
        ("proxy.prot=1", "proxy.port"),
        ("proxy.port=many", "proxy.port"),
        ("proxy.port=70000", "proxy.port"),
        ("nonsense=1", "nonsense"),
    ],
)
def test_bad_setting_on_the_command_line(cli: Cli, text: str, word: str) -> None:
    refused(cli("--set", text, "setup", "config", "show"), 2, word)


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(SettingsError):
        main(["--debug", "--set", "nonsense", "config", "show"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("fleet.toml",)),
        ("[[models", ("fleet.toml",)),
        ("[[models]]\nmodel = 7", ("model",)),
        ("[[modles]]\nmodel = 'opt-125m'", ("modles",)),
        ("[[models]]\nmodle = 'opt-125m'", ("modle",)),
        ("", ("model",)),
        ("[[models]]\nmodel = 'no-such-model'", ("no-such-model",)),
        ("[[models]]\nmodel = 'opt-125m'\ndemand = {req_per_s = -1}", ("demand",)),
        ("[[models]]\nmodel = 'opt-125m'\ndemand = {req_per_s = 1e99}", ("demand",)),
        ("[[devices]]\nhardware = 'a1000'\ncount = 1", ("a1000", "a100-80gb")),
    ],
)
def test_bad_fleet_file(
    cli: Cli, tmp_path: Path, content: str | None, words: tuple[str, ...]
) -> None:
    file = tmp_path / "fleet.toml"
    if content is not None:
        file.write_text(content)
    for command in (("plan", "--from"), ("up", "-f")):
        refused(cli(*command, file), 2, *words)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"id": "x"}', "\x00\xff"])
def test_bad_profile_file(cli: Cli, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "profile.json"
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    refused(cli("profile", "import", file), 2, "profile.json")


@pytest.mark.parametrize("name", ["plot.pdf", "plot", "no/such/folder/plot.png"])
def test_a_plot_that_cannot_be_written_is_refused_before_measuring(
    cli: Cli, tmp_path: Path, name: str
) -> None:
    refused(cli("profile", "opt-125m", "--plot", tmp_path / name), 2, "plot" if "." in name else "")


def test_without_a_hub_profiling_names_dummy_weights(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    refused(cli("profile", "opt-125m"), 8, "--weights dummy")


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
        refused(result, 2, "finite number")
        assert [line[:5] for line in result.err.splitlines()] == ["error", "  wha"]


def test_the_program_says_in_words_that_the_disk_is_full() -> None:
    """As a program of its own: `python -m partitiond`."""
    command = [sys.executable, "-m", "partitiond", "models", "catalog", "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert "Free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr

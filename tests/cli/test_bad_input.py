"""Bad input gives one clear message, a hint, the right exit status, and never a traceback."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Result
from tests.machine import in_time


def refused(result: Result, code: int, *words: str) -> None:
    assert result.code == code, result.err
    assert "Traceback" not in result.err + result.out
    assert result.out == ""
    for word in words:
        assert word in result.err


NEEDS_DAEMON = (
    ("status",),
    ("models", "list"),
    ("models", "add", "opt-125m"),
    ("models", "show", "x"),
    ("models", "remove", "x"),
    ("models", "update", "x", "--demand", "2"),
    ("profile", "list"),
    ("profile", "show", "x"),
    ("profile", "export", "x"),
    ("plan",),
    ("apply",),
    ("profile", "jobs", "list"),
    ("profile", "jobs", "show", "x"),
    ("profile", "jobs", "cancel", "x"),
    ("events",),
    ("keys", "list"),
    ("keys", "create"),
    ("keys", "remove", "x"),
    ("keys", "show", "x"),
    ("keys", "update", "x", "--label", "y"),
    ("keys", "rotate", "x"),
)


@pytest.mark.parametrize("arguments", NEEDS_DAEMON, ids=" ".join)
def test_without_a_daemon_it_says_how_to_start_one(cli: Cli, arguments: tuple[str, ...]) -> None:
    refused(cli(*arguments), 5, "127.0.0.1:1", "partitiond serve")


def test_stopping_a_daemon_that_does_not_run_is_no_error(cli: Cli) -> None:
    assert cli("down").code == 0
    assert cli("down", "--json").json == {"stopped": False, "engines_kept": False}


def test_unknown_command(cli: Cli) -> None:
    refused(cli("frobnicate"), 2, "frobnicate")


def test_missing_settings_file(cli: Cli, tmp_path: Path) -> None:
    refused(cli("--config", tmp_path / "none.toml", "setup", "config", "show"), 2, "none.toml")


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
    from partitiond.cli.main import main
    from partitiond.core.errors import SettingsError

    with pytest.raises(SettingsError):
        main(["--debug", "--set", "nonsense", "config", "show"])


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "fleet.toml"),
        ("[[models", "fleet.toml"),
        ("[[models]]\nmodel = 7", "model"),
        ("[[modles]]\nmodel = 'opt-125m'", "modles"),
        ("", "model"),
        ("[[models]]\nmodel = 'no-such-model'", "no-such-model"),
        ("[[models]]\nmodel = 'opt-125m'\ndemand = {req_per_s = -1}", "demand"),
    ],
)
def test_bad_fleet_file(cli: Cli, tmp_path: Path, content: str | None, word: str) -> None:
    file = tmp_path / "fleet.toml"
    if content is not None:
        file.write_text(content)
    for command in (("plan", "--from"), ("up", "-f")):
        refused(cli(*command, file), 2, word)


def test_bad_objective(cli: Cli) -> None:
    refused(cli("plan", "--objective", "max-fun"), 2, "max-fun", "min-devices")


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


def test_half_an_slo(cli: Cli) -> None:
    refused(cli("models", "add", "opt-125m", "--ttft", "1"), 2, "--tpot")


def test_an_update_of_nothing(cli: Cli) -> None:
    refused(cli("models", "update", "opt-125m"), 2, "nothing to change")


def test_profiling_an_unknown_model(cli: Cli) -> None:
    refused(cli("profile", "no-such-model"), 2, "no-such-model", "opt-125m")


def test_profiling_with_unknown_weights(cli: Cli) -> None:
    refused(cli("profile", "opt-125m", "--weights", "heavy"), 2, "heavy", "dummy")


def test_profiling_on_a_device_that_is_not_there(cli: Cli) -> None:
    refused(cli("profile", "opt-125m", "--device", "GPU-9", "--weights", "dummy"), 10, "GPU-9")


def test_without_a_hub_profiling_fails_at_once_and_names_dummy_weights(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    began = time.monotonic()
    result = cli("profile", "opt-125m")
    refused(result, 8, "--weights dummy")
    assert in_time(time.monotonic() - began, 5.0, starts=10)


@pytest.mark.parametrize(
    "arguments",
    [
        ("models", "update", "x", "--demand", "nan"),
        ("models", "update", "x", "--ttft", "inf", "--tpot", "1"),
        ("models", "add", "opt-125m", "--weight", "nan"),
        ("profile", "opt-125m", "--time-limit", "inf"),
        ("plan", "--time-limit", "nan"),
        ("plan", "--time-limit", "-1"),
        ("plan", "--from", "fleet.toml", "--time-limit", "nan"),
        ("plan", "--from", "fleet.toml", "--time-limit", "-1"),
    ],
    ids=" ".join,
)
def test_numbers_that_are_none(cli: Cli, arguments: tuple[str, ...]) -> None:
    result = cli(*arguments)
    refused(result, 2, "finite number")
    assert [line[:5] for line in result.err.splitlines()] == ["error", "  wha"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--memory", "much"), ("not a size", "6GiB")),
        (("--memory", "0"), ("above 0",)),
        (("--max-num-batched-tokens", "0"), ("greater than or equal to 16",)),
        (("--variant", "int4-awq"), ("what the variant 'int4-awq'", "--quantization")),
    ],
)
def test_what_cannot_be_profiled_is_said_before_anything_starts(
    cli: Cli, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    simulated = ("--engine-kind", "simulated", "--weights", "dummy")
    result = cli("profile", "opt-125m", *simulated, *arguments)
    assert result.code == 2
    assert "Traceback" not in result.err
    for word in words:
        assert word in " ".join(result.err.split())


def test_a_full_disk_is_said_in_words() -> None:
    command = [sys.executable, "-m", "partitiond", "models", "catalog", "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert "Free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr

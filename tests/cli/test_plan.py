"""`partitiond plan --from` plans a described fleet with no daemon, engine or GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

ONE_GPU = """
[settings.planner]
objective = "{objective}"
time_limit_seconds = 2

[[devices]]
hardware = "l4-24gb"

[[models]]
model = "opt-125m"
demand = {{ req_per_s = {demand} }}
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    return tmp_path / "fleet.toml"


def test_the_example_is_drawn_within_80_columns(cli: Cli) -> None:
    result = cli("plan", "--from", EXAMPLES / "twelve-models.toml", "--time-limit", "2")
    assert result.code == 0
    assert "one model per device" in result.out
    assert "est." in result.out
    assert max(len(line) for line in result.out.splitlines()) <= 80


def test_json_holds_plan_and_certificate(cli: Cli, fleet: Path) -> None:
    fleet.write_text(ONE_GPU.format(objective="max-goodput", demand=2))
    shown = cli("plan", "--from", fleet, "--json")
    assert shown.code == 0
    assert shown.json["infeasible"] is None
    assert shown.json["plan"]["certificate"]["objective"] == "max-goodput"
    assert [f["model"] for f in shown.json["plan"]["forecasts"]] == ["opt-125m"]


def test_a_flag_wins_over_the_file(cli: Cli, fleet: Path) -> None:
    fleet.write_text(ONE_GPU.format(objective="max-goodput", demand=2))
    shown = cli("plan", "--from", fleet, "--objective", "min-devices", "--json")
    assert shown.json["plan"]["certificate"]["objective"] == "min-devices"


def test_a_wrong_setting_in_the_file_is_refused(cli: Cli, fleet: Path) -> None:
    fleet.write_text(ONE_GPU.format(objective="max-fun", demand=2))
    result = cli("plan", "--from", fleet)
    assert result.code == 2
    assert "planner.objective" in result.err


def test_too_much_demand_has_an_exit_code_of_its_own(cli: Cli, fleet: Path) -> None:
    fleet.write_text(ONE_GPU.format(objective="min-devices", demand=100_000))
    assert cli("plan", "--from", fleet).code == 7
    assert cli("plan", "--from", fleet, "--json").code == 7


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"plan": {}}', "\x00", '{"plan":' + "[" * 100_000]
)
def test_a_file_that_holds_no_plan_is_refused(
    cli: Cli, fleet: Path, tmp_path: Path, text: str
) -> None:
    fleet.write_text(ONE_GPU.format(objective="min-devices", demand=2))
    saved = tmp_path / "saved.json"
    saved.write_text(text)
    done = cli("plan", "--from", str(fleet), "--diff", "--against", str(saved))
    assert done.code == 2
    assert "saved.json" in done.err
    assert "partitiond plan --json" in " ".join(done.err.split())


def test_a_file_without_an_end_is_refused(cli: Cli) -> None:
    assert "larger than" in " ".join(cli("plan", "--from", "/dev/zero").err.split())


def test_a_terminal_of_plain_ascii_gets_marks_not_a_traceback(fleet: Path) -> None:
    fleet.write_text(ONE_GPU.format(objective="min-devices", demand=2))
    done = subprocess.run(
        [sys.executable, "-m", "partitiond", "plan", "--from", str(fleet)],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr

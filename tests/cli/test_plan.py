"""`partitiond plan --from`: a described fleet, planned with no daemon, engine or GPU."""

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

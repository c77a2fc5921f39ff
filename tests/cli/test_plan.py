"""`partitiond plan --from` plans a described fleet with no daemon, engine or GPU."""

import io
import sys
from pathlib import Path

import pytest

from partitiond.cli import output
from partitiond.cli.main import main
from tests.cli.conftest import Cli

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


def test_json_holds_plan_and_certificate_and_a_flag_wins_over_the_file(
    cli: Cli, fleet: Path
) -> None:
    fleet.write_text(ONE_GPU.format(objective="max-goodput", demand=2))
    shown = cli("plan --from", fleet, "--json").json
    assert shown["infeasible"] is None
    assert set(shown) == {"plan", "diff", "infeasible", "answers"}
    assert shown["plan"]["certificate"]["objective"] == "max-goodput"
    assert [f["model"] for f in shown["plan"]["forecasts"]] == ["opt-125m"]
    other = cli("plan --from", fleet, "--objective", "min-devices", "--json").json
    assert other["plan"]["certificate"]["objective"] == "min-devices"
    fleet.write_text(ONE_GPU.format(objective="max-fun", demand=2))
    cli("plan --from", fleet).refused(2, "planner.objective")
    fleet.write_text(ONE_GPU.format(objective="min-devices", demand=100_000))
    assert [cli("plan --from", fleet, *more).code for more in ((), ("--json",))] == [7, 7]


def test_a_file_that_holds_no_plan_or_has_no_end_is_refused(
    cli: Cli, fleet: Path, tmp_path: Path
) -> None:
    fleet.write_text(ONE_GPU.format(objective="min-devices", demand=2))
    saved = tmp_path / "saved.json"
    for text in ("", "{}", "[]", '{"plan": {}}', "\x00", '{"plan":' + "[" * 100_000):
        saved.write_text(text)
        done = cli("plan --from", fleet, "--diff", "--against", saved)
        done.refused(2, "saved.json", "partitiond plan --json")
    assert "larger than" in cli("plan --from /dev/zero").said


def test_a_terminal_of_plain_ascii_gets_marks_not_a_traceback(
    fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.write_text(ONE_GPU.format(objective="min-devices", demand=2))
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    output.out.cache_clear()
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--from", str(fleet)])
    output.out.cache_clear()
    terminal.flush()
    assert ended.value.code == 0
    assert "?" in terminal.buffer.getvalue().decode()

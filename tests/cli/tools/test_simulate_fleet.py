"""`partitiond tools simulate fleet` works as a user runs it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from partitiond.cli.main import app

FLEET = """
[[devices]]
hardware = "a100-80gb"
count = 2

[[models]]
model = "opt-125m"
demand = { req_per_s = 5 }
slo = { ttft_seconds = 0.5, tpot_seconds = 0.03 }
workload = { prompt_tokens = 64, output_tokens = 32 }
"""
TRACE = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET, encoding="utf-8")
    return path


def simulate(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(
        app, ["tools", "simulate", "fleet", *arguments], catch_exceptions=False
    )
    return done.exit_code, done.output


def test_made_up_traffic_is_reported_by_model(fleet: Path) -> None:
    code, text = simulate(str(fleet), "--seconds", "60", "--time-limit", "1", "--json")
    assert code == 0
    report = json.loads(text)
    (one,) = report["models"]
    assert one["model"] == "opt-125m"
    assert 200 < one["served"]["arrivals"] < 400
    assert one["served"]["good"] == one["served"]["arrivals"]
    assert report["devices_used"] == 1
    assert one["used"]["gpu_hours"] == pytest.approx(1 / 60)
    assert report["events"] > one["served"]["arrivals"]


def test_a_trace_is_replayed_to_its_end(fleet: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = "".join(f"{n},ChatGPT,{20 + n},{10 + n},0,API log\n" for n in range(50))
    trace.write_text(TRACE + rows, encoding="utf-8")
    code, text = simulate(str(fleet), "--trace", str(trace), "--time-limit", "1", "--json")
    assert code == 0
    served = json.loads(text)["all"]["served"]
    assert served["answered"] == 50
    assert served["output_tokens"] == sum(10 + n for n in range(50))


def test_a_saved_plan_is_simulated_as_it_is(fleet: Path, tmp_path: Path) -> None:
    planned = CliRunner().invoke(
        app, ["plan", "--from", str(fleet), "--time-limit", "1", "--json"], catch_exceptions=False
    )
    path = tmp_path / "plan.json"
    path.write_text(planned.stdout, encoding="utf-8")
    code, text = simulate(str(fleet), "--plan", str(path), "--seconds", "20")
    assert code == 0
    assert "opt-125m" in text
    assert "events/s" in text


def test_what_cannot_be_simulated_is_refused_with_what_to_do(fleet: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (["--workload", "rain"], "poisson"),
        (["--scale-to-zero", "60"], "--autoscale"),
        (["--trace", str(fleet)], "recorded requests"),
        (["--plan", str(fleet)], "plan"),
    ):
        done = CliRunner().invoke(app, ["tools", "simulate", "fleet", str(fleet), *arguments])
        assert done.exit_code != 0
        assert words in done.output + str(done.exception) + repr(getattr(done, "stderr", ""))

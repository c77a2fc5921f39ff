"""The replay bench and the bench of a real plan summarise their rounds correctly."""

import argparse
from pathlib import Path

import pytest

from bench.serving.mixed_plan import rows_of
from bench.serving.mixed_plan import table as mixed_table
from bench.simulator import replay_cases as cases
from bench.simulator.replay import misses, replay_case, table
from partitiond.simulated.replay.comparison import ComparedFigure, Difference, by_figure
from partitiond.simulated.replay.outcome import Outcome
from partitiond.simulated.replay.promise import promises
from partitiond.simulated.replay.replay import OfferedLoad
from tests.simulated.replay.samples import candidate, plan

PROFILES = Path(__file__).parents[3] / "profiles"
FLEET = """
[[devices]]
hardware = "a100-80gb"
count = 1

[[models]]
model = "opt-125m"
demand = { req_per_s = 5 }
workload = { prompt_tokens = 64, output_tokens = 32 }

[[models]]
model = "opt-1.3b"
demand = { req_per_s = 2 }
slo = { ttft_seconds = 1.0, tpot_seconds = 0.05 }
workload = { prompt_tokens = 128, output_tokens = 64 }
"""


@pytest.fixture
def given() -> argparse.Namespace:
    return argparse.Namespace(seconds=2.0, plan_seconds=0.5, seed=0)


def test_the_simulator_gives_back_the_throughput_of_a_measured_batch() -> None:
    profile = next(p for p in cases.measured([PROFILES]) if p.workload.prompt_variation == 0)
    found = {one.figure: one for one in cases.closed_loop(profile, profile.points[-1], 20.0)}
    assert abs(found[ComparedFigure.THROUGHPUT].error) < 0.02
    assert abs(found[ComparedFigure.TPOT].error) < 0.15


def test_a_fleet_file_is_planned_and_replayed(
    tmp_path: Path, given: argparse.Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    case = cases.fleet_case(path, given)
    assert case is not None
    found = replay_case(case)
    assert {one.model for one in found} == {"opt-125m", "opt-1.3b"}
    assert {load for load, _ in by_figure(found)} == set(OfferedLoad)
    assert not by_figure(found)[OfferedLoad.DEMAND, ComparedFigure.SERVED].misses
    assert "fleet.toml: 2 models" in capsys.readouterr().out
    assert len(list(table(found))) == 1 + len(by_figure(found))
    path.write_text('[[models]]\nmodel = "opt-125m"\n')
    assert cases.fleet_case(path, given) is None, "one of this host is left out"
    assert "names no devices" in capsys.readouterr().out
    shipped = cases.measured_case(cases.measured([PROFILES]), given)
    assert shipped is not None
    assert len({p.model for p in shipped.plan.placements}) == 2
    full = OfferedLoad.FULL, ComparedFigure.THROUGHPUT, 100.0
    lines = list(misses([Difference(f"m{n}", *full, 100.0 - 10 * n) for n in range(6)], 2))
    assert ("m5" in lines[0], "m4" in lines[1]) == (True, True), "the worst first"
    assert lines[2].strip() == "and 2 more"


def test_rounds_of_a_real_plan_are_compared_by_their_median() -> None:
    told = promises(plan({"cpu": [candidate("m")]}, {"m": 20.0}))
    rounds = {
        OfferedLoad.FULL: [{"m": _measured(rate)} for rate in (60.0, 90.0, 70.0)],
        OfferedLoad.DEMAND: [{"m": _measured(30.0)}],
    }
    replayed = {load: {"m": _measured(75.0)} for load in OfferedLoad}
    rows = list(rows_of(told, rounds, replayed, {"m": 0.95}))
    full = next(row for row in rows if row.plan.figure is ComparedFigure.THROUGHPUT)
    assert full.plan.got == 70.0
    assert full.rounds == (60.0, 90.0, 70.0)
    assert full.replay_error == pytest.approx(70 / 75 - 1)
    text = "\n".join(mixed_table(rows))
    assert "3 of 3 promises were kept" in text


def _measured(rate: float) -> Outcome:
    return Outcome(10.0, 50, 50, 0, 50, rate, 0.015, 0.008)

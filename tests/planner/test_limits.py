"""Long work can be ended, and parts left out for speed leave answers right."""

import itertools
from pathlib import Path

import pytest
from ortools.sat.python import cp_model

from partitiond.core.errors import SpecError
from partitiond.fleet import offline
from partitiond.fleet.file import load_fleet
from partitiond.fleet.offline import fleet_request, leaner
from partitiond.planner.exact import solve_stoppable
from tests.planner.build import point, want


def test_a_stop_ends_the_exact_solver_with_what_it_has() -> None:
    model = cp_model.CpModel()
    # 12 pigeons in 11 holes, many times over: minutes of work for one core, without a limit.
    for _ in range(4):
        sits = [[model.new_bool_var("") for _ in range(11)] for _ in range(12)]
        for row in sits:
            model.add_bool_or(row)
        for hole, (one, other) in itertools.product(
            range(11), itertools.combinations(range(12), 2)
        ):
            model.add_bool_or([~sits[one][hole], ~sits[other][hole]])
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.cp_model_presolve = False
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 3

    outcome = solve_stoppable(solver, model, stop)
    assert outcome in (cp_model.UNKNOWN, cp_model.INFEASIBLE)


def test_a_lean_demand_keeps_what_serves_and_what_takes_least() -> None:
    sizes = point("a", 6.5, 10, sm=20), point("a", 10, 14, sm=25), point("a", 13, 18, sm=40)
    assert leaner(want("a", *sizes, rate=1.6)).candidates == sizes[:1]
    for rate in (130.0, None):
        assert leaner(want("a", *sizes, rate=rate)).candidates == sizes


def test_a_fleet_file_beyond_what_can_be_bounded_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "MAX_PAIRS", 2_000_000)
    fleet = tmp_path / "huge.toml"
    models = "\n".join(f'[[models]]\nmodel = "opt-125m"\nname = "m{n}"' for n in range(3000))
    fleet.write_text(f'[[devices]]\nhardware = "a100-80gb"\ncount = 1000\n{models}\n')
    with pytest.raises(SpecError, match="3,000 models and 1,000 devices") as refused:
        fleet_request(load_fleet(fleet))
    assert "in parts" in refused.value.hint

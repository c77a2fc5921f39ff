"""Each objective's benefit is described once, and everywhere in the same words."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from partitiond import serde
from partitiond.api.plan_schemas import PlanBody
from partitiond.core.errors import InputError
from partitiond.core.plan.objectives import BUYS, REMOVED, objectives_told, with_present_objective
from partitiond.core.plan.record import Objective, Plan, Status
from partitiond.planner.answers.changes import parse_changes
from partitiond.settings.schema import PlannerSettings

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "plan.md"
STORED = Path(__file__).parents[2] / "bodies" / "frozen" / "plan.json"


def test_each_objectives_benefit_is_told_alike_everywhere() -> None:
    assert tuple(BUYS) == tuple(Objective)
    assert len(set(BUYS.values())) == len(BUYS)
    assert all(
        0 < len(line) <= 75 and "\n" not in line and line[-1] != "." for line in BUYS.values()
    )
    told = objectives_told()
    assert all(f"{objective.value}: {line}" in told for objective, line in BUYS.items())
    for fields in (PlanBody.model_fields, PlannerSettings.model_fields):
        assert told in str(fields["objective"].description)
    with pytest.raises(InputError) as refused:
        parse_changes("objective best")
    assert told in str(refused.value.hint)
    page = HOW_TO.read_text(encoding="utf-8")
    for objective, line in BUYS.items():
        assert f"| `{objective.value}` | {line} |" in page
    costs = [objective for objective in Objective if objective.is_cost]
    assert "max-" not in objectives_told(costs)
    assert objectives_told([]) == ""


@pytest.mark.parametrize("name", REMOVED)
def test_an_objective_that_was_removed_is_refused_with_what_to_take(name: str) -> None:
    assert name not in list(Objective)
    assert any(objective.value in REMOVED[name] for objective in Objective)
    for reader in (PlanBody, PlannerSettings):
        with pytest.raises(ValidationError) as refused:
            reader.model_validate({"objective": name})
        assert f"this objective was removed. {REMOVED[name]}" in str(refused.value)
    with pytest.raises(InputError) as unknown:
        parse_changes(f"objective {name}")
    assert unknown.value.hint == REMOVED[name]


@pytest.mark.parametrize("name", REMOVED)
def test_a_stored_plan_of_a_removed_objective_keeps_all_but_its_proof(name: str) -> None:
    body = json.loads(STORED.read_text(encoding="utf-8"))
    assert with_present_objective(body) is body
    there = serde.from_stored(Plan, body)
    body["certificate"] |= {"objective": name, "value": 750.0, "bound": 750.0}
    read = serde.from_stored(Plan, with_present_objective(body))
    assert (read.placements, read.forecasts) == (there.placements, there.forecasts)
    proof = read.certificate
    assert (proof.objective, proof.value, proof.bound) == (Objective.MIN_DEVICES, 1.0, 0.0)
    assert (proof.status, proof.gap) == (Status.FEASIBLE, 1.0), "nothing is proven of it"
    assert name in proof.method

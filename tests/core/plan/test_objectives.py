"""Each objective's benefit is described once, and everywhere in the same words."""

from pathlib import Path

import pytest

from partitiond.api.plan_schemas import PlanBody
from partitiond.core.errors import InputError
from partitiond.core.plan.objectives import BUYS, objectives_told
from partitiond.core.plan.record import Objective
from partitiond.planner.answers.changes import parse_changes
from partitiond.settings.schema import PlannerSettings

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "plan.md"


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

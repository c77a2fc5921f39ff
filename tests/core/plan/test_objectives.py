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


def test_every_objective_buys_something_else_in_one_line() -> None:
    assert tuple(BUYS) == tuple(Objective)
    assert len(set(BUYS.values())) == len(BUYS)
    assert all(
        0 < len(line) <= 75 and "\n" not in line and line[-1] != "." for line in BUYS.values()
    )


def test_the_help_the_api_the_settings_and_errors_say_the_same() -> None:
    told = objectives_told()
    assert all(f"{objective.value}: {line}" in told for objective, line in BUYS.items())
    for fields in (PlanBody.model_fields, PlannerSettings.model_fields):
        assert told in str(fields["objective"].description)
    with pytest.raises(InputError) as refused:
        parse_changes("objective best")
    assert told in str(refused.value.hint)


def test_the_page_says_the_same() -> None:
    page = HOW_TO.read_text(encoding="utf-8")
    for objective, line in BUYS.items():
        assert f"| `{objective.value}` | {line} |" in page


def test_only_those_that_were_asked_for_are_told() -> None:
    costs = [objective for objective in Objective if objective.is_cost]
    assert "max-" not in objectives_told(costs)
    assert objectives_told([]) == ""

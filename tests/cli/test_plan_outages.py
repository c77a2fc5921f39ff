"""An outage that applying a plan causes is shown wherever the plan's changes are."""

import io

from rich.console import Console

from partitiond.cli.plan.steps import MAX_STEPS, changes_view, outage_lines
from partitiond.core.plan.diff import DiffCost, diff_cost
from partitiond.core.plan.outage import Outage
from partitiond.core.plan.record import diff_plans
from tests.core.plan.test_diff import placed
from tests.planner.build import gpu

OLD, NEW = placed("a-1", gib=50), placed("a-1", gib=60)
DIFF = diff_plans((OLD,), (NEW,))


def drawn(cost: DiffCost) -> str:
    console = Console(file=io.StringIO(), width=100)
    for line in changes_view(DIFF, cost, 100):
        console.print(line)
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_the_model_how_long_and_what_becomes_of_its_requests() -> None:
    text = drawn(diff_cost(DIFF, [gpu("gpu-0")], {"a": 30.0}))
    assert "a has no replica for about 3" in text
    assert "503 with Retry-After" in text


def test_nothing_is_said_where_there_is_none() -> None:
    smaller = diff_cost(diff_plans((placed("a-1"),), (placed("a-1", gib=20),)), [gpu("gpu-0")])
    assert list(outage_lines(smaller)) == []


def test_one_that_begins_later_says_when_and_very_many_are_counted() -> None:
    outages = tuple(Outage(f"m{n}", 60.0, 90.0) for n in range(MAX_STEPS + 3))
    lines = [str(line) for line in outage_lines(DiffCost((), (), 0.0, 0, 0, outages))]
    assert "m0 has no replica for about 30 s, beginning after about 1 min" in lines[0]
    assert lines[-1] == "... and 3 models more (plan --all)"

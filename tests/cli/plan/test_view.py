"""A plan is drawn legibly at the terminal widths that people have."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from partitiond.cli.plan.answers import explained_view
from partitiond.cli.plan.compare import constraints_view, what_if_view
from partitiond.cli.plan.steps import changes_view
from partitiond.cli.plan.view import render_plan
from partitiond.cli.plan.words import amount_text
from partitiond.core.model.spec import PlacementRules
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.answers import Alternative, alternative
from partitiond.core.plan.diff import diff_cost
from partitiond.core.plan.record import Objective, Plan, PlanDiff, diff_plans
from partitiond.fleet.file import load_fleet
from partitiond.fleet.offline import plan_fleet
from partitiond.planner.answers.explain_model import explain_model
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import cpu, gpu, on_cores, point, want

NAMES = ("smollm2", "opt-", "qwen", "llama", "tinyllama", "phi")
EXAMPLE = Path(__file__).parents[3] / "examples" / "twelve-models.toml"


def draw(plan: Plan, width: int, diff: PlanDiff | None = None) -> str:
    """The drawing as plain text."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render_plan(plan, diff))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.fixture(scope="module")
def twelve() -> Plan:
    """The plan of the example."""
    plan = plan_fleet(load_fleet(EXAMPLE))
    assert isinstance(plan, Plan)
    return plan


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_it_fits_the_width_and_shows_every_model_and_device(twelve: Plan, width: int) -> None:
    text = draw(twelve, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for placement in twelve.placements:
        assert placement.device_id in text
        assert placement.model[:9] in text
    for words in (
        "one model per device",
        "no plan needs less than",
        "optimal for these estimates",
        "Why",
    ):
        assert words in text


def test_at_80_columns_no_figure_is_cut(twelve: Plan) -> None:
    table = draw(twelve, 80).split("Why")[0]
    assert "…" not in table
    assert "est." in table


def test_bars_are_to_scale(twelve: Plan) -> None:
    text = draw(twelve, 80)
    bars = [line for line in text.splitlines() if line.lstrip().startswith("memory")]
    assert len(bars) == len({p.device_id for p in twelve.placements})
    device = next(d for d in twelve.devices if twelve.on_device(d.id))
    used = sum(p.partition.memory_bytes for p in twelve.on_device(device.id))
    body = bars[0].split()[1]
    filled = sum(1 for c in body if c not in "·░")
    assert abs(filled / len(body) - used / device.memory_bytes) < 0.05


def test_a_cpu_plan_shows_cores_what_changes_and_what_is_missing() -> None:
    models = tuple(want(name, on_cores(name, 3, 1)) for name in ("a", "b", "c"))
    plan = solve(PlanRequest((cpu(2),), models, objective=Objective.MIN_DEVICES))
    assert isinstance(plan, Plan)
    text = draw(plan, 80, diff_plans((), plan.placements))
    assert "2 of 2" in text
    assert "not served in full" in text
    assert "what would help" in text
    assert "+ start a-1 on cpu (cores-1, batch 8)" in text
    same = draw(plan, 80, diff_plans(plan.placements, plan.placements))
    assert "this plan is applied already" in same, "it may still be starting"


def test_long_names_of_devices_are_short_wherever_a_change_is_shown() -> None:
    long = "GPU-32a7e041-d932-579a-a914-f0413f321eb6"
    request = PlanRequest((gpu(long),), (want("a", point("a", 5, 30, sm=20), rate=5),))
    plan = solve(request)
    assert isinstance(plan, Plan)
    diff = diff_plans((), plan.placements)
    brief = draw(plan, 120, diff)
    assert "+ start a-1 on GPU-32a7e041 (mps-20, batch 8)" in brief
    console = Console(file=io.StringIO(), width=120, color_system=None)
    for line in changes_view(diff, diff_cost(diff, request.devices), 120):
        console.print(line)
    full = console.file.getvalue()  # type: ignore[attr-defined]
    assert "GPU-32a7e041" in full
    assert long not in brief + full


def test_why_names_models_with_a_reason_of_their_own_and_counts_the_others(twelve: Plan) -> None:
    named = [line for line in twelve.explanation if line.startswith(NAMES)]
    assert 0 < len(named) < 12
    assert all("no smaller one" in line or "none of its" in line for line in named)
    assert any(
        line.startswith(f"{12 - len(named)} models have sizes that fit beside the others")
        for line in twelve.explanation
    )


def test_bars_of_several_priorities_count_what_each_of_them_gets() -> None:
    models = tuple(
        want(name, point(name, rate, 40, sm=50), rate=rate, rules=PlacementRules(priority=rank))
        for name, rate, rank in (("low", 3, 0), ("high", 4, 2))
    )
    free = Interference((1.0,), (1.0,), 0.0, 0.0, 0.0)
    request = PlanRequest((gpu(),), models, objective=Objective.MAX_GOODPUT, interference=free)
    plan = solve(request)
    assert isinstance(plan, Plan)
    bars = [line.split("█")[0].split() for line in draw(plan, 80).splitlines() if "█" in line]
    assert bars[:4] == [
        ["priority", "2", "in", "this", "plan", "4"],
        ["at", "most", "in", "the", "best", "plan", "4"],
        ["priority", "0", "in", "this", "plan", "3"],
        ["at", "most", "in", "the", "best", "plan", "3"],
    ]


def _beside(base: Plan, *others: Alternative, constraints: bool = False) -> str:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    view = constraints_view(base, others, 200) if constraints else what_if_view(base, others, 200)
    for line in view:
        console.print(line)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def _one_device(bound: float) -> Plan:
    plan = solve(PlanRequest((gpu(),), (want("a", point("a", 5, 30), rate=5),)))
    assert isinstance(plan, Plan)
    proof = replace(plan.certificate, value=2.0, bound=bound)
    return replace(plan, certificate=proof)


@pytest.mark.parametrize("bound", [1.0, 2.0])
def test_a_gain_beside_a_plan_that_is_not_proven_is_not_said_to_come_of_the_change(
    bound: float,
) -> None:
    base = _one_device(bound)
    same = alternative("no mig", base, base, (), with_plan=False)
    better = replace(same, gain=1.0)
    said = _beside(base, better)
    assert "saves 1 device" in said
    assert ("not proven the best" in said) is (bound < 2)
    assert "also without the change" not in said
    forbids = _beside(base, replace(better, forbids=True))
    assert "saves 1 device, also without the change" in forbids
    assert "no mig: it only forbids something, so its plan is one of what is as well" in forbids
    assert "not proven the best" not in _beside(base, same, replace(same, gain=-1.0))


def test_what_costs_nothing_is_told_apart_from_what_was_not_found_to_cost() -> None:
    base = _one_device(2.0)
    same = alternative("without rule a.slo", base, base, (), with_plan=False)
    open_ = replace(same, change="without rule a.near", gain_at_most=1.0)
    lost = replace(same, change="without rule *.avoid", gain=-1.0)
    said = _beside(base, same, open_, lost, constraints=True)
    assert "cost nothing in this plan: a.slo\n" in said
    assert "cost nothing that was found: a.near, *.avoid\n" in said


def test_an_empty_plan_can_be_drawn() -> None:
    plan = solve(PlanRequest((cpu(2),), ()))
    assert isinstance(plan, Plan)
    assert "Plan plan" in draw(plan, 80)


@pytest.mark.parametrize("width", [80, 120])
def test_the_kind_of_device_is_shown_beside_a_size_where_there_are_several(width: int) -> None:
    models = (want("a", *(point("a", 2, 10, hardware=kind) for kind in ("a100-80gb", "l4-24gb"))),)
    for devices in ((gpu(),), (gpu(), gpu("gpu-1", gib=22, hardware="l4-24gb"))):
        request = PlanRequest(devices, models)
        outcome = solve(request)
        assert isinstance(outcome, Plan)
        console = Console(file=io.StringIO(), width=width, color_system=None)
        for line in explained_view(outcome, explain_model(request, outcome, models[0]), width):
            console.print(line)
        table = console.file.getvalue().split("Sizes it could run at")[1]  # type: ignore[attr-defined]
        assert "a100-80gb" in table
        assert "l4-24gb" in table
        assert ("best there" in table) is (len(devices) > 1)


def test_what_is_charged_is_never_called_a_draw() -> None:
    """Only the charge has a bound; the predicted draw stands beside it."""
    model = want("a", point("a", 5, 10, sm=10, watts=50.0), rate=4, min_replicas=2)
    plan = solve(PlanRequest((gpu(),), (model,), objective=Objective.MIN_ENERGY))
    assert isinstance(plan, Plan)
    assert "in W charged" in draw(plan, 140)
    assert "100 W drawn" in draw(plan, 140)
    assert amount_text(Objective.MIN_ENERGY, 40) == "40 W charged"

"""A plan is drawn legibly at the terminal widths that people have."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import RenderableType

from partitiond.cli.plan.answers import explained_view
from partitiond.cli.plan.compare import what_if_view
from partitiond.cli.plan.steps import MAX_STEPS, changes_view, outage_lines
from partitiond.cli.plan.view import render_plan
from partitiond.cli.plan.words import amount_text
from partitiond.core.hardware.kinds import Device
from partitiond.core.model.spec import PlacementRules
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.answers import alternative
from partitiond.core.plan.diff import DiffCost, diff_cost
from partitiond.core.plan.outage import Outage
from partitiond.core.plan.record import ModelDemand, Objective, Plan, PlanDiff, diff_plans
from partitiond.fleet.file import load_fleet
from partitiond.fleet.offline import fleet_request
from partitiond.planner.answers.explain_model import explain_model
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from tests.cli.conftest import text_of, widest
from tests.core.plan.test_diff import placed
from tests.planner.build import cpu, gpu, on_cores, point, want

EXAMPLE = Path(__file__).parents[3] / "examples" / "twelve-models.toml"


def draw(plan: Plan, width: int, diff: PlanDiff | None = None) -> str:
    return text_of(render_plan(plan, diff), width)


def lines(drawn: Iterable[RenderableType], width: int) -> str:
    return "".join(text_of(line, width) for line in drawn)


def solved(
    devices: Iterable[Device], *models: ModelDemand, **more: Any
) -> tuple[PlanRequest, Plan]:
    request = PlanRequest(tuple(devices), models, **more)
    plan = solve(request)
    assert isinstance(plan, Plan)
    return request, plan


@pytest.fixture(scope="module")
def twelve() -> Plan:
    """The plan of the example."""
    plan = solve(fleet_request(load_fleet(EXAMPLE)))
    assert isinstance(plan, Plan)
    return plan


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_it_fits_the_width_and_shows_every_model_and_device(twelve: Plan, width: int) -> None:
    text = draw(twelve, width)
    assert widest(text) <= width
    for placement in twelve.placements:
        assert placement.device_id in text
        assert placement.model[:9] in text
    for words in ("one model per device", "no plan needs less than", "optimal for these estimates"):
        assert words in text
    if width == 80:
        assert "…" not in text.split("Why")[0], "no figure is cut"
        assert "est." in text


def test_bars_are_to_scale(twelve: Plan) -> None:
    bars = [
        line
        for line in draw(twelve, 80).splitlines()
        if "GiB" in line and line.lstrip().startswith("memory")
    ]
    assert len(bars) == len({p.device_id for p in twelve.placements})
    device = next(d for d in twelve.devices if twelve.on_device(d.id))
    used = sum(p.partition.memory_bytes for p in twelve.on_device(device.id))
    body = bars[0].split()[1]
    filled = sum(1 for c in body if c not in "·░")
    assert abs(filled / len(body) - used / device.memory_bytes) < 0.05


def test_a_cpu_plan_shows_cores_what_changes_and_what_is_missing() -> None:
    _, plan = solved(
        [cpu(2)], *(want(name, on_cores(name, 3, 1)) for name in "abc"),
        objective=Objective.MIN_DEVICES,
    )  # fmt: skip
    text = draw(plan, 80, diff_plans((), plan.placements))
    for words in ("2 of 2", "not served in full", "what would help",
                  "+ start a-1 on cpu (cores-1, batch 8)"):  # fmt: skip
        assert words in text
    same = draw(plan, 80, diff_plans(plan.placements, plan.placements))
    assert "this plan is applied already" in same, "it may still be starting"
    assert "Plan plan" in draw(solved([cpu(2)])[1], 80), "an empty one"


def test_long_names_of_devices_are_short_wherever_a_change_is_shown() -> None:
    long = "GPU-32a7e041-d932-579a-a914-f0413f321eb6"
    request, plan = solved([gpu(long)], want("a", point("a", 5, 30, sm=20), rate=5))
    diff = diff_plans((), plan.placements)
    brief = draw(plan, 120, diff)
    assert "+ start a-1 on GPU-32a7e041 (mps-20, batch 8)" in brief
    full = lines(changes_view(diff, diff_cost(diff, request.devices), 120), 120)
    assert "GPU-32a7e041" in full
    assert long not in brief + full


def test_bars_of_several_priorities_count_what_each_of_them_gets() -> None:
    models = (
        want(name, point(name, rate, 40, sm=50), rate=rate, rules=PlacementRules(priority=rank))
        for name, rate, rank in (("low", 3, 0), ("high", 4, 2))
    )
    free = Interference((1.0,), (1.0,), 0.0, 0.0, 0.0)
    _, plan = solved([gpu()], *models, objective=Objective.MAX_GOODPUT, interference=free)
    bars = [line.split("█")[0].split() for line in draw(plan, 80).splitlines() if "█" in line]
    assert [" ".join(bar) for bar in bars[:4]] == [
        "priority 2 in this plan 4", "at most in the best plan 4",
        "priority 0 in this plan 3", "at most in the best plan 3",
    ]  # fmt: skip


def one_device(bound: float) -> Plan:
    _, plan = solved([gpu()], want("a", point("a", 5, 30), rate=5))
    return replace(plan, certificate=replace(plan.certificate, value=2.0, bound=bound))


@pytest.mark.parametrize("bound", [1.0, 2.0])
def test_a_gain_beside_a_plan_that_is_not_proven_is_not_said_to_come_of_the_change(
    bound: float,
) -> None:
    base = one_device(bound)
    same = alternative("no mig", base, base, (), with_plan=False)
    better = replace(same, gain=1.0)
    said = lines(what_if_view(base, [better], 200), 200)
    assert "saves 1 device" in said
    assert ("not proven the best" in said) is (bound < 2)
    assert "also without the change" not in said
    forbids = lines(what_if_view(base, [replace(better, forbids=True)], 200), 200)
    assert "saves 1 device, also without the change" in forbids
    assert "no mig: it only forbids something, so its plan is one of what is as well" in forbids
    none = lines(what_if_view(base, [same, replace(same, gain=-1.0)], 200), 200)
    assert "not proven the best" not in none


@pytest.mark.parametrize("width", [80, 120])
def test_the_kind_of_device_is_shown_beside_a_size_where_there_are_several(width: int) -> None:
    model = want("a", *(point("a", 2, 10, hardware=kind) for kind in ("a100-80gb", "l4-24gb")))
    for devices in ((gpu(),), (gpu(), gpu("gpu-1", gib=22, hardware="l4-24gb"))):
        request, plan = solved(devices, model)
        drawn = lines(explained_view(plan, explain_model(request, plan, model), width), width)
        table = drawn.split("Sizes it could run at")[1]
        assert "a100-80gb" in table
        assert "l4-24gb" in table
        assert ("best there" in table) is (len(devices) > 1)


def test_what_is_charged_is_never_called_a_draw() -> None:
    """Only the charge has a bound; the predicted draw stands beside it."""
    model = want("a", point("a", 5, 10, sm=10, watts=50.0), rate=4, min_replicas=2)
    _, plan = solved([gpu()], model, objective=Objective.MIN_ENERGY)
    assert "in W charged" in draw(plan, 140)
    assert "100 W drawn" in draw(plan, 140)
    assert amount_text(Objective.MIN_ENERGY, 40) == "40 W charged"


OLD, NEW = placed("a-1", gib=50), placed("a-1", gib=60)


def test_an_outage_that_applying_a_plan_causes_is_shown_where_its_changes_are() -> None:
    diff = diff_plans((OLD,), (NEW,))
    text = lines(changes_view(diff, diff_cost(diff, [gpu("gpu-0")], {"a": 30.0}), 100), 100)
    assert "a has no replica for about 3" in text
    assert "503 with Retry-After" in " ".join(text.split())
    smaller = diff_cost(diff_plans((placed("a-1"),), (placed("a-1", gib=20),)), [gpu("gpu-0")])
    assert list(outage_lines(smaller)) == []
    outages = tuple(Outage(f"m{n}", 60.0, 90.0) for n in range(MAX_STEPS + 3))
    told = [str(line) for line in outage_lines(DiffCost((), (), 0.0, 0, 0, outages))]
    assert "m0 has no replica for about 30 s, beginning after about 1 min" in told[0]
    assert told[-1] == "... and 3 models more (plan --all)"

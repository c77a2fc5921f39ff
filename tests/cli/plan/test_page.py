"""A plan of hundreds of models is shown as a page; a small one, or all of it, is shown whole."""

from dataclasses import replace

import pytest

from partitiond.cli.plan.view import render_plan
from partitiond.core.plan.diff import diff_cost
from partitiond.core.plan.record import Plan, Unplaced, diff_plans
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from tests.cli.conftest import text_of, widest
from tests.planner.build import gpu, point, want

PAGE = 50


def fleet(models: int, devices: int, *, lacking: int = 0) -> Plan:
    """A plan of so many models, three replicas each, on so many devices."""
    plan = solve(PlanRequest((gpu("g0"),), (want("m", point("m", 5, 8, sm=10), rate=14),)))
    assert isinstance(plan, Plan)
    (forecast,), kinds = plan.forecasts, [replace(plan.devices[0], id=f"gpu-{n}")
                                          for n in range(devices)]  # fmt: skip
    names = [f"model-{n:03d}" for n in range(models)]
    placements = [
        replace(
            p,
            model=name,
            replica_id=f"{name}-{copy}",
            device_id=f"gpu-{(number * 3 + copy) % devices}",
            candidate=replace(p.candidate, model=name),
        )
        for number, name in enumerate(names)
        for copy, p in enumerate(plan.placements)
    ]
    rates = (0.0 if n < lacking else 15.0 + n / 100 for n in range(models))
    return replace(
        plan,
        placements=tuple(placements),
        devices=tuple(kinds),
        forecasts=tuple(
            replace(forecast, model=name, capacity_req_per_s=rate, replicas=3 if rate else 0)
            for name, rate in zip(names, rates, strict=True)
        ),
        unplaced=tuple(Unplaced(name, f"{name} gets nothing.", 14.0) for name in names[:lacking]),
        explanation=(
            "A summary.",
            *(f"{name}: no smaller one of its sizes covers the demand alone." for name in names),
            f"Estimated, not measured: {', '.join(names)}.",
        ),
    )


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("lacking", [0, 100])
def test_three_hundred_models_on_128_devices_are_a_page(width: int, lacking: int) -> None:
    plan = fleet(300, 128, lacking=lacking)
    text = text_of(render_plan(plan), width)
    assert len(text.splitlines()) <= PAGE
    assert widest(text) <= width
    for words in ("The worst served of 300 models", "more in use (plan --all draws them)",
                  "A summary.", "model-000", "more sentences"):  # fmt: skip
        assert words in text
    if lacking and width == 140:
        whole = text_of(render_plan(plan, everything=True), width)
        # In the table, the reasons, and why.
        assert [f.model for f in plan.forecasts if whole.count(f.model) < 3] == []
        assert [device.id for device in plan.devices if device.id not in whole] == []
        assert "--all" not in whole


def test_models_that_are_not_shown_are_counted_and_a_small_plan_is_shown_whole() -> None:
    for lacking, says in ((0, ""), (6, ""), (60, ", 54 of them without a replica")):
        text = text_of(render_plan(fleet(80, 60, lacking=lacking)), 140)
        assert f"... and 74 more models{says} (plan --all)" in text
    plan = fleet(30, 10)
    text = text_of(render_plan(plan), 140)
    assert text == text_of(render_plan(plan, everything=True), 140)
    assert "worst served" not in text


@pytest.mark.parametrize("takes", [False, True])
def test_hundreds_of_changes_are_counted(takes: bool) -> None:
    plan = fleet(300, 128)
    moved = (replace(p, device_id="gpu-127") for p in plan.placements[::30])
    kept = (p for n, p in enumerate(plan.placements) if n % 30 and n < 600)
    diff = diff_plans((*moved, *kept), plan.placements)
    cost = diff_cost(diff, plan.devices) if takes else None
    page = text_of(render_plan(plan, diff, cost))
    assert f"in all {len(diff.start)} starts, {len(diff.move)} moves, 0 stops" in page
    assert len(page.splitlines()) <= PAGE + 40, "the plan, and six changes with two lines or three"
    whole = text_of(render_plan(plan, diff, cost, everything=True), 140)
    assert all(p.replica_id in whole for p in diff.start)

"""Reasons and remedies for what a plan leaves out are true of that plan."""

import pytest

from partitiond.core.hardware.kinds import Device
from partitiond.core.model.spec import FaultDomain, PlacementRules
from partitiond.core.plan.record import ModelDemand, Objective, Status, Unplaced
from partitiond.core.units import GIB
from partitiond.planner.answers.explain import unplaced
from partitiond.planner.answers.explain_model import explain_model
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.packing import Packing
from partitiond.planner.progress.answer import SolveAnswer
from tests.planner.build import gpu, point, want
from tests.planner.problems import plan_for

THIRD = point("a", 10, 30, sm=10)
SURVIVES = PlacementRules(survive=FaultDomain.DEVICE, survive_share=1.0)


def left_out(model: ModelDemand, *per_device: int, beside: ModelDemand | None = None) -> Unplaced:
    """What is said of a model that has so many replicas of its one size on each device, each with
    one of another model beside them.
    """
    devices = tuple(gpu(f"g{n}") for n in range(len(per_device)))
    models = (model,) if beside is None else (model, beside)
    goal = Objective.MAX_GOODPUT
    packing = Packing(build_instance(PlanRequest(devices, models, objective=goal)))
    for index, count in enumerate(per_device):
        items = [0] * count + [1] * (len(models) - 1)
        option = packing.best_option(index, items)
        for item in items:
            assert option is not None
            packing.add(index, item, option)
    found = SolveAnswer(packing, goal, 0.0, 0.0, Status.FEASIBLE, "by hand")
    (told,) = unplaced(packing.instance, found, {})
    return told


@pytest.mark.parametrize(
    ("model", "per_device", "reason", "remedy"),
    [
        (
            want("a", THIRD, rate=50, min_replicas=6), (2, 0),
            ("no room for more of it was found", "nor on the 1 that is idle", "only 2 are placed"),
            "Give it more time, lower its demand by",
        ),
        # 95 % full, and still one is idle.
        (want("a", point("a", 10, 40, sm=10), rate=5000), (*[2] * 19, 0), ("idle",), ""),
        # Where none is idle more time is no remedy.
        (
            want("a", THIRD, rate=50), (1, 2),
            ("no room for more of it was found beside what the devices hold",),
            "Lower its demand by",
        ),
        # The objective does not count a loss; what helps the rate leaves `survive` to be seen to.
        (
            want("a", THIRD, rate=10, rules=SURVIVES), (1, 0),
            ("max-goodput counts what is served, not what a loss leaves",), "",
        ),
        (want("a", THIRD, rate=100, rules=SURVIVES), (2, 2), (), "Lower its demand by"),
    ],
)  # fmt: skip
def test_what_is_left_out_is_told_with_what_helps(
    model: ModelDemand, per_device: tuple[int, ...], reason: tuple[str, ...], remedy: str
) -> None:
    told = left_out(model, *per_device)
    assert all(words in told.reason for words in reason)
    assert remedy in told.remedy
    assert "left" not in told.reason or "leaves" in told.reason
    assert ("survive" in told.remedy) == (model.rules == SURVIVES)
    if model.rules == SURVIVES and remedy:
        assert told.remedy.endswith("Take `survive` back too, unless devices are added.")


@pytest.mark.parametrize(("kind", "apart"), [("a100-80gb", True), ("l4-24gb", False)])
def test_groups_keep_a_model_out_only_by_a_size_that_the_fleet_has_hardware_for(
    kind: str, apart: bool
) -> None:
    sizes = point("b", 5, 70), point("b", 5, 70, sm=30, hardware=kind)
    models = (
        want("a", point("a", 5, 30, sm=40), rate=50, isolation_group="x"),
        want("b", *sizes, rate=50, isolation_group="y"),
    )
    request = PlanRequest((gpu("g"),), models, objective=Objective.MAX_GOODPUT, deterministic=True)
    told = {one.model: one.reason for one in plan_for(request).unplaced}
    assert ("one isolation group" in told["b"]) is apart, told


def test_what_has_no_replica_is_not_helped_by_less_demand() -> None:
    other = want("b", point("b", 10, 60, sm=10), rate=5)
    told = left_out(want("a", THIRD, rate=5), 0, beside=other)
    assert "gets 0 of 5" in told.reason
    assert told.remedy.startswith("Stop another model")


# --- why not one more --------------------------------------------------------------------------

ENGINE = point("a", 30, 5, sm=10, host_gib=10, cores=2)
NEAR_B = want("a", point("a", 30, 5, sm=10), rate=20, rules=PlacementRules(near=("b",)))
ONE_B = want("b", point("b", 30, 5, sm=10), rate=20, max_replicas=1)


def one_more(devices: tuple[Device, ...], *models: ModelDemand, **more: object) -> str:
    """Why not one more replica of the first model."""
    request = PlanRequest(devices, models, may_search=False, **more)  # type: ignore[arg-type]
    plan = plan_for(request)
    assert len(plan.placements) == len(models)
    return " ".join(explain_model(request, plan, models[0]).not_more)


def test_no_more_fits_than_the_host_has_memory_for() -> None:
    for memory, fits in ((25, True), (20, True), (19, False)):
        stated = (("host", memory * GIB),)
        said = one_more(
            (gpu("g0"), gpu("g1")), want("a", ENGINE, rate=20), host_memory_bytes=stated
        )
        assert ("One more would fit on 1 of the 1 devices in use" in said) == fits
        assert ("could take it" in said) == fits
        assert ("engines on host need 20 GiB of host memory, 19 GiB are there" in said) == (
            not fits
        )


def test_a_replica_has_its_company_on_the_host() -> None:
    apart = gpu("g0"), gpu("g1", host="other")
    said = one_more(apart, NEAR_B, ONE_B)
    assert "One more would fit on 1 of the 1 devices in use" in said
    assert "None of the 1 devices in no use can hold it." in said
    assert "could take it" in one_more((gpu("g0"), gpu("g1")), NEAR_B, ONE_B)

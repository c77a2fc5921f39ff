"""Reasons and remedies of what a plan leaves out are true of that plan."""

from partitiond.core.plan import ModelDemand, Objective, Status, Unplaced
from partitiond.core.spec import FaultDomain, PlacementRules
from partitiond.planner.explain import unplaced
from partitiond.planner.found import Found
from partitiond.planner.instance import build_instance
from partitiond.planner.packing import Packing
from partitiond.planner.types import PlanRequest
from tests.planner.build import gpu, point, want

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
    found = Found(packing, goal, 0.0, 0.0, Status.FEASIBLE, "by hand")
    (told,) = unplaced(packing.instance, found, {})
    return told


def test_where_a_device_is_idle_it_is_not_said_that_nothing_fits() -> None:
    told = left_out(want("a", THIRD, rate=50, min_replicas=6), 2, 0)
    assert "no room for more of it was found" in told.reason
    assert "nor on the 1 that is idle" in told.reason
    assert "only 2 are placed" in told.reason
    assert told.remedy.startswith("Give it more time, lower its demand by")
    half = point("a", 10, 40, sm=10)
    full = left_out(want("a", half, rate=5000), *[2] * 19, 0).reason
    assert "idle" in full, "95 % full"
    assert "left" not in full


def test_where_no_device_is_idle_more_time_is_no_remedy() -> None:
    told = left_out(want("a", THIRD, rate=50), 1, 2)
    assert "no room for more of it was found beside what the devices hold" in told.reason
    assert "Lower its demand by" in told.remedy


def test_what_has_no_replica_is_not_helped_by_less_demand() -> None:
    other = want("b", point("b", 10, 60, sm=10), rate=5)
    told = left_out(want("a", THIRD, rate=5), 0, beside=other)
    assert "gets 0 of 5" in told.reason
    assert told.remedy.startswith("Stop another model")


def test_a_loss_that_the_objective_does_not_count_is_its_own_reason() -> None:
    model = want("a", THIRD, rate=10, rules=SURVIVES)
    told = left_out(model, 1, 0)
    assert "max-goodput counts what is served, not what a loss leaves" in told.reason
    assert "survive" in told.remedy


def test_what_helps_the_rate_leaves_survive_to_be_seen_to() -> None:
    told = left_out(want("a", THIRD, rate=100, rules=SURVIVES), 2, 2)
    assert told.remedy.startswith("Lower its demand by")
    assert told.remedy.endswith("Take `survive` back too, unless devices are added.")
    assert "survive" not in left_out(want("a", THIRD, rate=100), 2, 2).remedy

"""A packing is tidied: what no demand needs is removed, and what runs stays."""

import pytest

from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.members import drop_surplus
from partitiond.planner.pack.packing import Packing
from tests.planner.build import FREE, gpus, point, want
from tests.planner.check.make import placed


@pytest.mark.parametrize(("runs", "rate", "left"), [
    ("", 8, ["new"]), ("old", 8, ["old", "new"]), ("old new", 8, ["new"]),
    ("new", 4, ["new"]), ("", 11, ["old", "new"]), ("", None, ["old"]),
])  # fmt: skip
def test_no_running_replica_is_removed_in_favour_of_one_that_does_not_run(
    runs: str, rate: float | None, left: list[str]
) -> None:
    """One serves 5 requests/s, the other, which is larger, 10."""
    sizes = {"old": point("a", 5, 20), "new": point("a", 10, 30, batch=9)}
    running = tuple(
        placed(sizes[n], 1 + "on".index(n[0]), f"g{'on'.index(n[0])}") for n in runs.split()
    )
    model = want("a", *sizes.values(), rate=rate)
    request = PlanRequest(gpus(2), (model,), running=running, interference=FREE)
    instance = build_instance(request)
    packing = Packing(instance)
    for index, size in enumerate(sizes.values()):
        item = next(i.index for i in instance.items if i.candidate == size)
        option = packing.best_option(index, [item])
        assert option is not None
        packing.add(index, item, option)
    if rate is None:
        drop_surplus(packing, rated_only=True)
        assert all(load.items for load in packing.loads), "without a rate nothing is too much"
    drop_surplus(packing)
    assert [name for name, load in zip(sizes, packing.loads, strict=True) if load.items] == left

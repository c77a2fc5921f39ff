"""A solve that was asked to end does as little as a plan takes."""

import collections
import sys
from types import FrameType

import pytest

from partitiond.core.plan.record import Infeasible, Objective, Status
from partitiond.planner.api import solve
from partitiond.planner.bounds.prices import usual_prices
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.members import Member, member
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search.nearest import nearest_cost
from partitiond.planner.search.repair import completed
from tests.planner.build import gpu, point, want

LONG = {
    "CpSolver.solve", "solve", "complete", "most_goodput",
    "bound_of", "linear_prices", "Improver.run", "Improver.__init__",
    "dive", "_Program.solve",
}  # fmt: skip
"""Functions that take long where there is much."""


class Stopped:
    """Asks to end at its n-th time of being asked, and counts what takes long after that."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.calls: collections.Counter[str] = collections.Counter()

    def __call__(self) -> bool:
        self.left -= 1
        if self.left == 0:
            sys.setprofile(self._called)
        return self.left <= 0

    def _called(self, frame: FrameType, event: str, _argument: object) -> None:
        name = frame.f_code.co_qualname
        if event == "call" and name in LONG:
            self.calls[name] += 1


def asked(objective: Objective, models: int, devices: int, *, fits: bool) -> PlanRequest:
    """A question that takes its time."""
    rates = [0.3 + 0.071 * n for n in range(models)]
    return PlanRequest(
        tuple(gpu(f"g{n}", idle_watts=50.0, max_watts=300.0) for n in range(devices)),
        tuple(
            want(
                f"m{n}",
                point(f"m{n}", r, 7 + n % 13, busy=0.1 + n % 7 / 10),
                rate=(0.8 if fits else 2.9) * r,
            )
            for n, r in enumerate(rates)
        ),
        objective=objective,
        time_limit_seconds=60,
    )


@pytest.mark.parametrize("objective", [o for o in Objective if o is not Objective.MIN_ENERGY])
@pytest.mark.parametrize(("after", "fits"), [(1, False), (9, False), (3, True)])
def test_after_a_stop_next_to_nothing_is_begun(
    objective: Objective, after: int, fits: bool
) -> None:
    stop = Stopped(after)
    try:
        answer = solve(asked(objective, 12, 5, fits=fits), stop=stop)
    finally:
        sys.setprofile(None)
    assert not isinstance(answer, Infeasible)
    assert stop.left <= 0 or answer.certificate.status is Status.OPTIMAL
    # A plan of something is made where there is none yet: a bound, and one packing by its prices.
    # A search ends at its first look, and what it had begun is read.
    search = {"Improver.__init__": 1, "Improver.run": 1, "most_goodput": 1, "complete": 1}
    most = collections.Counter({"linear_prices": 1, "_Program.solve": 1, "solve": 2, **search})
    assert stop.calls <= most, stop.calls


def leftovers(limit: float) -> SolveMonitor:
    """A question with a model that takes what is left over."""
    models = (want("a", point("a", 5, 10, sm=10), rate=4), want("rest", point("rest", 5, 10, sm=5)))
    return SolveMonitor(build_instance(PlanRequest((gpu("g"),), models, time_limit_seconds=limit)))


def plan_of(watch: SolveMonitor) -> Member:
    """A plan without what is left over."""
    prices = usual_prices(build_sites(watch.instance))
    return member("", completed(watch.instance, prices, by_cost=True))


def test_nothing_is_shared_out_from_a_fifth_after_the_time_limit_on() -> None:
    """A search may end late, and each step of sharing takes as long as a good part of it."""
    watch, one = leftovers(3), plan_of(leftovers(3))
    for began, filled in ((watch.began, True), (watch.began - 4, False)):
        watch.began = began
        chosen = nearest_cost(watch, [one], may=lambda _: 0)
        assert (len(chosen.packing.loads[0].items) > 2) is filled

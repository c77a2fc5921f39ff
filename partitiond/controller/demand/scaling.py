"""Measures the demand of models that scale by themselves, and has plans made for it.

`core.demand.planned_rate` decides; this module measures what it needs, and acts on its decisions.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from partitiond.controller.journal import Journal
from partitiond.controller.runtime.loop import Controller
from partitiond.core.checks import MAX_REQ_PER_S
from partitiond.core.demand.planned_rate import (
    Decision,
    MeasuredDemand,
    ScalingPolicy,
    ScalingState,
    begun_at,
    is_short,
    overtaken,
    scale,
    within_freedom,
    work_factor,
)
from partitiond.core.demand.traffic import ModelTraffic, TrafficSample, TrafficWindow
from partitiond.core.errors import ConflictError
from partitiond.core.model.demand import Demand
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Plan, PlanDiff
from partitiond.core.replica.sleep import STOPPED
from partitiond.core.replica.states import ReplicaState
from partitiond.core.replica.step_down import Popularity
from partitiond.core.views.scaling import ScalingView
from partitiond.ports import Clock
from partitiond.store import Store

HALF_LIFE_SECONDS: Final = 900.0
"""Half-life of a request in the estimate of how often its model is asked for. Chosen."""


@dataclasses.dataclass(frozen=True, slots=True)
class ScalingOptions:
    """Settings of autoscaling and eviction.

    Attributes:
        evict_idle_seconds: a model that was asked for less long ago counts as busy.
    """

    policy: ScalingPolicy = dataclasses.field(default_factory=ScalingPolicy)
    evict_idle_seconds: float = 3.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Last:
    """The last step of one model, and what was last decided for it."""

    req_per_s: float
    decision: Decision
    changed_at: str = ""
    reason: str = ""


class Scaling:
    """Reports on models that scale by themselves, and plans for what they need.

    Attributes:
        options: the present settings.
        plan_again: called when the demand that is planned for changed.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        journal: Journal,
        controller: Controller,
        options: ScalingOptions,
        plan_again: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._journal = journal
        self._controller = controller
        self._sleep = controller.sleep
        self.options = options
        self.plan_again = plan_again
        self._states: dict[str, ScalingState] = {}
        self._last: dict[str, _Last] = {}
        self._asked: dict[str, tuple[float, str]] = {}
        self._popularity: dict[str, Popularity] = {}
        self._begun: TrafficSample | None = None
        self._seen: TrafficSample | None = None

    def use(self, options: ScalingOptions) -> None:
        """Decide by these options from now on."""
        self.options = options

    # -- demand ----------------------------------------------------------------------------

    def take_sample(self, sample: TrafficSample) -> None:
        """Take a sample of the proxy's counts; a step may be over with it."""
        self._count(sample)
        if self._begun is None:
            self._begun = sample
            return
        if sample.at - self._begun.at < self.options.policy.forecast.step_seconds:
            return
        window = TrafficWindow.between(self._begun, sample)
        self._begun = sample
        records = self._store.models()
        specs = {r.spec.name: r.spec for r in records if r.spec.autoscale is not None}
        for known in (self._states, self._last, self._asked):
            _drop_all_but(specs, known)
        _drop_all_but({r.spec.name for r in records}, self._popularity)
        changed = [name for name, spec in specs.items() if self._step(spec, window, sample.at)]
        if changed:
            self.plan_again()

    def _count(self, sample: TrafficSample) -> None:
        """Count the requests for each model since the last look."""
        last, self._seen = self._seen, sample
        if last is None:
            return  # a proxy that ran before counted for days: those requests are not recent
        for name, count in sample.models.items():
            before = last.models.get(name) if last.epoch == sample.epoch else None
            arrived = count.arrived - (before.arrived if before is not None else 0)
            if arrived > 0:
                known = self._popularity.get(name, Popularity(0.0, sample.at))
                self._popularity[name] = known.with_requests(arrived, sample.at, HALF_LIFE_SECONDS)

    def _step(self, spec: ModelSpec, window: TrafficWindow, at: float) -> bool:
        """Make one step of one model; return whether a plan has to be made for it."""
        seen = window.models.get(spec.name) or ModelTraffic(window.seconds)
        measured = MeasuredDemand(
            at=at,
            req_per_s=seen.req_per_s,
            queue_seconds=seen.queue_seconds if spec.name in self._served() else None,
            refused=seen.refused,
            work=self._work(spec, seen),
        )
        decision = scale(self._state(spec), measured, self.options.policy)
        self._states[spec.name] = decision.state
        before = self._last.get(spec.name)
        self._last[spec.name] = _Last(
            seen.req_per_s,
            decision,
            self._clock.utc_iso() if decision.changed or before is None else before.changed_at,
            decision.reason if decision.changed or before is None else before.reason,
        )
        return self._tell(spec, decision)

    def _tell(self, spec: ModelSpec, decision: Decision) -> bool:
        """Return whether plans are to be made for a rate other than the last one; note it if so."""
        if not self._placed(spec.name):
            self._asked.pop(spec.name, None)
            return False
        planned, plan = self._planned(spec), self._controller.plan
        applied_id = plan.id if plan is not None else ""
        # The rate that was asked for counts until a plan is applied, maybe one made before.
        asked, beside = self._asked.get(spec.name, (None, ""))
        known = asked if beside == applied_id else self._applied(spec.name)
        if planned == known:
            return False
        self._asked[spec.name] = planned, applied_id
        why = decision.reason or "it is awake, and that was measured before"
        self._journal.note(
            "demand-changed", spec.name, f"planned for {planned:.3g} req/s from now on: {why}."
        )
        return True

    def unanswered(self) -> frozenset[str]:
        """Models for which autoscaling asks for another number of replicas than is applied."""
        plan = self._controller.plan
        applied_id = plan.id if plan is not None else ""
        asked = {name for name, (_, beside) in self._asked.items() if beside == applied_id}
        return frozenset(name for name in asked if self._placed(name))

    def _placed(self, name: str) -> bool:
        plan = self._controller.plan
        placements = plan.placements if plan is not None else ()
        return name not in self._sleep.levels and any(p.model == name for p in placements)

    def _applied(self, name: str) -> float | None:
        """Return the rate that the applied plan was made for."""
        plan = self._controller.plan
        forecasts = plan.forecasts if plan is not None else ()
        return next((f.demand_req_per_s for f in forecasts if f.model == name), None)

    def _served(self) -> Collection[str]:
        """Models whose replicas all serve: the queues of others wait for engines, not for room."""
        plan = self._controller.plan
        placements = plan.placements if plan is not None else ()
        serving = {
            engine.placement.replica_id
            for engine in self._controller.engines
            if engine.state is ReplicaState.SERVING
        }
        return {p.model for p in placements} - {
            p.model for p in placements if p.replica_id not in serving
        }

    def _work(self, spec: ModelSpec, seen: ModelTraffic) -> float:
        plan = self._controller.plan
        own = [p.candidate for p in (plan.wanted if plan else ()) if p.model == spec.name]
        if not own:
            return 1.0
        usual = float(spec.workload.prompt_tokens), float(spec.workload.output_tokens)
        measured = seen.prompt_tokens, seen.output_tokens
        return work_factor(own[0].ttft_p95_seconds, own[0].tpot_p95_seconds, usual, measured)

    def _state(self, spec: ModelSpec) -> ScalingState:
        """Return the known state; after a restart, the one that the applied plan was made for."""
        known = self._states.get(spec.name)
        if known is not None:
            return known
        return begun_at(self._applied(spec.name) or spec.demand.planned_req_per_s)

    def effective(self, spec: ModelSpec) -> ModelSpec:
        """Return the spec with the demand that plans are made for."""
        if spec.autoscale is None:
            return spec
        demand = Demand(req_per_s=self._planned(spec), weight=spec.demand.weight)
        return dataclasses.replace(spec, demand=demand)

    def _planned(self, spec: ModelSpec) -> float:
        """Return the rate that plans are made for.

        A model without a place gets the least rate first, whatever was measured: a plan that is
        being made for the model must not be outdated by the next step.
        """
        planned = spec.demand.planned_req_per_s
        if self._placed(spec.name):
            planned = self._state(spec).planned_req_per_s
        return min(MAX_REQ_PER_S, planned or self.options.policy.floor_req_per_s)

    def may_apply(self, diff: PlanDiff, plan: Plan) -> bool:
        """Whether the plan may be applied by itself although it stops or moves what runs.

        Args:
            diff: of the plan against what has a process.
            plan: to apply.
        """
        specs = self._autoscaled()
        awake = {s.name: self._planned(s) for s in specs if s.name not in self._sleep.levels}
        if overtaken(diff, plan, awake):
            return False
        return within_freedom(
            diff,
            {spec.name for spec in specs},
            {placement.model for placement in plan.wanted},
            short=is_short(self._controller.plan, plan, awake),
        )

    def _autoscaled(self) -> list[ModelSpec]:
        return [r.spec for r in self._store.models() if r.spec.autoscale is not None]

    # -- views -----------------------------------------------------------------------------

    def req_per_s(self, model: str) -> float:
        """Return how often a model was asked for lately."""
        known = self._popularity.get(model)
        if known is None:
            return 0.0
        return known.req_per_s(max(known.at, self._clock.monotonic()), HALF_LIFE_SECONDS)

    def views(self) -> Sequence[ScalingView]:
        """All models that scale by themselves, by name."""
        specs = sorted(self._autoscaled(), key=lambda spec: spec.name)
        return tuple(self._view(spec) for spec in specs)

    def view(self, model: str) -> ScalingView:
        """One model that scales by itself. Raises NotFoundError, ConflictError."""
        spec = self._store.model(model).spec
        if spec.autoscale is None:
            raise ConflictError(
                f"{model} does not scale by itself.",
                hint=f"Let it, with `partitiond models update {model} --autoscale`.",
                facts={"model": model},
            )
        return self._view(spec)

    def _view(self, spec: ModelSpec) -> ScalingView:
        name, plan, last = spec.name, self._controller.plan, self._last.get(spec.name)
        placements = plan.placements if plan is not None else ()
        forecasts = plan.forecasts if plan is not None else ()
        zero = spec.autoscale.scale_to_zero_seconds if spec.autoscale is not None else None
        traffic = self._sleep.traffic.get(name)
        asleep = name in self._sleep.levels
        serving = [e for e in self._controller.engines if e.placement.model == name]
        return ScalingView(
            model=name,
            min_replicas=spec.min_replicas,
            max_replicas=spec.max_replicas,
            scale_to_zero_seconds=zero,
            scaled_to_zero=self._sleep.levels.get(name) == STOPPED,
            replicas_serving=sum(e.state is ReplicaState.SERVING for e in serving),
            replicas_planned=0 if asleep else sum(p.model == name for p in placements),
            measured_req_per_s=None if last is None else last.req_per_s,
            forecast_req_per_s=None if last is None else last.decision.forecast.req_per_s,
            upper_req_per_s=None if last is None else last.decision.forecast.upper_req_per_s,
            planned_req_per_s=self._planned(spec),
            capacity_req_per_s=math.fsum(
                f.capacity_req_per_s for f in forecasts if f.model == name and not asleep
            ),
            idle_seconds=None if traffic is None else traffic.idle_seconds,
            waiting=0 if traffic is None else traffic.waiting,
            changed_at="" if last is None else last.changed_at,
            reason="" if last is None else last.reason,
        )


def _drop_all_but(kept: Collection[str], known: dict[str, Any]) -> None:
    for gone in known.keys() - set(kept):
        del known[gone]

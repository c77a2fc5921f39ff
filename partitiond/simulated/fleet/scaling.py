"""Autoscales a simulated fleet: measures and forecasts demand, and has it planned for.

`core.demand.scaling` decides in each step for which demand to plan, and whether a plan may be
applied by itself; the planner makes the plan. Measuring, planning and applying take no simulated
time; only engine starts do.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Final

from partitiond.core.demand.scaling import (
    MeasuredDemand,
    ScalingPolicy,
    ScalingState,
    begun_at,
    is_short,
    scale,
    within_freedom,
    work_factor,
)
from partitiond.core.model.autoscale import Autoscale
from partitiond.core.plan.record import Placement, Plan, diff_plans
from partitiond.simulated.fleet.events import EventTarget
from partitiond.simulated.fleet.run import FleetRun

Replan = Callable[[Mapping[str, float], tuple[Placement, ...]], Plan | None]
"""Returns a plan for requests/s by model (others keep their demand), given what runs; or None."""
ZERO_LOOK_SECONDS: Final = 1.0
"""Simulated time between two checks for idle models."""


@dataclasses.dataclass(slots=True)
class _Seen:
    """A model's counts at the end of the last step, and when it last had a request."""

    state: ScalingState
    arrived: int = 0
    refused: int = 0
    ended: int = 0
    queue_seconds: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    busy_at: float = 0.0
    counted: int = 0


class Scaler(EventTarget):
    """Measures the demand of models step by step, and requests plans for it.

    Attributes:
        plans: plans that were applied.
    """

    def __init__(
        self, policy: ScalingPolicy, models: Mapping[str, Autoscale], replan: Replan
    ) -> None:
        """
        Args:
            policy: decides when the planned demand changes.
            models: models that are autoscaled.
            replan: called when the planned demand changed.
        """
        self.plans = 0
        self._policy = policy
        self._models = models
        self._replan = replan
        self._run: FleetRun | None = None
        self._seen: dict[str, _Seen] = {}
        self._over = False

    def begin(self, run: FleetRun) -> None:
        """Watch this run from now on."""
        self._run = run
        planned = {f.model: f.demand_req_per_s for f in run.plan.forecasts}
        for name in self._models:
            self._seen[name] = _Seen(begun_at(planned.get(name) or None))
            run.models[name].on_woken = _waker(run, name)
        run.clock.plan(self._policy.forecast.step_seconds, self)
        if any(one.scale_to_zero_seconds is not None for one in self._models.values()):
            run.clock.plan(ZERO_LOOK_SECONDS, _ZeroLook(self))

    def end(self) -> None:
        """Stop scaling: no more requests will arrive."""
        self._over = True

    def due(self, number: int) -> None:
        """Handle the end of a step."""
        del number
        run = self._run
        if run is None or self._over:
            return
        changed = [name for name in self._models if self._step(run, name)]
        if changed:
            self._plan(run)
        run.clock.plan(run.clock.now + self._policy.forecast.step_seconds, self)

    def _step(self, run: FleetRun, name: str) -> bool:
        """Do one step of one model; return whether the model needs a new plan."""
        seen, tally, model = self._seen[name], run.tallies[name], run.models[name]
        ended = tally.ok - seen.ended
        queue_seconds = (tally.queue_seconds - seen.queue_seconds) / ended if ended else None
        measured = MeasuredDemand(
            at=run.clock.now,
            req_per_s=(model.arrived - seen.arrived) / self._policy.forecast.step_seconds,
            queue_seconds=queue_seconds if self._all_serve(run, name) else None,
            refused=tally.refused_in_all - seen.refused,
            work=self._work(run, name, ended),
        )
        decision = scale(seen.state, measured, self._policy)
        self._seen[name] = dataclasses.replace(
            seen,
            state=decision.state,
            arrived=model.arrived,
            refused=tally.refused_in_all,
            ended=tally.ok,
            queue_seconds=tally.queue_seconds,
            prompt_tokens=tally.prompt_tokens,
            output_tokens=tally.output_tokens,
        )
        return decision.changed and name not in run.asleep

    def _all_serve(self, run: FleetRun, name: str) -> bool:
        """Return whether all planned replicas serve; else requests wait for starts, not for
        room.
        """
        planned = sum(p.model == name for p in run.plan.placements)
        return planned > 0 and len(run.models[name].replicas) >= planned

    def _work(self, run: FleetRun, name: str, ended: int) -> float:
        own = next((p.candidate for p in run.plan.placements if p.model == name), None)
        if own is None or not ended:
            return 1.0
        seen, tally, workload = self._seen[name], run.tallies[name], run.specs[name].workload
        return work_factor(
            own.ttft_p95_seconds,
            own.tpot_p95_seconds,
            (float(workload.prompt_tokens), float(workload.output_tokens)),
            (
                (tally.prompt_tokens - seen.prompt_tokens) / ended,
                (tally.output_tokens - seen.output_tokens) / ended,
            ),
        )

    def _plan(self, run: FleetRun) -> None:
        wanted = {
            name: seen.state.planned_req_per_s or self._policy.floor_req_per_s
            for name, seen in self._seen.items()
        }
        running = run.running
        plan = self._replan(wanted, running)
        if plan is None:
            return
        diff = diff_plans(running, plan.placements)
        awake = {name: rate for name, rate in wanted.items() if name not in run.asleep}
        placed = {placement.model for placement in plan.placements}
        free = diff.touches_nothing_running or within_freedom(
            diff, set(self._models), placed, short=is_short(run.plan, plan, awake)
        )
        if free and not diff.is_empty:
            self.plans += 1
            run.apply(plan)

    def look_for_idle(self, again: EventTarget) -> None:
        """Scale models to zero that had no request for long enough; check again in a second."""
        run = self._run
        if run is None or self._over:
            return
        now = run.clock.now
        for name, asked in self._models.items():
            seen, model = self._seen[name], run.models[name]
            if model.arrived != seen.counted or model.in_flight or model.waiting:
                seen.busy_at, seen.counted = now, model.arrived
            limit = asked.scale_to_zero_seconds
            idle = now - seen.busy_at
            if name not in run.asleep and idle >= (math.inf if limit is None else limit):
                run.put_to_zero(name)
        run.clock.plan(now + ZERO_LOOK_SECONDS, again)


class _ZeroLook(EventTarget):
    """Checks for idle models every second."""

    def __init__(self, scaler: Scaler) -> None:
        self._scaler = scaler

    def due(self, number: int) -> None:
        """Check now, and schedule the next check."""
        del number
        self._scaler.look_for_idle(self)


def _waker(run: FleetRun, name: str) -> Callable[[], None]:
    return lambda: run.wake(name)

"""Decides the rate to plan for when a model's demand is measured instead of given. Pure.

Each step takes one decision. The step's demand goes into the model's forecast. The planned rate is
raised at once when the forecast's upper end exceeds it, and lowered only when all upper ends of a
whole window stayed well below it. Between the two lies the hysteresis band, in which nothing
happens: noise moves the forecast, not the plan. The planner decides how many replicas that rate
needs, and where.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Final

from partitiond.core.checks import require
from partitiond.core.demand.forecast import (
    NOTHING_SEEN,
    Forecast,
    ForecastPolicy,
    Series,
    forecast,
    observed,
)
from partitiond.core.dispatch import routing
from partitiond.core.plan.record import Plan, PlanDiff

WORK_FACTOR_BOUNDS: Final = (0.25, 4.0)
"""Requests beyond these bounds differ too much from those that were profiled; a person should then
ask for a plan."""


@dataclasses.dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """Rules for changing the planned rate.

    Attributes:
        forecast: how demand is forecast.
        headroom: share of the upper end that is planned on top of it.
        band: how far below the planned rate all upper ends have to lie before it is lowered, 0..1.
        up_cooldown_seconds: pause after a raise before the next one.
        down_window_seconds: how long they have to lie there; also the pause after any change.
        floor_req_per_s: least rate that is planned for a model that is awake: one replica of it.
        pressure_seconds: mean queueing time of a step from which the replicas are assumed to give
            less than planned; None for never.
        pressure_step: factor by which a step under pressure raises the planned rate.
        pressure_limit: pressure never raises the planned rate above this multiple of the demand.
    """

    forecast: ForecastPolicy = dataclasses.field(default_factory=ForecastPolicy)
    headroom: float = 0.1
    band: float = 0.4
    up_cooldown_seconds: float = 20.0
    down_window_seconds: float = 300.0
    floor_req_per_s: float = 0.01
    pressure_seconds: float | None = 1.0
    pressure_step: float = 1.25
    pressure_limit: float = 3.0

    def __post_init__(self) -> None:
        require(
            0 <= self.headroom <= 10,
            f"headroom must lie between 0 and 10, got {self.headroom!r}.",
            "0.1 plans a tenth on top of the forecast's upper end.",
        )
        require(
            0 <= self.band < 1,
            f"band must be at least 0 and below 1, got {self.band!r}.",
            "0.4 lowers what is planned once the demand stays 40 % below it.",
        )
        for name in ("up_cooldown_seconds", "down_window_seconds"):
            value = getattr(self, name)
            require(
                math.isfinite(value) and value >= 0,
                f"{name} must be at least 0, got {value!r}.",
                "Give it in seconds.",
            )
        require(
            math.isfinite(self.floor_req_per_s) and self.floor_req_per_s > 0,
            f"floor_req_per_s must be greater than 0, got {self.floor_req_per_s!r}.",
            "A small rate keeps one replica, whatever is asked of it.",
        )


@dataclasses.dataclass(frozen=True, slots=True)
class MeasuredDemand:
    """One step of one model's traffic.

    Attributes:
        at: its end, in monotonic seconds.
        req_per_s: requests that arrived, refused ones included.
        queue_seconds: mean time until a replica was found; None without such a request.
        refused: requests refused because the queue was full or too slow.
        work: work of a request relative to the profiled one (`work_factor`).
    """

    at: float
    req_per_s: float
    queue_seconds: float | None = None
    refused: int = 0
    work: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class ScalingState:
    """State of one model between two steps.

    Attributes:
        series: of its demand, in requests of the profiled size.
        planned_req_per_s: the rate given to the planner; None before the first decision.
        raised_at, changed_at: when that rate was last raised, and last changed.
        uppers: (when, upper end) of the window; only those that no later one exceeds.
        since: when the first step was seen.
    """

    series: Series = NOTHING_SEEN
    planned_req_per_s: float | None = None
    raised_at: float = -math.inf
    changed_at: float = -math.inf
    uppers: tuple[tuple[float, float], ...] = ()
    since: float | None = None


NEW: Final = ScalingState()


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """The result of one step.

    Attributes:
        req_per_s: the rate given to the planner from now on.
        changed: whether that rate differs from the one before.
        forecast: of the demand.
        reason: why it changed, in one sentence; empty if it did not.
    """

    state: ScalingState
    req_per_s: float
    changed: bool
    forecast: Forecast
    reason: str = ""


def begun_at(req_per_s: float | None) -> ScalingState:
    """Return the state of a model that is already planned for at this rate."""
    return ScalingState(planned_req_per_s=req_per_s)


def scale(state: ScalingState, step: MeasuredDemand, policy: ScalingPolicy) -> Decision:
    """Take one step of traffic, and decide what to plan for."""
    series = observed(state.series, step.req_per_s * step.work, policy.forecast)
    expected = forecast(series, policy.forecast)
    since = step.at if state.since is None else state.since
    needed = max(
        policy.floor_req_per_s,
        expected.upper_req_per_s,
        _under_pressure(state, step, expected, policy),
    )
    # Raised only once it is exceeded, and then by the headroom more, so that it does not creep up.
    wanted = needed * (1 + policy.headroom)
    # Of a window the first entry is the greatest.
    begin = step.at - policy.down_window_seconds
    greater = (upper for upper in state.uppers if upper[0] >= begin and upper[1] > wanted)
    uppers = (*greater, (step.at, wanted))
    kept = dataclasses.replace(state, series=series, uppers=uppers, since=since)
    planned = state.planned_req_per_s
    if planned is None:
        return _changed(kept, step.at, wanted, expected, "the first step of it was measured")
    if needed > planned and step.at - state.raised_at >= policy.up_cooldown_seconds:
        why = f"up to {needed:.3g} req/s are expected or queue, {planned:.3g} were planned"
        return _changed(kept, step.at, wanted, expected, why)
    most = uppers[0][1]
    quiet_since = max(since, state.changed_at)
    long_enough = step.at - quiet_since >= policy.down_window_seconds
    if long_enough and most < planned * (1 - policy.band):
        why = (
            f"for {policy.down_window_seconds:g} s never more than {most:.3g} req/s were to be "
            f"planned, {planned:.3g} were"
        )
        return _changed(kept, step.at, most, expected, why)
    return Decision(kept, planned, changed=False, forecast=expected)


def _under_pressure(
    state: ScalingState, step: MeasuredDemand, expected: Forecast, policy: ScalingPolicy
) -> float:
    """Return the rate to plan if requests queue although the plan should do: it promises too
    much.
    """
    planned = state.planned_req_per_s
    if planned is None or policy.pressure_seconds is None or step.queue_seconds is None:
        return 0.0
    if step.queue_seconds < policy.pressure_seconds and not step.refused:
        return 0.0
    limit = policy.pressure_limit * expected.upper_req_per_s
    return min(planned * policy.pressure_step, limit)


def _changed(
    state: ScalingState, at: float, req_per_s: float, expected: Forecast, reason: str
) -> Decision:
    before = state.planned_req_per_s
    raised = before is None or req_per_s > before
    return Decision(
        dataclasses.replace(
            state,
            planned_req_per_s=req_per_s,
            raised_at=at if raised else state.raised_at,
            changed_at=at,
        ),
        req_per_s,
        changed=req_per_s != before,
        forecast=expected,
        reason=reason,
    )


def work_factor(
    ttft_seconds: float,
    tpot_seconds: float,
    profiled: tuple[float, float],
    measured: tuple[float | None, float | None],
) -> float:
    """Work of a request relative to the one that was profiled, by its time in an engine.

    TTFT is assumed to grow with the prompt, the rest with the output; bounds limit the result.

    Args:
        ttft_seconds, tpot_seconds: at the operating point, of the profiled request.
        profiled, measured: mean prompt and output tokens; None if nothing was measured.
    """
    prompt, output = profiled
    seen_prompt = prompt if measured[0] is None else measured[0]
    seen_output = output if measured[1] is None else measured[1]
    usual = routing.service_seconds(ttft_seconds, tpot_seconds, output)
    if usual <= 0 or prompt <= 0:
        return 1.0
    first = ttft_seconds * seen_prompt / prompt
    now = routing.service_seconds(first, tpot_seconds, max(1.0, seen_output))
    low, high = WORK_FACTOR_BOUNDS
    return min(high, max(low, now / usual))


def within_freedom(
    diff: PlanDiff, autoscaled: Collection[str], placed: Collection[str], *, short: bool
) -> bool:
    """Return whether a plan may be applied automatically although it stops or moves running
    replicas.

    Only models that scale by themselves may lose replicas, and never the last one: scaling to zero
    is decided elsewhere, by idleness. A move costs a start, so it has to gain something.

    Args:
        diff: against the replicas that have a process.
        autoscaled: models that scale by themselves.
        placed: models of which the plan has a replica.
        short: the applied plan does not serve the rate that is to be planned for, and the plan
            serves more of it.
    """
    stopped = {p.model for p in diff.stop}
    moved = {old.model for old, _ in diff.move}
    if not stopped | moved <= set(autoscaled) or not stopped <= set(placed):
        return False
    return short or not moved


def is_short(applied: Plan | None, coming: Plan, wanted_req_per_s: Mapping[str, float]) -> bool:
    """Return whether the coming plan gives some model more, of which the applied plan gives less
    than is to be planned for. A model that may have no more replicas is no reason to move other
    models for ever.
    """
    now, then = _capacities(applied), _capacities(coming)
    return any(
        now.get(model, 0.0) < min(rate, then.get(model, 0.0))
        for model, rate in wanted_req_per_s.items()
    )


def overtaken(diff: PlanDiff, plan: Plan, wanted_req_per_s: Mapping[str, float]) -> bool:
    """Return whether a plan takes replicas from a model whose demand has grown since the plan was
    made.

    Demand changes while a plan is made. That alone makes no plan useless, or no plan would ever
    be applied while demand grows; but the replicas to be taken may be needed by now.
    """
    touched = {p.model for p in (*diff.stop, *(old for old, _ in diff.move))}
    return any(
        f.model in touched
        and f.demand_req_per_s is not None
        and f.demand_req_per_s < wanted_req_per_s.get(f.model, 0.0)
        for f in plan.forecasts
    )


def _capacities(plan: Plan | None) -> Mapping[str, float]:
    return {} if plan is None else {f.model: f.capacity_req_per_s for f in plan.forecasts}

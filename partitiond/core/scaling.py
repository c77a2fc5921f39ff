"""How much a model is planned for, when demand is measured instead of told. Pure.

One decision a step: the step's demand goes into the model's forecast, and the rate the planner
packs is raised at once when the forecast's upper end passes it, and lowered only when all upper
ends of a whole window stayed well below it. Between the two lies the band in which nothing
happens: noise moves the forecast, not the plan. How many replicas that rate needs, and where they
go, is the planner's decision; `replicas_for` says it where one size of replica is all there is.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Final

from partitiond.core import routing
from partitiond.core.checks import require
from partitiond.core.forecast import (
    NOTHING_SEEN,
    Forecast,
    ForecastPolicy,
    Series,
    forecast,
    observed,
)
from partitiond.core.plan import Plan, PlanDiff

WORK_FACTOR_BOUNDS: Final = (0.25, 4.0)
"""Requests that measure longer or shorter than that were profiled as something else; a plan should
then be asked for by a person."""


@dataclasses.dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """When what is planned for changes.

    Attributes:
        forecast: how demand is foretold.
        headroom: share of the upper end that is planned on top of it.
        band: how far below what is planned all upper ends have to lie before it is lowered, 0..1.
        up_cooldown_seconds: pause after a raise before the next one.
        down_window_seconds: for how long they have to lie there; also the pause after any change.
        floor_req_per_s: least that is planned for a model that is awake: one replica of it.
        pressure_seconds: mean queueing time of a step from which the replicas are taken to give
            less than planned; None never.
        pressure_step: factor by which a step under pressure raises what is planned.
        pressure_limit: what is planned is never raised by pressure above so many times the demand.
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
class Measured:
    """One step of one model's traffic.

    Attributes:
        at: its end, in monotonic seconds.
        req_per_s: requests that arrived, refused ones included.
        queue_seconds: mean time until a replica was found; None without such a request.
        refused: requests refused because the queue was full or too slow.
        work: work of a request against the one that was profiled (`work_factor`).
    """

    at: float
    req_per_s: float
    queue_seconds: float | None = None
    refused: int = 0
    work: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class ScalingState:
    """What is remembered of one model between two steps.

    Attributes:
        series: of its demand, in requests of the profiled size.
        planned_req_per_s: what the planner is told; None before the first decision.
        raised_at, changed_at: when that was last raised, and last changed.
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
    """What follows from one step.

    Attributes:
        req_per_s: what the planner is told from now on.
        changed: whether that is another figure than before.
        forecast: of the demand.
        reason: why it changed, in one sentence; empty where it did not.
    """

    state: ScalingState
    req_per_s: float
    changed: bool
    forecast: Forecast
    reason: str = ""


def begun_at(req_per_s: float | None) -> ScalingState:
    """The state of a model that is planned for so much already."""
    return ScalingState(planned_req_per_s=req_per_s)


def scale(state: ScalingState, step: Measured, policy: ScalingPolicy) -> Decision:
    """One step of traffic in, what to plan for out."""
    series = observed(state.series, step.req_per_s * step.work, policy.forecast)
    expected = forecast(series, policy.forecast)
    since = step.at if state.since is None else state.since
    needed = max(
        policy.floor_req_per_s,
        expected.upper_req_per_s,
        _under_pressure(state, step, expected, policy),
    )
    # Raised only once the plan is passed, and then by the headroom more: no creeping by a hair.
    wanted = needed * (1 + policy.headroom)
    uppers = _window(state.uppers, step.at, wanted, policy.down_window_seconds)
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
    state: ScalingState, step: Measured, expected: Forecast, policy: ScalingPolicy
) -> float:
    """What to plan when requests queue although the plan should do: the plan promises too much."""
    planned = state.planned_req_per_s
    if planned is None or policy.pressure_seconds is None or step.queue_seconds is None:
        return 0.0
    if step.queue_seconds < policy.pressure_seconds and not step.refused:
        return 0.0
    limit = policy.pressure_limit * expected.upper_req_per_s
    return min(planned * policy.pressure_step, limit)


def _window(
    uppers: tuple[tuple[float, float], ...], at: float, upper: float, seconds: float
) -> tuple[tuple[float, float], ...]:
    """The window with one more; the first of it is the greatest."""
    kept = [(when, value) for when, value in uppers if when >= at - seconds and value > upper]
    return (*kept, (at, upper))


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


def replicas_for(
    req_per_s: float,
    capacity_req_per_s: float,
    *,
    min_replicas: int = 0,
    max_replicas: int | None = None,
) -> int:
    """Replicas of one size that serve a rate, within bounds; at least one where it is above 0."""
    if req_per_s <= 0:
        needed = 0
    elif capacity_req_per_s <= 0:
        needed = 1
    else:
        # A hair above a whole number is the rounding of a division, not another replica.
        needed = max(1, math.ceil(req_per_s / capacity_req_per_s - 1e-9))
    most = math.inf if max_replicas is None else max_replicas
    return int(min(max(needed, min_replicas), most))


def work_factor(
    ttft_seconds: float,
    tpot_seconds: float,
    profiled: tuple[float, float],
    measured: tuple[float | None, float | None],
) -> float:
    """How much work a request is against the one that was profiled, by its time in an engine.

    TTFT is taken to grow with the prompt, the rest with the output; kept within bounds.

    Args:
        ttft_seconds, tpot_seconds: at the operating point, of the profiled request.
        profiled, measured: mean prompt and output tokens; None where nothing was measured.
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
    """Whether a plan may be applied without being asked although it stops or moves what runs.

    Only models that scale by themselves may lose replicas, never the last one: what goes to zero
    is decided elsewhere, by who is idle. A move costs a start, so it has to buy something.

    Args:
        diff: against what has a process.
        autoscaled: models that scale by themselves.
        placed: models of which the plan has a replica.
        short: what is applied now does not serve what is to be planned for, and the plan serves
            more of it.
    """
    stopped = {p.model for p in diff.stop}
    moved = {old.model for old, _ in diff.move}
    if not stopped | moved <= set(autoscaled) or not stopped <= set(placed):
        return False
    return short or not moved


def is_short(applied: Plan | None, coming: Plan, wanted_req_per_s: Mapping[str, float]) -> bool:
    """Whether some model gets less from the applied plan than is to be planned for, and more from
    the coming one: one that may have no more replicas is no reason to move others for ever."""
    now, then = _capacities(applied), _capacities(coming)
    return any(
        now.get(model, 0.0) < min(rate, then.get(model, 0.0))
        for model, rate in wanted_req_per_s.items()
    )


def overtaken(diff: PlanDiff, plan: Plan, wanted_req_per_s: Mapping[str, float]) -> bool:
    """Whether a plan takes from a model of which more is wanted by now than the plan was made for.

    Demand moves while a plan is made. That alone makes no plan useless, or none would ever be
    applied while it grows; but what was to be taken from a model may be needed by now.
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

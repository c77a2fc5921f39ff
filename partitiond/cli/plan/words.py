"""Words objectives, values and gaps for every view of a plan."""

from partitiond.core.plan.record import Certificate, Objective, Status
from partitiond.core.replica.convergence import Convergence, PlanState
from partitiond.core.views.preview import PlanPreview

_UNITS = {
    Objective.MIN_DEVICES: "devices",
    Objective.MIN_PRICE: "price per hour",
    Objective.MIN_ENERGY: "W charged",
    Objective.MAX_GOODPUT: "weighted requests/s",
    Objective.MAX_MIN: "smallest share of a demand over its weight",
}


def unit_of(objective: Objective) -> str:
    """The unit of the objective's value."""
    return _UNITS[objective]


def number(value: float) -> str:
    """A number with three digits, or whole and grouped if large."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def waiting_words(waiting: PlanPreview) -> str:
    """What the waiting plan would do, and the command that applies it."""
    diff, name = waiting.diff, waiting.plan.id
    return (
        f"{name} moves {len(diff.move)} and stops {len(diff.stop)} running replicas: "
        f"partitiond apply {name}"
    )


def converging_words(now: Convergence) -> str:
    """How far the applied plan is and what it waits for; empty if the plan runs."""
    if not now.plan_id or now.state is PlanState.CONVERGED:
        return ""
    return f"{now.serving} of {now.wanted - now.asleep} replicas serve: {now.why}"


def milliseconds(seconds: float | None) -> str:
    """Whole milliseconds; a dash if unknown."""
    return "-" if seconds is None else f"{seconds * 1000:.0f}"


def watts(value: float | None) -> str:
    """Watts, or kilowatts from 10,000 W on; a dash if unknown."""
    if value is None:
        return "-"
    return f"{value / 1000:.3g} kW" if value >= 10_000 else f"{value:.0f} W"


def percent(share: float) -> str:
    """A share in percent, with a decimal if it is below 10 %."""
    return f"{share:.0%}" if abs(share) >= 0.1 or share == 0 else f"{share:.1%}"


def proven(proof: Certificate) -> tuple[str, str]:
    """The proven status in words, and its colour."""
    if proof.status is Status.OPTIMAL:
        return proof.optimal_words, "green"
    words = {
        Status.FEASIBLE: ("not proven optimal", "yellow"),
        Status.INFEASIBLE: ("infeasible", "red"),
        Status.OUT_OF_TIME: ("out of time", "red"),
    }
    return words[proof.status]


def two_gaps(proof: Certificate) -> tuple[float, float]:
    """Gaps from the plan to the best plan found, and from the best plan found to the bound.

    Both are shares of the plan's value. The first is what was given away to move less.
    """
    value, bound = proof.own_value, proof.own_bound
    best = value if proof.best_value is None else proof.best_value
    scale = max(abs(value), 1e-9)
    return abs(value - best) / scale, abs(best - bound) / scale


def amount_text(objective: Objective, amount: float) -> str:
    """An amount with the objective's unit, as in "saves 2 devices"."""
    text = number(amount)
    match objective:
        case Objective.MIN_DEVICES:
            return f"{text} device" if text == "1" else f"{text} devices"
        case Objective.MIN_PRICE:
            return f"{text} per hour"
        case Objective.MIN_ENERGY:
            return f"{watts(amount)} charged"
        case Objective.MAX_GOODPUT:
            return f"{text} weighted requests/s"
        case Objective.MAX_MIN:
            return f"{text} of a demand over its weight"

"""Renders advice as tables for people, and as JSON with stable names."""

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from partitiond.advise.advice import Advice
from partitiond.advise.identify import Known
from partitiond.advise.lengths import LengthFigures
from partitiond.advise.traffic import ObservedTraffic
from partitiond.cli.columns import new_table
from partitiond.cli.output import jsonable
from partitiond.cli.plan.view import SHORT_KIND
from partitiond.core.plan.record import ModelForecast
from partitiond.core.profile.record import ProfileKind
from partitiond.core.units import format_duration

DEMANDS = {"low": "low end", "middle": "middle", "high": "high end"}


def render_advice(advice: Advice) -> RenderableType:
    """Return the advice as something that rich can print."""
    return Group(*_parts(advice))


def _parts(advice: Advice) -> Iterator[RenderableType]:
    yield _headline(advice)
    if advice.models or advice.strangers:
        yield _seen_table(advice)
    if advice.models:
        yield _speed_table(advice)
    if advice.levels:
        yield _level_table(advice)
        yield from _lacking(advice)
    if advice.told_apart or advice.staying:
        yield _device_table(advice)
    for stranger in advice.strangers:
        yield Text(f"not planned: {stranger.traffic.model}: {stranger.reason}", style="yellow")
    for note in (*advice.notes, *_assumed(advice)):
        yield Text(f"- {note}", style="dim")


def _headline(advice: Advice) -> Text:
    total = len(advice.today)
    text = Text(verdict(advice), style="bold green" if advice.certain_count else "bold")
    seen = _seen(advice)
    engines = sum(len(traffic.engines) for traffic in seen)
    text.append(
        f"\n{engines} engine(s) of {len(seen)} model(s) on {total} device(s), "
        f"seen for {format_duration(advice.seconds)}",
        style="dim",
    )
    return text


def _seen(advice: Advice) -> list[ObservedTraffic]:
    return [m.traffic for m in advice.models] + [s.traffic for s in advice.strangers]


def verdict(advice: Advice) -> str:
    """Return one sentence that says which devices would be free."""
    total = len(advice.today)
    if not advice.levels:
        return "Nothing could be planned."
    which = f": {', '.join(advice.certain)}" if advice.certain else ""
    perhaps = f" ({', '.join(advice.perhaps)})" if advice.perhaps else ""
    if advice.certain_count:
        more = f"; perhaps {advice.perhaps_count} more{perhaps}" if advice.perhaps_count else ""
        return f"A plan would free {advice.certain_count} of {total} devices{which}{more}."
    if advice.perhaps_count:
        return (
            f"A plan would perhaps free {advice.perhaps_count} of {total} devices{perhaps}: "
            "not at the high end of the demand."
        )
    return f"A plan would free none of {total} devices."


def _seen_table(advice: Advice) -> Table:
    """Lengths: mean/p95 in tokens."""
    table = _table("seen", "engines", "req/s (95 %)", "prompt", "output")
    for traffic in _seen(advice):
        rate = traffic.seen
        table.add_row(
            traffic.model,
            str(len(traffic.engines)),
            f"{_number(rate.middle)} ({_number(rate.low)}-{_number(rate.high)})",
            _lengths(traffic.prompt),
            _lengths(traffic.output),
        )
    return table


def _speed_table(advice: Advice) -> Table:
    table = _table("planned", "replicas", "req/s", "up to", "TTFT p95 ms", "TPOT p95 ms", "profile")
    plan = advice.levels[-1].plan if advice.levels else None
    forecasts = {f.model: f for f in plan.forecasts} if plan is not None else {}
    for model in advice.models:
        table.add_row(model.spec.name, *_speed_row(model, forecasts.get(model.spec.name)))
    return table


def _speed_row(model: Known, forecast: ModelForecast | None) -> Iterator[str]:
    """Yield the cells of one model for the high end of the demand."""
    traffic = model.traffic
    kind = forecast.profile_kind if forecast else None
    yield str(forecast.replicas) if forecast else "-"
    yield _number(traffic.planned.high)
    yield _number(forecast.capacity_req_per_s) if forecast else "-"
    yield _against(forecast.ttft_p95_seconds if forecast else None, traffic.ttft_p95_seconds)
    yield _against(forecast.tpot_p95_seconds if forecast else None, traffic.tpot_p95_seconds)
    yield SHORT_KIND[kind.value] if kind else "-"


def _level_table(advice: Advice) -> Table:
    table = _table("demand", "devices", "free", "no plan needs fewer than", "proof")
    for level in advice.levels:
        proof = level.plan.certificate if level.plan is not None else None
        if proof is not None and not proof.objective.is_cost:
            proof = None  # it bounds goodput: not all is served, as `_lacking` says below
        table.add_row(
            DEMANDS[level.level],
            str(len(level.used)) if level.plan is not None else "-",
            str(level.freed_count),
            _number(proof.bound) if proof is not None else "-",
            f"{proof.status.value}, gap {proof.gap:.1%}" if proof is not None else "-",
        )
    return table


def _lacking(advice: Advice) -> Iterator[Text]:
    for level in advice.levels:
        for reason in level.lacking[:5]:
            yield Text(f"{DEMANDS[level.level]}: {reason}", style="yellow")


def _device_table(advice: Advice) -> Table:
    table = _table("device", "after the plan")
    for device in dict.fromkeys((*advice.today, *advice.staying)):
        if device in advice.staying:
            fate = f"stays as it is: {advice.staying[device]}"
        elif device in advice.certain:
            fate = "free"
        elif device in advice.perhaps:
            fate = "perhaps free"
        else:
            fate = "in use"
        table.add_row(device, fate)
    return table


def _assumed(advice: Advice) -> Iterator[str]:
    """Yield the assumptions behind the figures."""
    if not advice.told_apart and advice.levels:
        yield (
            "Which engine is on which device is not known, so each counts as one device and only "
            "the number can be told; name them with --address URL=GPU."
        )
    for model, ratio in _slower(advice):
        yield (
            f"{model}: its replicas' TPOT p95 at full batch is {ratio:.1f} times today's; "
            "if that matters, give the model an slo in a fleet file."
        )
    for name in _alone(advice):
        yield (
            f"{name}: one replica takes the place of several engines, so its loss is an outage; "
            'survive = "device" in a fleet file keeps a second one elsewhere.'
        )
    plans = (level.plan for level in advice.levels if level.plan)
    kinds = {p.candidate.profile_kind for plan in plans for p in plan.placements}
    if ProfileKind.ESTIMATED in kinds:
        yield (
            "Some figures are estimates, planned with 30 % less rate and 10 % more memory; "
            "measure with partitiond profile, or give --profiles, before you rely on them."
        )
    if advice.levels:
        yield "Intervals are of what was seen; the plans are not applied, nothing was changed."


SLOWER = 1.25
"""Ratio of the planned TPOT to today's beyond which a note says so."""


def _slower(advice: Advice) -> Iterator[tuple[str, float]]:
    """Yield models without an SLO that the plan makes slower than today, and by which ratio."""
    plan = advice.levels[-1].plan if advice.levels else None
    forecasts = {f.model: f.tpot_p95_seconds for f in plan.forecasts} if plan is not None else {}
    for model in advice.models:
        planned, today = forecasts.get(model.spec.name), model.traffic.tpot_p95_seconds
        if model.spec.slo is None and planned and today and planned > SLOWER * today:
            yield model.spec.name, planned / today


def _alone(advice: Advice) -> Iterator[str]:
    """Yield models that several engines serve today and one replica would serve in the plan."""
    plan = advice.levels[-1].plan if advice.levels else None
    replicas = {f.model: f.replicas for f in plan.forecasts} if plan is not None else {}
    for model in advice.models:
        if replicas.get(model.spec.name) == 1 < len(model.traffic.engines):
            yield model.spec.name


# --- words ------------------------------------------------------------------------------------


def _table(first: str, *others: str) -> Table:
    table = new_table()
    table.add_column(first, overflow="fold", min_width=12)
    for name in others:
        table.add_column(name, justify="left" if name == "after the plan" else "right")
    return table


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _against(planned: float | None, today: float | None) -> str:
    """The planned milliseconds, and today's."""
    words = ["-" if value is None else f"{value * 1000:,.0f}" for value in (planned, today)]
    return f"{words[0]} (now {words[1]})"


def _lengths(figures: LengthFigures | None) -> str:
    return "-" if figures is None else f"{figures.mean:.0f}/{figures.p95:.0f}"


# --- JSON -------------------------------------------------------------------------------------


def to_plain(advice: Advice) -> dict[str, Any]:
    """Return the advice as JSON with stable names; plans are in full."""
    return {
        "verdict": verdict(advice),
        "seconds": advice.seconds,
        "devices_today": list(advice.today),
        "free": {"certain": advice.certain_count, "perhaps": advice.perhaps_count},
        "free_devices": {"certain": list(advice.certain), "perhaps": list(advice.perhaps)},
        "staying": dict(advice.staying),
        "engine_devices_known": advice.told_apart,
        "models": [_plain_model(model.traffic, model) for model in advice.models],
        "not_planned": [
            {**_plain_model(s.traffic, None), "reason": s.reason} for s in advice.strangers
        ],
        "plans": [
            {
                "demand": level.level,
                "devices": list(level.used),
                "freed": level.freed_count,
                "freed_devices": list(level.freed),
                "lacking": list(level.lacking),
                "plan": level.plan,
            }
            for level in advice.levels
        ],
        "notes": [*advice.notes, *_assumed(advice)],
    }


def _plain_model(traffic: ObservedTraffic, known: Known | None) -> dict[str, Any]:
    return {
        "model": traffic.model,
        "planned_as": known.spec.name if known else None,
        "workload": known.spec.workload.key if known else None,
        "max_model_len": known.spec.max_model_len if known else None,
        "addresses": [engine.key.address for engine in traffic.engines],
        "req_per_s": jsonable(traffic.seen),
        "planned_req_per_s": jsonable(traffic.planned),
        "prompt_tokens": _plain_lengths(traffic.prompt),
        "output_tokens": _plain_lengths(traffic.output),
        "ttft_p95_seconds": traffic.ttft_p95_seconds,
        "tpot_p95_seconds": traffic.tpot_p95_seconds,
        "refused": sum(engine.refused for engine in traffic.engines),
        "restarts": sum(engine.restarts for engine in traffic.engines),
    }


def _plain_lengths(figures: LengthFigures | None) -> dict[str, float | None] | None:
    names = ("mean", "variation", "p95", "longest")
    return None if figures is None else {name: getattr(figures, name) for name in names}

"""Renders advice as tables for people, and as JSON with stable names."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from partitiond.advise.advice import Advice
from partitiond.advise.identify import Known
from partitiond.advise.lengths import LengthFigures
from partitiond.advise.traffic import ObservedRate, ObservedTraffic
from partitiond.cli.columns import Column, fields, table_of
from partitiond.cli.plan.words import number
from partitiond.core.plan.record import ModelForecast, Plan
from partitiond.core.units import format_duration


def render_advice(advice: Advice) -> RenderableType:
    """Return the advice as something that rich can print."""
    return Group(*_parts(advice))


def _parts(advice: Advice) -> Iterator[RenderableType]:
    seen = advice.today.seen
    yield Text(verdict(advice), style="bold green" if advice.freed else "bold")
    yield Text(
        f"{sum(len(traffic.engines) for traffic in seen)} engine(s) of {len(seen)} model(s), "
        f"seen for {format_duration(advice.today.seconds)}",
        style="dim",
    )
    if seen:
        yield _seen_table(seen)
    if advice.plan is not None:
        yield _planned_table(advice, advice.plan)
    for reason in advice.lacking[:5]:
        yield Text(reason, style="yellow")
    yield _device_table(advice)
    for stranger in advice.today.strangers:
        yield Text(f"not planned: {stranger.traffic.model}: {stranger.reason}", style="yellow")
    for note in (*advice.notes, *_assumed(advice)):
        yield Text(f"- {note}", style="dim")


def verdict(advice: Advice) -> str:
    """Return one sentence that says which devices would be free."""
    total = len(advice.today.used)
    if advice.plan is None and not advice.lacking:
        return "Nothing could be planned."
    if not advice.freed:
        return f"A plan would free none of {total} devices."
    return f"A plan would free {len(advice.freed)} of {total} devices: {', '.join(advice.freed)}."


def _seen_table(seen: Sequence[ObservedTraffic]) -> Table:
    """Lengths: mean/p95 in tokens."""
    return table_of(
        seen,
        Column("seen", lambda t: t.model),
        Column(">engines", lambda t: str(len(t.engines))),
        Column(">req/s (95 %)", lambda t: _rate(t.rate)),
        Column(">prompt", lambda t: _lengths(t.prompt)),
        Column(">output", lambda t: _lengths(t.output)),
    )


def _rate(rate: ObservedRate) -> str:
    return f"{number(rate.middle)} ({number(rate.low)}-{number(rate.high)})"


def _planned_table(advice: Advice, plan: Plan) -> Table:
    """The plan beside today, by model."""
    forecasts = {f.model: f for f in plan.forecasts}
    rows: list[tuple[ModelForecast, ObservedTraffic]] = [
        (forecasts[model.spec.name], model.traffic) for model in advice.today.known
    ]
    return table_of(
        rows,
        Column("planned", lambda row: row[0].model),
        Column(">replicas", lambda row: str(row[0].replicas)),
        Column(">req/s", lambda row: number(row[1].rate.high)),
        Column(">up to", lambda row: number(row[0].capacity_req_per_s)),
        Column(
            ">TTFT p95 ms",
            lambda row: _against(row[0].ttft_p95_seconds, row[1].ttft_p95_seconds),
        ),
        Column(
            ">TPOT p95 ms",
            lambda row: _against(row[0].tpot_p95_seconds, row[1].tpot_p95_seconds),
        ),
    )


def _device_table(advice: Advice) -> Table:
    def after(device: str) -> str:
        if device in advice.staying:
            return f"stays as it is: {advice.staying[device]}"
        return "free" if device in advice.freed else "in use"

    devices = ((device, after(device)) for device in advice.today.used)
    return fields(devices, ("device", "after the plan"))


def _assumed(advice: Advice) -> Iterator[str]:
    """Yield the assumptions behind the figures."""
    plan = advice.plan
    if plan is None:
        return
    proof = plan.certificate
    if proof.objective.is_cost:
        yield (
            f"No plan needs fewer than {number(proof.bound)} devices ({proof.status.value}, "
            f"gap {proof.gap:.1%})."
        )
    forecasts = {f.model: f for f in plan.forecasts}
    for model in advice.today.known:
        name, forecast, now = model.spec.name, forecasts[model.spec.name], model.traffic
        planned, today = forecast.tpot_p95_seconds, now.tpot_p95_seconds
        if model.spec.slo is None and planned and today and planned > SLOWER * today:
            yield (
                f"{name}: its replicas' TPOT p95 at full batch is {planned / today:.1f} times "
                "today's; if that matters, give the model an slo in a fleet file."
            )
        if forecast.replicas == 1 < len(now.engines):
            yield (
                f"{name}: one replica takes the place of several engines, so its loss is an "
                'outage; survive = "device" in a fleet file keeps a second one elsewhere.'
            )
    yield (
        "Speed and memory are estimates, planned with 30 % less rate and 10 % more memory; "
        "measure with partitiond profile before you rely on them."
    )
    yield "The plan is for the high end of what was seen; it is not applied, nothing was changed."


SLOWER = 1.25
"""Ratio of the planned TPOT to today's beyond which a note says so. Chosen."""


# --- words ------------------------------------------------------------------------------------


def _against(planned: float | None, today: float | None) -> str:
    """The planned milliseconds, and today's."""
    words = ["-" if value is None else f"{value * 1000:,.0f}" for value in (planned, today)]
    return f"{words[0]} (now {words[1]})"


def _lengths(figures: LengthFigures | None) -> str:
    return "-" if figures is None else f"{figures.mean:.0f}/{figures.p95:.0f}"


# --- JSON -------------------------------------------------------------------------------------


def to_plain(advice: Advice) -> dict[str, Any]:
    """Return the advice as JSON with stable names; the plan is in full."""
    today = advice.today
    return {
        "verdict": verdict(advice),
        "seconds": today.seconds,
        "devices_today": list(today.used),
        "freed": list(advice.freed),
        "staying": dict(advice.staying),
        "models": [_plain_model(model.traffic, model) for model in today.known],
        "not_planned": [
            {**_plain_model(s.traffic, None), "reason": s.reason} for s in today.strangers
        ],
        "lacking": list(advice.lacking),
        "plan": advice.plan,
        "notes": [*advice.notes, *_assumed(advice)],
    }


def _plain_model(traffic: ObservedTraffic, known: Known | None) -> dict[str, Any]:
    return {
        **dataclasses.asdict(traffic),
        "engines": [engine.address for engine in traffic.engines],
        "planned_as": known.spec.name if known else None,
        "workload": known.spec.workload.key if known else None,
        "max_model_len": known.spec.max_model_len if known else None,
    }

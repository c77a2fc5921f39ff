"""Draws a plan of hundreds of models on a page; `--all` and `--json` have the rest."""

import collections
from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from partitiond.cli.columns import Column, table_of
from partitiond.cli.plan.devices import empty_line
from partitiond.cli.plan.words import milliseconds, number
from partitiond.core.hardware.kinds import SharingMode, short_device
from partitiond.core.plan.page import (
    Fill,
    alike,
    fills_of,
    fullest_and_emptiest,
    kinds_of,
    worst_served,
)
from partitiond.core.plan.record import MAY_LACK, ModelForecast, Plan

MODELS: Final = 6
DEVICES: Final = 3
"""The number of fullest devices shown, and as many of the emptiest."""
GROUPS: Final = 2
MISSING: Final = 2
SENTENCES: Final = 3
LINE: Final = 200
"""Most characters of a sentence, because some sentences list every model."""


def page_of(plan: Plan) -> Iterator[RenderableType]:
    """The worst served models, devices by kind, the fullest and emptiest, and the reasons."""
    yield from _models(plan.forecasts)
    yield from _devices(plan)
    yield from _unplaced(plan)
    yield from _why(plan)


def _models(forecasts: Sequence[ModelForecast]) -> Iterator[RenderableType]:
    shown = worst_served(forecasts, MODELS)
    if not shown:
        return
    yield Text(f"The worst served of {len(forecasts)} models", style="bold")
    table = table_of(
        shown,
        Column("model", lambda f: f.model, right=False, whole=True),
        Column("replicas", lambda f: str(f.replicas), whole=True),
        Column("req/s", lambda f: number(f.capacity_req_per_s), whole=True),
        Column("wanted", _wanted, whole=True),
        Column("spare", _spare, whole=True),
        Column("TTFT ms", lambda f: milliseconds(f.ttft_p95_seconds), whole=True),
        Column("TPOT ms", lambda f: milliseconds(f.tpot_p95_seconds), whole=True),
        close=True,
    )
    table.show_edge = False
    yield table
    left = len(forecasts) - len(shown)
    if left:
        without = sum(f.replicas == 0 for f in forecasts) - sum(f.replicas == 0 for f in shown)
        none = f", {without} of them without a replica" if without else ""
        yield Text(f"... and {left} more models{none} (plan --all)\n", style="dim")


def _wanted(f: ModelForecast) -> str:
    return "max" if f.demand_req_per_s is None else number(f.demand_req_per_s)


def _spare(f: ModelForecast) -> Text:
    short = f.replicas == 0 or (f.headroom is not None and f.headroom < -MAY_LACK)
    spare = "-" if f.headroom is None else f"{f.headroom:+.0%}"
    return Text(spare, style="red" if short else "")


def _devices(plan: Plan) -> Iterator[RenderableType]:
    fills = fills_of(plan)
    if not fills:
        return
    yield Text(f"{len(fills)} devices in use", style="bold")
    table = table_of(
        kinds_of(fills),
        Column("kind", lambda kind: kind.hardware, right=False, whole=True),
        Column("shared", lambda kind: kind.mode.value, right=False, whole=True),
        Column("devices", lambda kind: str(kind.devices), whole=True),
        Column("replicas", lambda kind: str(kind.replicas), whole=True),
        Column("memory: least", lambda kind: f"{kind.least:.0%}", whole=True),
        Column("median", lambda kind: f"{kind.median:.0%}", whole=True),
        Column("most", lambda kind: f"{kind.most:.0%}", whole=True),
        close=True,
    )
    table.show_edge = False
    yield table
    full, empty = fullest_and_emptiest(fills, DEVICES)
    for word, found in (("fullest", full), ("emptiest", empty)):
        if found:
            yield _line(f"{word}: " + "; ".join(_fill(one) for one in found))
    for group in alike(fills)[:GROUPS]:
        first = short_device(group[0].device_id)
        yield _line(f"alike: {first} and {len(group) - 1} more with {_content(group[0])}")
    yield Text(f"... all of them are drawn with plan --all\n{empty_line(plan)}", style="dim")


def _fill(fill: Fill) -> str:
    of = "SMs" if fill.mode is SharingMode.MPS else "cores"
    compute = "" if fill.compute_share is None else f", {of} {fill.compute_share:.0%}"
    return f"{short_device(fill.device_id)} memory {fill.memory_share:.0%}{compute}"


def _content(fill: Fill) -> str:
    counts = collections.Counter((model, size) for model, size, _ in fill.content)
    return ", ".join(f"{n}x {model} {size}" for (model, size), n in counts.items())


def _unplaced(plan: Plan) -> Iterator[RenderableType]:
    worst = sorted(plan.unplaced, key=lambda u: -(u.missing_req_per_s or 0.0))
    for missing in worst[:MISSING]:
        yield Text("not served in full: ", style="bold red").append(_short(missing.reason), "")
    left = len(worst) - MISSING
    if left > 0:
        yield Text(f"... and {left} more models that lack something (plan --all)", style="red")
    if worst:
        yield Text()


def _why(plan: Plan) -> Iterator[RenderableType]:
    """Sentences about the plan as a whole; sentences about single models are only counted."""
    told = {u.reason for u in plan.unplaced}
    names = {f.model for f in plan.forecasts}
    lines = [line for line in plan.explanation if line not in told]
    whole = [line for line in lines if line.partition(":")[0] not in names]
    shown = whole[:SENTENCES]
    if not lines:
        return
    yield Text("Why", style="bold")
    for line in shown:
        yield _line(f"- {_short(line)}")
    left = len(lines) - len(shown)
    if left:
        yield Text(f"  ... and {left} more sentences (plan --all)", style="dim")
    yield Text()


def _short(line: str) -> str:
    return line if len(line) <= LINE else f"{line[: LINE - 1].rstrip(' ,')}…"


def _line(text: str) -> Text:
    return Text(f"  {text}")

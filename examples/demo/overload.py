"""Runs the demo's overload: more than the capacity, to partitiond and to the same engines bare.

Bare means that requests go straight to the engines' sockets, in turns, and no proxy refuses any.
Each engine runs at most the same batch at once; all further requests wait inside it.
"""

import asyncio
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

from rich.console import RenderableType

from loadgen import LatencySummary, OpenLoopResult, OpenState, Outcome, Workload, open_loop, poisson
from loadgen import Slo as LoadSlo
from loadgen.results.records import Record
from loadgen.results.statistics import is_good, summarise
from partitiond.cli.columns import Column, table_of
from partitiond.cli.tables import duration, rate
from partitiond.core.model.spec import Slo
from partitiond.core.model.workload import Workload as Shape

REQUEST_TIMEOUT_SECONDS = 120.0


@dataclasses.dataclass(frozen=True, slots=True)
class ModelLoad:
    """One model's share of the overload.

    Attributes:
        req_per_s: the rate at which requests are sent.
        engines: sockets of the model's engines, for the bare run.
    """

    model: str
    req_per_s: float
    shape: Shape
    slo: Slo
    engines: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Side:
    """The results of all lanes together.

    Attributes:
        good: requests within their model's SLO; `sent` counts all requests.
        seconds: length of the run.
    """

    label: str
    sent: int
    good: int
    refused: int
    failed: int
    seconds: float
    ttft: LatencySummary | None

    @property
    def goodput_req_per_s(self) -> float:
        """Requests per second within the SLO."""
        return self.good / self.seconds


async def run_side(
    label: str,
    lanes: Sequence[ModelLoad],
    *,
    proxy: str | None,
    seconds: float,
    seed: int,
    progress: Callable[[str, float], None],
) -> Side:
    """Send every lane's rate for `seconds`, through the proxy or, without one, to the engines.

    Both sides of a comparison get the same arrivals and prompts, because these follow from `seed`.
    """
    runs = [(lane, target, due) for lane in lanes for target, due in _routes(lane, proxy, seed)]
    states: dict[int, OpenState] = {}

    def note(index: int, state: OpenState) -> None:
        states[index] = state
        sent = sum(s.sent for s in states.values())
        refused = sum(s.refused for s in states.values())
        text = f"{label}: {sent} sent, {refused} refused"
        progress(text, min(1.0, state.elapsed_seconds / seconds))

    results = await asyncio.gather(
        *(
            open_loop(
                target,
                _workload(lane, seed + index),
                arrivals=due,
                seconds=seconds,
                timeout_seconds=REQUEST_TIMEOUT_SECONDS,
                progress=lambda state, index=index: note(index, state),  # type: ignore[misc]
            )
            for index, (lane, target, due) in enumerate(runs)
        )
    )
    return summarise_side(label, list(zip((r[0] for r in runs), results, strict=True)), seconds)


def _routes(lane: ModelLoad, proxy: str | None, seed: int) -> Iterator[tuple[str, Iterator[float]]]:
    """Yield targets with their arrivals: all to the proxy, or in turns to the lane's engines."""
    if proxy is not None:
        yield proxy, poisson(lane.req_per_s, seed)
        return
    for turn, socket in enumerate(lane.engines):
        due = itertools.islice(poisson(lane.req_per_s, seed), turn, None, len(lane.engines))
        yield f"unix:{socket}", due


def _workload(lane: ModelLoad, seed: int) -> Workload:
    return Workload(lane.model, lane.shape.prompt_tokens, lane.shape.output_tokens, seed=seed)


def summarise_side(
    label: str, results: Sequence[tuple[ModelLoad, OpenLoopResult]], seconds: float
) -> Side:
    """Add up all lanes, each request judged by its own model's SLO."""
    pairs: list[tuple[ModelLoad, Record]] = [
        (lane, record) for lane, result in results for record in result.arrivals
    ]
    outcomes = [record.outcome for _, record in pairs]
    return Side(
        label=label,
        sent=len(pairs),
        good=sum(is_good(record, _bounds(lane.slo)) for lane, record in pairs),
        refused=outcomes.count(Outcome.REFUSED),
        failed=outcomes.count(Outcome.ERROR) + outcomes.count(Outcome.TIMEOUT),
        seconds=seconds,
        ttft=summarise(r.ttft for _, r in pairs if r.outcome is Outcome.OK and r.ttft is not None),
    )


def _bounds(slo: Slo) -> LoadSlo:
    return LoadSlo(slo.ttft_seconds, slo.tpot_seconds, slo.quantile)


def comparison(sides: Sequence[Side]) -> RenderableType:
    """Return a table with a column for each side."""
    rows: tuple[tuple[str, Callable[[Side], str]], ...] = (
        ("requests sent", lambda s: str(s.sent)),
        ("goodput, requests/s within the SLO", lambda s: rate(s.goodput_req_per_s)),
        ("share within the SLO", lambda s: f"{s.good / max(1, s.sent):.0%}"),
        ("TTFT p50 of answered requests", lambda s: duration(s.ttft.p50 if s.ttft else None)),
        ("TTFT p95 of answered requests", lambda s: duration(s.ttft.p95 if s.ttft else None)),
        ("refused at once (429)", lambda s: str(s.refused)),
        ("failed or timed out", lambda s: str(s.failed)),
    )

    def of(side: Side) -> Column[tuple[str, Callable[[Side], str]]]:
        return Column(f">{side.label}", lambda row: row[1](side))

    return table_of(rows, Column("", lambda row: row[0]), *map(of, sides))

"""Loads all real engines of a plan at once: at their operating batch, or at the demand."""

import asyncio
import math
from collections.abc import Mapping, Sequence

from bench.common_window import Together, throughput_between
from bench.serving.promises import Outcome, Promise
from loadgen import (
    OpenLoopResult,
    Samples,
    closed_loop,
    open_loop,
    poisson,
    saturation,
)
from loadgen import Outcome as Ended
from loadgen import Slo as Bounds
from loadgen import Workload as Sent
from loadgen.http.connection import now
from loadgen.results.statistics import is_good, percentile
from partitiond.core.model.spec import ModelSpec, Slo
from partitiond.core.plan.record import Plan
from partitiond.simulated.fleet.arrivals import lengths_of

REQUEST_SECONDS = 300.0
WINDOW_REQUESTS = 3.0
"""Shortest window, in mean end-to-end latencies of the slowest engine."""


class Gate:
    """The common window: it opens for all engines once each of them has answered every slot."""

    def __init__(self, engines: int, seconds: float) -> None:
        self._missing = engines
        self._seconds = seconds
        self._slowest = 0.0
        self._opened = math.inf

    def one_is_steady(self) -> None:
        """Note that an engine's window has opened."""
        self._missing -= 1
        if self._missing == 0:
            self._opened = now()

    def is_over(self, mean_e2el: float | None, half_width_share: float) -> bool:
        """Whether the common window was long enough."""
        del half_width_share
        self._slowest = max(self._slowest, mean_e2el or 0.0)
        return now() - self._opened >= max(self._seconds, WINDOW_REQUESTS * self._slowest)


def load_of(spec: ModelSpec, seed: int) -> Sent:
    """A load with the lengths that the plan was made for."""
    return Sent(spec.name, lengths=lengths_of(spec.workload), seed=seed)


async def full(
    plan: Plan,
    specs: Mapping[str, ModelSpec],
    sockets: Mapping[str, str],
    *,
    seconds: float,
    seed: int,
) -> dict[str, Outcome]:
    """Load every engine with its operating batch, at its socket, in one common window.

    Args:
        plan: the plan that is applied.
        specs: the plan's models by name.
        sockets: sockets of the plan's replicas, by id.
        seconds: least length of the window.
        seed: seed of the prompts.
    """
    gate = Gate(len(plan.placements), seconds)
    results = await asyncio.gather(
        *(
            closed_loop(
                f"unix:{sockets[p.replica_id]}",
                load_of(specs[p.model], seed + number),
                concurrency=p.candidate.batch,
                window=Together(min_seconds=seconds, gate=gate),
                timeout_seconds=REQUEST_SECONDS,
                on_opened=gate.one_is_steady,
            )
            for number, p in enumerate(plan.placements)
        )
    )
    # The window is common to all engines.
    opened, closed = max(r.opened for r in results), min(r.closed for r in results)
    rates = [throughput_between(r, opened, closed).output_tokens_per_s for r in results]
    samples = [Samples.of_window(r.records, opened, closed) for r in results]
    for warning in next((s for r in results if (s := saturation(r.instrument))), ()):
        print(f"the instrument was saturated: {warning}")
    found: dict[str, Outcome] = {}
    for name in dict.fromkeys(p.model for p in plan.placements):
        mine = [n for n, p in enumerate(plan.placements) if p.model == name]
        ended = sum(results[n].ended(Ended.OK) for n in mine)
        found[name] = _outcome(
            math.fsum(rates[n] for n in mine),
            [samples[n] for n in mine],
            arrivals=ended, good=ended,
        )  # fmt: skip
    return found


async def demand(
    proxy_url: str,
    told: Sequence[Promise],
    specs: Mapping[str, ModelSpec],
    *,
    seconds: float,
    seed: int,
) -> dict[str, Outcome]:
    """Send Poisson arrivals for all models through the proxy, at the rates that the plan serves."""
    # Until the first requests have ended, an engine holds fewer requests than later.
    warm_up = 2 * max(p.ttft_p95_seconds + 32 * p.tpot_p95_seconds for p in told)
    results = await asyncio.gather(
        *(
            open_loop(
                proxy_url,
                load_of(specs[promise.model], seed + number),
                arrivals=poisson(promise.served_req_per_s, seed + number),
                seconds=seconds,
                warmup_seconds=warm_up,
                timeout_seconds=REQUEST_SECONDS,
                keep_sending=True,
            )
            for number, promise in enumerate(told)
        )
    )
    return {
        promise.model: _outcome(
            result.throughput.output_tokens_per_s,
            [result.samples],
            arrivals=len(result.arrivals),
            good=_good(result, specs[promise.model].slo),
        )
        for promise, result in zip(told, results, strict=True)
    }


def _good(result: OpenLoopResult, slo: Slo | None) -> int:
    """Requests that ended within the SLO; without one, requests that ended."""
    ended = [r for r in result.arrivals if r.outcome is Ended.OK]
    if slo is None:
        return len(ended)
    bounds = Bounds(slo.ttft_seconds, slo.tpot_seconds, slo.quantile)
    return sum(is_good(r, bounds) for r in ended)


def _outcome(
    output_tokens_per_s: float,
    samples: Sequence[Samples],
    *,
    arrivals: int,
    good: int,
) -> Outcome:
    """One model's figures, with the percentiles of all its engines' samples."""
    ttft = sorted(value for one in samples for value in one.ttft)
    tpot = sorted(value for one in samples for value in one.tpot)
    return Outcome(
        arrivals=arrivals,
        good=good,
        output_tokens_per_s=output_tokens_per_s,
        ttft_p95_seconds=_percentile(ttft, 0.95),
        tpot_p95_seconds=_percentile(tpot, 0.95),
    )


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    return percentile(ordered, share) if ordered else None

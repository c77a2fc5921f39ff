"""Fits step times and host costs to the times of requests on a real host.

All of this is regression on times that clients see, run by run and engine by engine:

- step times: the seconds between the tokens of consecutive steps (`bench.simulator.seen`) are
  fitted to what each step did, by least squares of the relative error with non-negative
  coefficients; disturbed steps are left out, and the sum of all steps' seconds is preserved;
- kappa, by which engines at work slow each other down, is the factor with the least error;
- the cost of requests and tokens at client and proxy comes from their CPU counters;
- the way is the time of a request to its engine and back. For an idle engine it is the time to the
  first token minus the step. For a working engine, the step that read the prompt gives an interval:
  the request came in time for that step and too late for the one before. The way is the value on
  which most intervals agree.

Terms that the data cannot separate, such as prompt tokens and prompts if all prompts are alike, are
attributed as `core.numbers.least_squares` does; the outcome of a simulation is the same.
"""

import bisect
import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Final

from bench.simulator.seen import Observed, SeenStep, Spans, crowded_times, steps_seen
from bench.simulator.step_regression import LEAST_STEPS, StepRow, fit_rows
from partitiond.core.errors import InputError
from partitiond.core.numbers.least_squares import non_negative
from partitiond.core.profile.confirmed import StepTime
from partitiond.simulated.fleet.fitted import FittedHost
from partitiond.simulated.fleet.host_costs import HostCosts
from partitiond.simulated.steps import FittedSteps, Steps

LEAST_WAYS: Final = 10
"""Fewest requests from which a way is estimated. Chosen, not measured."""


@dataclasses.dataclass(frozen=True, slots=True)
class EngineTrace:
    """Requests that one engine answered in one run.

    Attributes:
        cores: cores of the host that the engine has.
        slots: requests that the proxy admits to the engine at once.
        requests: all requests that the engine answered.
    """

    model: str
    cores: int
    slots: int
    requests: tuple[Observed, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class HostTrace:
    """One run on one host.

    Attributes:
        engines: all engines of the host.
        host_cores: cores that engines may use.
        seconds: length of the time in which `cpu_seconds` were used.
        cpu_seconds: CPU time of client and proxy.
    """

    engines: tuple[EngineTrace, ...]
    host_cores: int
    seconds: float
    cpu_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class _Engine:
    """An engine in a run, with its reconstructed steps and the busy times around it."""

    trace: EngineTrace
    seen: tuple[SeenStep, ...]
    busy: Spans
    others: tuple[Spans, ...]
    crowded: Spans


def fit(traces: Sequence[HostTrace]) -> FittedHost:
    """Return the parameters with which the simulation reproduces these runs.

    Args:
        traces: runs of one host, at several loads.

    Raises:
        InputError: there are no runs, or a model has too few steps in them.
    """
    if not traces:
        raise InputError(
            "There are no runs to fit to.", hint="Run at some loads that test nothing."
        )
    idle_share, token_cpu, request_cpu = fit_cpu(traces)
    engines = [engine for trace in traces for engine in _engines(trace)]
    rows: dict[str, list[StepRow]] = {}
    for engine in engines:
        mine = rows.setdefault(engine.trace.model, [])
        # Tokens that arrived together tell no time between their steps.
        mine += [
            _row(engine, step, token_cpu, request_cpu)
            for step in engine.seen
            if step.began is not None and step.seconds > 0
        ]
    for model, mine in rows.items():
        if len(mine) < LEAST_STEPS:
            raise InputError(
                f"{model} has {len(mine)} steps in these runs; a fit needs {LEAST_STEPS}.",
                hint="Run for longer, or with more load.",
            )
    kappa, found = fit_rows(rows)
    steps = {
        model: StepTime(base, token, sequence, kv, 0.0, len(rows[model]), 1)
        for model, (base, token, sequence, kv, _) in found.items()
    }
    costs = {}
    for model, coefficients in found.items():
        mine_of = [engine for engine in engines if engine.trace.model == model]
        told = HostCosts(0.0, 0.0, coefficients[-1], request_cpu, token_cpu)
        way, longer = _way(mine_of, FittedSteps(steps[model], math.inf), told, kappa)
        costs[model] = dataclasses.replace(told, way_seconds=way, crowded_seconds=longer)
    return FittedHost(steps, costs, kappa, idle_share)


def fit_cpu(traces: Sequence[HostTrace]) -> tuple[float, float, float]:
    """Return CPU seconds of client and proxy: per second, per output token, and per request."""
    rows = []
    for trace in traces:
        requests = [r for engine in trace.engines for r in engine.requests]
        tokens = sum(len(r.token_times) for r in requests)
        rows.append((trace.seconds, float(tokens), float(len(requests))))
    idle, token, request = non_negative(rows, [trace.cpu_seconds for trace in traces])
    return idle, token, request


def _engines(trace: HostTrace) -> list[_Engine]:
    busy = [Spans.of_requests(engine.requests) for engine in trace.engines]
    cores = [engine.cores for engine in trace.engines]
    crowded = crowded_times(zip(cores, busy, strict=True), trace.host_cores)
    return [
        _Engine(
            engine,
            tuple(steps_seen(engine.requests)),
            busy[number],
            tuple(spans for other, spans in enumerate(busy) if other != number),
            crowded,
        )
        for number, engine in enumerate(trace.engines)
    ]


# --- steps ---------------------------------------------------------------------------------------


def _row(engine: _Engine, step: SeenStep, token_cpu: float, request_cpu: float) -> StepRow:
    began = step.began or 0.0
    tokens, prompts = step.decoding + len(step.first), len(step.first)
    lost = engine.crowded.share(began, step.ended) * (tokens * token_cpu + prompts * request_cpu)
    return StepRow(
        (
            1.0,
            float(step.decoding + step.prefill_tokens),
            float(step.decoding),
            float(step.kv_tokens),
            float(prompts),
        ),
        max(step.seconds - lost, step.seconds / 2),
        math.fsum(spans.share(began, step.ended) for spans in engine.others),
    )


# --- the way -------------------------------------------------------------------------------------


def _way(
    engines: Sequence[_Engine], steps: Steps, costs: HostCosts, kappa: float
) -> tuple[float, float]:
    """Return seconds of the way on a host with an idle core, and how many more without one."""
    alone: list[float] = []
    intervals: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for engine in engines:
        found, within = _ways(engine, steps, costs, kappa)
        alone += found
        for is_crowded, interval in within:
            intervals[is_crowded].append(interval)
    free = statistics.median(alone) if len(alone) >= LEAST_WAYS else _agreed(intervals[False])
    crowded = _agreed(intervals[True])
    way = max(0.0, crowded or 0.0) if free is None else max(0.0, free)
    return way, 0.0 if crowded is None else max(0.0, crowded - way)


def _ways(
    engine: _Engine, steps: Steps, costs: HostCosts, kappa: float
) -> tuple[list[float], list[tuple[bool, tuple[float, float]]]]:
    """Return what the requests that did not wait at the proxy tell about their way.

    Returns:
        The ways of requests that found the engine idle; for the others, whether the host was
        crowded at their arrival, and their shortest and longest possible way.
    """
    requests = engine.trace.requests
    in_flight = _InFlight(
        sorted(r.arrived for r in requests), sorted(r.token_times[-1] for r in requests)
    )
    alone: list[float] = []
    within: list[tuple[bool, tuple[float, float]]] = []
    for before, step in itertools.pairwise([None, *engine.seen]):
        assert step is not None  # only the first is None
        for request in (requests[index] for index in step.first):
            at, others = request.arrived, in_flight.before(request.arrived)
            if step.began is None:
                if not others and len(step.first) == 1:
                    alone.append(
                        step.ended - at - _first_step(engine, request, steps, costs, kappa)
                    )
            elif 0 < others < engine.trace.slots and before and before.began is not None:
                within.append((engine.crowded.holds(at), (before.began - at, step.began - at)))
    return alone, within


def _first_step(
    engine: _Engine, request: Observed, steps: Steps, costs: HostCosts, kappa: float
) -> float:
    """Return the seconds of a step that only reads this prompt."""
    came, ended = request.arrived, request.token_times[0]
    others = math.fsum(spans.share(came, ended) for spans in engine.others)
    crowded = engine.crowded.share(came, ended) > 1 / 2
    slowed = (1 + kappa * others) * steps.step_seconds(0, request.prompt_tokens, 0)
    return slowed + costs.step_seconds(1, 1, crowded)


class _InFlight:
    """Counts the requests in flight before a point in time."""

    def __init__(self, arrivals: Sequence[float], ends: Sequence[float]) -> None:
        self._arrivals, self._ends = arrivals, ends

    def before(self, at: float) -> int:
        return bisect.bisect_left(self._arrivals, at) - bisect.bisect_left(self._ends, at)


def _agreed(intervals: Sequence[tuple[float, float]]) -> float | None:
    """Return the middle of the region where most intervals overlap; None for too few intervals."""
    if len(intervals) < LEAST_WAYS:
        return None
    changes = sorted(change for low, high in intervals for change in ((low, 1), (high, -1)))
    depth, most, best = 0, 0, (0.0, 0.0)
    for (at, change), (following, _) in zip(changes, [*changes[1:], changes[-1]], strict=True):
        depth += change
        if depth > most:
            most, best = depth, (at, following)
    return (best[0] + best[1]) / 2

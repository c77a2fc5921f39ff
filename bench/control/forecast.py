"""Compares forecasts of demand on synthetic and recorded traces: errors, margins, planned rates.

    python -m bench.control.forecast [--seeds 5] [--hours 6] [--trace FILE ...] [--json FILE]

Steps are of 10 s and the horizon is 60 s, the daemon's defaults. Each method sees the same steps
and predicts the step at the horizon; the first hour is for learning alone. Columns, by method:

  mae      mean error of the middle, as a share of the mean demand;
  pinball  pinball loss of the upper end at its quantile (0.9), as a share of the mean demand: it
           judges a margin, and is low if the end is both rarely exceeded and not far above;
  above    share of the steps above the upper end (0.1 is asked for);
  planned  rate that `core.demand.scaling.scale` plans with the forecast, over the demand, on
  average; short    share of the requests that exceed the planned rate of their step;
  changes  changes of the planned rate per hour.

Traces: `steady` Poisson; `steps` that hold for a while; `daily` a sine over an hour in place of a
day, so that several periods fit in; `ramps`; `spikes`; `burstgpt-like` gamma gaps (CV 1.4) whose
rate changes every ten seconds by a lognormal factor, on a slow wave, as BurstGPT found traffic;
`rare` one request in half a minute. --trace adds recorded traces (BurstGPT, Azure, Mooncake).
Figures are medians over seeds.
"""

import argparse
import dataclasses
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loadgen.load.traces import read_trace
from partitiond.core.demand.forecast import NOTHING_SEEN, ForecastPolicy, Method, forecast, observed
from partitiond.core.demand.scaling import NEW, MeasuredDemand, ScalingPolicy, scale

STEP: Final = 10.0
HORIZON: Final = 6
TAUGHT: Final = 360
"""Number of steps in the first hour."""
SEASON: Final = 360
QUANTILE: Final = 0.9
COMPARED: Final = {
    "last": ForecastPolicy(Method.LAST, STEP, HORIZON, quantile=QUANTILE),
    "ewma 0.1": ForecastPolicy(Method.EWMA, STEP, HORIZON, alpha=0.1, quantile=QUANTILE),
    "ewma 0.3": ForecastPolicy(Method.EWMA, STEP, HORIZON, alpha=0.3, quantile=QUANTILE),
    "ewma 0.5": ForecastPolicy(Method.EWMA, STEP, HORIZON, alpha=0.5, quantile=QUANTILE),
    "holt-damped": ForecastPolicy(Method.HOLT, STEP, HORIZON, quantile=QUANTILE),
    "seasonal-naive": ForecastPolicy(
        Method.SEASONAL, STEP, HORIZON, season_steps=SEASON, quantile=QUANTILE
    ),
}


@dataclasses.dataclass(frozen=True)
class Errors:
    """The results of one method on one trace."""

    mae: float
    pinball: float
    above: float
    planned: float
    short: float
    changes: float


def _counts(rate: Callable[[float], float], steps: int, draw: random.Random) -> list[float]:
    """Requests/s of Poisson arrivals in each step."""
    return [_poisson(draw, rate(index * STEP) * STEP) / STEP for index in range(steps)]


def _poisson(draw: random.Random, mean: float) -> int:
    if mean > 500:
        return max(0, round(draw.gauss(mean, math.sqrt(mean))))
    count, at = 0, draw.expovariate(1.0)
    while at < mean:
        count += 1
        at += draw.expovariate(1.0)
    return count


def _levels(steps: int, draw: random.Random) -> list[float]:
    found: list[float] = []
    while len(found) < steps:
        found += [draw.choice((1.0, 2.0, 4.0, 8.0, 16.0))] * draw.randint(60, 240)
    return found


def _spikes(steps: int, draw: random.Random) -> list[float]:
    found = [4.0] * steps
    for _ in range(steps // 180):
        begin = draw.randrange(steps)
        for index in range(begin, min(steps, begin + draw.randint(3, 18))):
            found[index] = 20.0
    return found


def _burstgpt_like(steps: int, draw: random.Random) -> list[float]:
    counts = [0] * steps
    at = 0.0
    while at < steps * STEP:
        step = int(at / STEP)
        wave = 1 + 0.6 * math.sin(2 * math.pi * at / 7200)
        rate = 5.0 * wave * draw.lognormvariate(-0.08, 0.4)
        # Gaps of one step are drawn at its rate; CV 1.4 is a gamma of shape 0.51.
        until = (step + 1) * STEP
        while at < until:
            counts[step] += 1
            at += draw.gammavariate(0.51, 1 / 0.51) / rate
    return [count / STEP for count in counts]


def traces(hours: float, seed: int) -> dict[str, list[float]]:
    """Requests/s in each step, for each kind of trace."""
    draw = random.Random(f"forecast {seed}")
    steps = int(hours * 3600 / STEP)
    levels, spikes = _levels(steps, draw), _spikes(steps, draw)
    ramp = 1800.0
    return {
        "steady": _counts(lambda _: 5.0, steps, draw),
        "steps": _counts(lambda at: levels[int(at / STEP)], steps, draw),
        "daily": _counts(lambda at: 6 + 5 * math.sin(2 * math.pi * at / 3600), steps, draw),
        "ramps": _counts(lambda at: 1 + 15 * abs((at / ramp) % 2 - 1), steps, draw),
        "spikes": _counts(lambda at: spikes[int(at / STEP)], steps, draw),
        "burstgpt-like": _burstgpt_like(steps, draw),
        "rare": _counts(lambda _: 1 / 30, steps, draw),
    }


def recorded(path: Path) -> list[float]:
    """Requests/s in each step of a recorded trace."""
    rows = read_trace(path).rows
    begin = rows[0].at
    counts = [0] * (int((rows[-1].at - begin) / STEP) + 1)
    for row in rows:
        counts[int((row.at - begin) / STEP)] += 1
    return [count / STEP for count in counts]


def errors(rates: Sequence[float], policy: ForecastPolicy) -> Errors:
    """Judge one method on one trace."""
    series, state = NOTHING_SEEN, NEW
    scaling = ScalingPolicy(forecast=policy, pressure_seconds=None)
    ahead: list[tuple[float, float]] = []
    misses, losses, above, planned, short, changes = [], [], 0, [], 0.0, 0
    for index, rate in enumerate(rates):
        if index >= TAUGHT:
            middle, upper = ahead[index - HORIZON]
            misses.append(abs(rate - middle))
            over = rate - upper
            losses.append(max(QUANTILE * over, (QUANTILE - 1) * over))
            above += over > 0
            now = state.planned_req_per_s or 0.0
            planned.append(now)
            short += max(0.0, rate - now)
        series = observed(series, rate, policy)
        expected = forecast(series, policy)
        ahead.append((expected.req_per_s, expected.upper_req_per_s))
        decision = scale(state, MeasuredDemand(index * STEP, rate), scaling)
        changes += decision.changed and index >= TAUGHT
        state = decision.state
    judged = rates[TAUGHT:]
    mean = statistics.fmean(judged)
    return Errors(
        mae=statistics.fmean(misses) / mean,
        pinball=statistics.fmean(losses) / mean,
        above=above / len(judged),
        planned=statistics.fmean(planned) / mean,
        short=short / math.fsum(judged),
        changes=changes / (len(judged) * STEP / 3600),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each trace, and the mean rank of the methods by their pinball loss."""
    parser = argparse.ArgumentParser(description="Compare forecasts of demand.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--trace", type=Path, action="append", default=[])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    runs = [traces(given.hours, seed) for seed in range(given.seeds)]
    cases = {name: [one[name] for one in runs] for name in runs[0]}
    cases |= {path.name: [recorded(path)] for path in given.trace}
    found: dict[str, dict[str, dict[str, float]]] = {}
    ranks: dict[str, list[int]] = {name: [] for name in COMPARED}
    fields = [field.name for field in dataclasses.fields(Errors)]
    for case, seeds in cases.items():
        medians = {}
        for name, policy in COMPARED.items():
            each = [errors(rates, policy) for rates in seeds]
            medians[name] = {f: statistics.median(getattr(e, f) for e in each) for f in fields}
        found[case] = medians
        print(f"\n{case:16s}" + "".join(f"{field:>9s}" for field in fields))
        for name, values in medians.items():
            print(f"  {name:14s}" + "".join(f"{values[field]:9.3f}" for field in fields))
        for rank, name in enumerate(sorted(COMPARED, key=lambda n: medians[n]["pinball"])):
            ranks[name].append(rank + 1)
    print("\nmean rank by pinball loss, 1 is best, and its mean over the traces:")
    for name in sorted(ranks, key=lambda n: statistics.fmean(ranks[n])):
        loss = statistics.fmean(by[name]["pinball"] for by in found.values())
        print(f"  {name:14s} {statistics.fmean(ranks[name]):.2f}  {loss:.3f}")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

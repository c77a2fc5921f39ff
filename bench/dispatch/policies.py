"""Compares our admission, fairness and dispatch with load balancers, in simulated time.

    python -m bench.dispatch.policies [--seeds 3] [--seconds 40] [--jobs 1] [--only goodput]

The discrete-event engines of `partitiond.simulated.replay` run behind our dispatch (the very
policies that the proxy uses), and behind round robin and least connections. These two run as they
are (sent on at once, unbounded first-come-first-served queue in the engine) and with our admission
rule (`+ limit`), to tell the two effects apart. Engines are the same for all, their batch bounded
by the operating point. Rates are shares of the capacity, measured with every slot taken. Goodput is
requests/s within the SLO: TTFT 2 s, TPOT 1.15 times its 95th percentile at the operating point.

Every figure is a median over seeds (lowest..highest); differences are paired by seed. Goals:
  1. ours is at least the best of the others in each case (median difference -1 % or better);
  2. goodput at 1.3 of capacity is within 5 % of its peak;
  3. one tenant floods: the other's p95 TTFT grows by less than 20 %.
Misses are printed as such. The exit code is 1 if a goal is missed.
"""

import concurrent.futures
import dataclasses
import functools
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from bench.command import options
from bench.dispatch.cases import FLEETS, LOADS, POLICIES, Planned, drive, plan_for
from bench.paired import spread
from partitiond.core.dispatch.places import EVERYBODY, RequestOwner

CASES: Final = (
    *(("4 equal", load) for load in LOADS),
    ("one 1.5x slower", "steady"),
    ("one 3x slower", "steady"),
    ("one 3x slower", "BurstGPT-like"),
    ("unequal 48 to 8", "steady"),
    ("unequal 48 to 8", "BurstGPT-like"),
)
FACTORS: Final = (0.7, 0.95, 1.3)
COMPARED: Final = ("ours", "rr", "lc", "rr + limit", "lc + limit")
EQUAL: Final = -0.01
"""Share of the goodput: a smaller loss is within the scatter of the seeds."""
PEAK_SHARE: Final = 0.95
TTFT_GROWTH: Final = 1.2
TENANT_LOADS: Final = ("steady", "BurstGPT-like", "long tails")
FLOODS: Final = (0.4, 0.65, 1.0, 3.0)
"""Rate of the other tenant, in shares of capacity; the first two are within its fair share."""
MODEST: Final = 0.3


@dataclasses.dataclass(frozen=True)
class Job:
    """One run for `goodput` or `tenants`."""

    part: str
    fleet: str
    load: str
    policy: str
    rate: float
    seed: int
    seconds: float


@functools.lru_cache(maxsize=64)
def planned(fleet: str, load: str) -> Planned:
    """The plan of a fleet for a load's lengths."""
    return plan_for(FLEETS[fleet], LOADS[load].lengths, 120.0)


def run(job: Job) -> tuple[Job, float]:
    """Goodput over capacity, or the modest tenant's p95 TTFT."""
    fleet, load, plan = FLEETS[job.fleet], LOADS[job.load], planned(job.fleet, job.load)
    rate = job.rate * plan.capacity
    make = POLICIES[job.policy]
    if job.part == "goodput":
        sources = [(load, rate, EVERYBODY)]
    else:
        # The modest tenant sends steadily: a burst of its own would look like the flood's effect.
        steady = dataclasses.replace(LOADS["steady"], lengths=load.lengths)
        modest = (steady, MODEST * plan.capacity, RequestOwner("modest"))
        sources = [modest, (load, rate, RequestOwner("flood"))]
    result = drive(make, fleet, plan, sources, seed=job.seed, seconds=job.seconds)
    if job.part == "goodput":
        return job, result.goodput / plan.capacity
    return job, result.ttft_p95("modest")


Figures = dict[tuple[str, str, str, float], list[float]]


def measured(jobs: Sequence[Job], workers: int) -> Figures:
    """(fleet, load, policy, rate) -> the figure of each seed."""
    found: Figures = {}
    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        for job, figure in pool.map(run, jobs, chunksize=5):
            found.setdefault((job.fleet, job.load, job.policy, job.rate), []).append(figure)
    return found


def goodput_table(found: Figures, misses: list[str]) -> Iterator[str]:
    """Table of every case, and whether it meets goals 1 and 2."""
    for fleet, load in CASES:
        yield f"\n{fleet}, {load}: capacity {planned(fleet, load).capacity:.1f} requests/s"
        peaks = {
            name: max(statistics.median(found[fleet, load, name, f]) for f in FACTORS)
            for name in COMPARED
        }
        for factor in FACTORS:
            figures = {name: found[fleet, load, name, factor] for name in COMPARED}
            middles = {name: statistics.median(values) for name, values in figures.items()}
            best = max(COMPARED[1:], key=lambda name: middles[name])
            change = [
                ours / max(other, 1e-9) - 1
                for ours, other in zip(figures["ours"], figures[best], strict=True)
            ]
            met = statistics.median(change) >= EQUAL
            if not met:
                misses.append(f"goal 1: {fleet}, {load} at {factor}: {spread(change, '+.1%')}")
            others = "  ".join(f"{name} {middles[name]:.3f}" for name in COMPARED[1:])
            yield (
                f"  {factor:<4} ours {spread(figures['ours'])}  {others}  "
                f"ours - {best} {spread(change, '+.1%')} {'met' if met else 'MISSED'}"
            )
        kept = {
            name: statistics.median(found[fleet, load, name, FACTORS[-1]]) / peaks[name]
            for name in COMPARED
        }
        met = kept["ours"] >= PEAK_SHARE
        if not met:
            misses.append(f"goal 2: {fleet}, {load}: {kept['ours']:.0%}")
        shares = "  ".join(f"{name} {share:.0%}" for name, share in kept.items())
        yield f"  at 1.3, of the peak: {shares} {'met' if met else 'MISSED'}"


def tenant_table(found: Figures, misses: list[str]) -> Iterator[str]:
    """Table of the modest tenant's p95 TTFT by the rate of the other tenant."""
    yield f"\ntwo tenants, the modest one at {MODEST} of capacity: its p95 TTFT, ms"
    for load in TENANT_LOADS:
        for policy in ("ours", "lc", "lc + limit"):
            figures = {f: found["4 equal", load, policy, f] for f in FLOODS}
            cells = "  ".join(
                f"other {f}: {spread([1000 * v for v in values], '.0f')}"
                for f, values in figures.items()
            )
            yield f"  {load:<14} {policy:<11} {cells}"
            if policy != "ours":
                continue
            for base in FLOODS[:2]:
                growth = [
                    flooded / calm
                    for flooded, calm in zip(figures[FLOODS[-1]], figures[base], strict=True)
                ]
                met = statistics.median(growth) < TTFT_GROWTH
                yield (
                    f"    flood over {MODEST + base:g} of capacity in all: "
                    f"{spread([g - 1 for g in growth], '+.0%')} {'met' if met else 'MISSED'}"
                )
                if not met:
                    misses.append(
                        f"goal 3: {load}, over {MODEST + base:g} of capacity: "
                        f"{statistics.median(growth) - 1:+.0%}"
                    )


def jobs_of(only: str, seeds: int, seconds: float) -> list[Job]:
    """All runs that are wanted."""
    jobs = []
    if only in {"", "goodput"}:
        jobs += [
            Job("goodput", fleet, load, policy, factor, seed, seconds)
            for fleet, load in CASES
            for policy in COMPARED
            for factor in FACTORS
            for seed in range(seeds)
        ]
    if only in {"", "tenants"}:
        jobs += [
            Job("tenants", "4 equal", load, policy, flood, seed, seconds)
            for load in TENANT_LOADS
            for policy in ("ours", "lc", "lc + limit")
            for flood in FLOODS
            for seed in range(seeds)
        ]
    return jobs


def main() -> int:
    """Run the wanted parts, and print the tables and the missed goals."""
    parser = options(__doc__, seeds=3, seconds=40.0, jobs=1)
    parser.add_argument("--only", choices=["goodput", "tenants"], default="")
    given = parser.parse_args()
    misses: list[str] = []
    for part, table in (("goodput", goodput_table), ("tenants", tenant_table)):
        if given.only in {"", part}:
            found = measured(jobs_of(part, given.seeds, given.seconds), given.jobs)
            print("\n".join(table(found, misses)), flush=True)
    print(f"\n{len(misses)} goals missed" + "".join(f"\n  {miss}" for miss in misses))
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())

"""Compares several hosts, each with its own dispatcher, with one proxy that knows all.

    python -m bench.dispatch.hosts [--quick] [--only cases,keys,policies,waiting] [--seeds 3]

Simulated time, the proxy's own dispatcher, queue and rules; see `bench.dispatch.host_cases`. A
request takes 1 s in a full batch and half of that alone. Every host with replicas has two. The
queue's bound is one request per slot. Counts of a host reach the others up to 0.2 s old, a message
takes 0.5 ms. "hot" is 80 % of the requests at one host, which has no replica unless all have.

Parts: `cases`, all numbers of hosts, spreads and loads; `keys`, how fair two keys are treated;
`policies`, each figure of `HostPolicy` and the number of peers drawn; `waiting`, where requests
wait. Figures are means of seeds. A batch that is overshot, or a queue beyond its bound + hosts,
ends the run with an error.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import math
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from bench.command import chosen, options
from bench.dispatch.host_cases import (
    EntryQueueHost,
    HostRequest,
    HostsCase,
    SimulatedHost,
    SimulatedHosts,
)
from partitiond.core.dispatch.admission import Cost
from partitiond.core.dispatch.fleet import DEFAULT_HOST_POLICY, HostPolicy
from partitiond.core.dispatch.places import EVERYBODY, RequestOwner

WARM_UP_SECONDS: Final = 5.0
LAST_SECONDS: Final = 40.0
KEYS: Final[dict[str, tuple[tuple[RequestOwner, float], ...]]] = {
    "one": ((EVERYBODY, 1.0),),
    "modest": ((RequestOwner("a"), 0.3), (RequestOwner("b"), 1.5)),
    "both": ((RequestOwner("a"), 0.7), (RequestOwner("b"), 1.5)),
}
"""Keys, and their loads over the capacity. Key b comes to the hot host, if one is hot."""
WAITING: Final[dict[str, type[SimulatedHost]]] = {"owner": SimulatedHost, "entry": EntryQueueHost}


@dataclasses.dataclass(frozen=True)
class HostsJob:
    """One run."""

    case: HostsCase
    policy: HostPolicy = DEFAULT_HOST_POLICY
    drawn: int = 2
    waiting: str = "owner"
    together: bool = False
    seed: int = 1
    seconds: float = 30.0


@dataclasses.dataclass(frozen=True)
class HostsFigures:
    """Figures of one run; times in seconds, the rest in shares of the requests.

    Attributes:
        over: most requests that waited beyond the queue's bound.
        service: key -> KV tokens started in the window.
        waits: key -> (mean, p99) of the waits.
    """

    wait: float
    wait_p99: float
    response: float
    refused: float
    hops: float
    fulls: float
    moves: float
    in_vain: float
    over: int
    service: dict[str, float]
    waits: dict[str, tuple[float, float]]


def run(job: HostsJob) -> HostsFigures:
    """Simulate one run."""
    fleet = SimulatedHosts(
        job.case, job.policy, job.seed, together=job.together, drawn=job.drawn,
        host_class=WAITING[job.waiting],
    )  # fmt: skip
    requests: list[HostRequest] = []
    hosts = list(fleet.hosts.values())
    # Its own, so that one proxy and several hosts get the same requests.
    places = random.Random(job.seed)
    for number, (owner, share) in enumerate(KEYS[job.case.keys]):
        load = job.case.load if job.case.keys == "one" else share
        draws = random.Random(job.seed * 100 + number)
        when = 0.0
        hot = job.case.hot if owner.key != "a" else 0.0
        while True:
            when += draws.expovariate(load * fleet.capacity)
            if when > WARM_UP_SECONDS + job.seconds:
                break
            request = HostRequest(when, _work(job.case, draws), _cost(draws), owner)
            requests.append(request)
            host = hosts[-1] if places.random() < hot else hosts[places.randrange(len(hosts))]
            fleet.clock.at(when, functools.partial(host.arrive, request))
    fleet.clock.run(WARM_UP_SECONDS + job.seconds + LAST_SECONDS)
    over = fleet.queued - fleet.route.max_queue
    assert over < len(hosts), "the queues are beyond their bound"
    return _figures([r for r in requests if r.arrived >= WARM_UP_SECONDS], over, job)


def _work(case: HostsCase, draws: random.Random) -> float:
    if case.work == "exponential":
        return draws.expovariate(1.0)
    return min(30.0, draws.paretovariate(1.5) / 2.6)  # mean 1 with this bound


def _cost(draws: random.Random) -> Cost:
    return Cost(1, max(16, int(draws.lognormvariate(math.log(256) - 0.32, 0.8))))


def _figures(window: Sequence[HostRequest], over: int, job: HostsJob) -> HostsFigures:
    count = len(window)
    started = [r for r in window if r.placed < math.inf]
    by_key: dict[str, list[float]] = {}
    service: dict[str, float] = {}
    end = WARM_UP_SECONDS + job.seconds
    for r in started:
        by_key.setdefault(r.share.key, []).append(r.placed - r.arrived)
        if r.placed <= end:
            service[r.share.key] = service.get(r.share.key, 0.0) + r.cost.kv_tokens
    waits = [r.placed - r.arrived for r in started]
    return HostsFigures(
        statistics.fmean(waits), _p99(waits),
        statistics.fmean(r.ended - r.arrived for r in started if r.ended < math.inf),
        1 - len(started) / count,
        sum(r.hops for r in window) / count,
        sum(r.fulls for r in window) / count,
        sum(r.moves for r in window) / count,
        sum(r.in_vain for r in window) / count,
        over, service, {key: (statistics.fmean(w), _p99(w)) for key, w in by_key.items()},
    )  # fmt: skip


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


def cases(quick: bool) -> list[HostsCase]:
    """The cases of the first part."""
    if quick:
        return [HostsCase(8, load=0.9, hot=0.8), HostsCase(8, "half", 1.2)]
    grid = itertools.product((2, 8, 32), ("all", "half", "one"), (0.5, 0.9, 1.2), (0.0, 0.8))
    more = itertools.product(("equal", "unequal"), ("exponential", "heavy"), (0.5, 0.9, 1.2))
    return [HostsCase(n, spread, load, hot) for n, spread, load, hot in grid] + [
        HostsCase(8, "all", load, 0.8, fleet, work)
        for fleet, work, load in more
        if (fleet, work) != ("equal", "exponential")
    ]


def _name(case: HostsCase) -> str:
    hot = "hot" if case.hot else "even"
    return f"{case.hosts:>2} hosts, {case.spread:<4} {case.load:<3} {hot:<4}" + (
        f" {case.fleet}, {case.work}" if (case.fleet, case.work) != ("equal", "exponential") else ""
    )


def _line(name: str, one: HostsFigures, ours: HostsFigures) -> str:
    return (
        f"{name:<38} wait {1000 * one.wait:5.0f} {1000 * ours.wait:5.0f}  p99 "
        f"{1000 * one.wait_p99:5.0f} {1000 * ours.wait_p99:5.0f}  response x"
        f"{ours.response / one.response:.3f}  refused {one.refused:5.1%} {ours.refused:5.1%}  hops "
        f"{ours.hops:.2f} full {ours.fulls:.3f} moved {ours.moves:.3f} in vain {ours.in_vain:.3f}"
        f"  queue {ours.over:+d}"
    )


Compared = list[tuple[str, HostsJob]]


def compared(jobs: Compared, seeds: int, workers: int) -> Iterator[str]:
    """Run each job, and the same case with one proxy that knows all; figures are means of seeds."""
    ones = {job.case: HostsJob(job.case, together=True, seconds=job.seconds) for _, job in jobs}
    wanted = [*ones.values(), *[job for _, job in jobs]]
    runs = [dataclasses.replace(job, seed=seed) for job in wanted for seed in range(1, seeds + 1)]
    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        found = pool.map(run, runs)
        known = {case: _mean([next(found) for _ in range(seeds)]) for case in ones}
        for name, job in jobs:
            ours = _mean([next(found) for _ in range(seeds)])
            yield _line(name, known[job.case], ours)
            if job.case.keys != "one":
                yield _fairness(known[job.case], ours)


def _mean(runs: Sequence[HostsFigures]) -> HostsFigures:
    """Return means; of the excess of the queue the greatest, of a key's service the sum."""
    means = {
        field.name: statistics.fmean(getattr(run, field.name) for run in runs)
        for field in dataclasses.fields(HostsFigures)
        if field.name not in {"over", "service", "waits"}
    }
    keys = runs[0].service
    return HostsFigures(
        over=max(run.over for run in runs),
        service={key: sum(run.service[key] for run in runs) for key in keys},
        waits={
            key: (
                statistics.fmean(run.waits[key][0] for run in runs),
                statistics.fmean(run.waits[key][1] for run in runs),
            )
            for key in keys
        },
        **means,
    )


def _fairness(one: HostsFigures, ours: HostsFigures) -> str:
    def of(figures: HostsFigures) -> str:
        a, b = figures.service.get("a", 0.0), figures.service.get("b", 0.0)
        mean, p99 = figures.waits.get("a", (math.nan, math.nan))
        return (
            f"service a/b {a / max(1.0, b):.2f}, waits of a {1000 * mean:.0f} p99 {1000 * p99:.0f}"
        )

    return f"    one proxy: {of(one)};  hosts: {of(ours)}"


def case_jobs(quick: bool, seconds: float) -> Compared:
    """Every case with the rules as they are."""
    return [(_name(case), HostsJob(case, seconds=seconds)) for case in cases(quick)]


def key_jobs(quick: bool, seconds: float) -> Compared:
    """Two keys, of which b floods; a is modest, or wants more than its half, too."""
    jobs: Compared = []
    spreads = [(8, "all"), (8, "half"), (8, "one"), (32, "all")]
    for (n, spread), hot, keys in itertools.product(
        spreads[: 1 if quick else None], (0.0, 0.8), ("modest", "both")
    ):
        case = HostsCase(n, spread, 1.0, hot, keys=keys)
        name = f"{n:>2} hosts, {spread:<4} {'hot' if hot else 'even':<4} {keys}"
        jobs.append((name, HostsJob(case, seconds=seconds)))
    return jobs


def _tried(quick: bool) -> list[HostsCase]:
    everything = [
        HostsCase(8, "all", 0.5, 0.8),
        HostsCase(8, "all", 0.9, 0.8),
        HostsCase(8, "all", 0.9, 0.0),
        HostsCase(8, "all", 1.2, 0.8),
        HostsCase(32, "all", 0.9, 0.0),
        HostsCase(32, "half", 1.2, 0.0),
    ]
    return everything[1:2] if quick else everything


def policy_jobs(quick: bool, seconds: float) -> Compared:
    """Each figure of the policy, one at a time."""
    base = DEFAULT_HOST_POLICY
    policies = [
        *((f"hop_slack {v}", dataclasses.replace(base, hop_slack=v), 2)
          for v in (0.0, 0.125, 0.25, 0.5, 1.0)),
        *((f"wait_slack {v}", dataclasses.replace(base, wait_slack=v), 2)
          for v in (0.0, 0.25, 0.5, 1.0)),
        *((f"queue_slack {v}", dataclasses.replace(base, queue_slack=v), 2)
          for v in (0.0, 0.125, 0.25)),
        *((f"max_refusals {v}", dataclasses.replace(base, max_refusals=v), 2) for v in (1, 2, 4)),
        *((f"max_moves {v}", dataclasses.replace(base, max_moves=v), 2) for v in (0, 1, 2, 4, 99)),
        *((f"drawn {v or 'all'}", base, v) for v in (1, 2, 4, 0)),
    ]  # fmt: skip
    small = [case for case in _tried(quick) if case.hosts == 8]
    many = HostsCase(32, "all", 1.0, keys="both")
    wanted = [(case, *policy) for case in small for policy in policies]
    if not quick:
        wanted += [(many, *p) for p in policies if p[0].startswith(("queue", "max_refusals"))]
    return [
        (f"{name:<16} {_name(case)}", HostsJob(case, policy, drawn, seconds=seconds))
        for case, name, policy, drawn in wanted
    ]


def waiting_jobs(quick: bool, seconds: float) -> Compared:
    """Where requests wait: at owners, at owners without moves, and at entries."""
    still = dataclasses.replace(DEFAULT_HOST_POLICY, max_moves=0)
    kinds = [
        ("owner", HostsJob(HostsCase(2), waiting="owner")),
        ("not moved", HostsJob(HostsCase(2), still)),
        ("entry", HostsJob(HostsCase(2), waiting="entry")),
    ]
    both = [
        HostsCase(8, "half", 1.0, 0.8, keys="both"),
        HostsCase(8, "half", 1.0, keys="both"),
        HostsCase(8, "half", 1.2),
    ]
    return [
        (f"{name:<10} {_name(case)} {case.keys}",
         dataclasses.replace(job, case=case, seconds=seconds))
        for case in [*_tried(quick), *both]
        for name, job in kinds
    ]  # fmt: skip


PARTS: Final = {
    "cases": case_jobs,
    "keys": key_jobs,
    "policies": policy_jobs,
    "waiting": waiting_jobs,
}


def main() -> int:
    """Run the wanted parts, and print their lines."""
    parser = options(__doc__, quick=False, seeds=3, seconds=20.0, jobs=1, only=",".join(PARTS))
    given = parser.parse_args()
    for part in chosen(parser, "--only", given.only, PARTS):
        print(f"\n{part}: one proxy, then hosts; waits in ms")
        for line in compared(PARTS[part](given.quick, given.seconds), given.seeds, given.jobs):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

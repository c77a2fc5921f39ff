"""Compares plans replayed in simulated time with the figures that the plans promised.

    python -m bench.simulator.replay [--fleets examples/*.toml] [--profiles profiles] [--seconds 30]
        [--plan-seconds 5]

The bench has three parts. The first checks the simulator itself: it steps every measured batch of
each shipped measured profile in a closed loop. The others are plans: every fleet file (estimates,
whose engines are stepped by the roofline that the estimate averages), and a plan made of the
shipped measured profiles.

Each plan is replayed at its operating points (closed loop, as predicted) and at the demand that it
says it serves (Poisson, through the production's admission and dispatch). The baseline is the same
plan's prediction as if sharing a device cost nothing. Misses are listed.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.command import options
from bench.simulator.replay_cases import (
    Case,
    closed_loop,
    fleet_case,
    measured,
    measured_case,
)
from partitiond.core.errors import PartitiondError
from partitiond.core.profile.record import Profile
from partitiond.simulated.replay.comparison import (
    ComparedFigure,
    Difference,
    by_figure,
    differences_of,
)
from partitiond.simulated.replay.models import admitted_sequences
from partitiond.simulated.replay.replay import OfferedLoad, replay_plan

RATIO_FROM: Final = 0.005
"""Smaller errors than this are noise: they get no ratio."""


def replay_case(case: Case) -> list[Difference]:
    """Replay both loads, and print the time taken and the share that admission lets in."""
    began = time.perf_counter()
    found: list[Difference] = []
    for load in OfferedLoad:
        replay = replay_plan(case.plan, case.traffic, case.engine_of, load, case.options)
        found += differences_of(replay)
    seconds = time.perf_counter() - began
    placements = case.plan.placements
    print(
        f"\n{case.name}: {len(case.plan.forecasts)} models, {len(placements)} replicas on "
        f"{len({p.device_id for p in placements})} devices, replayed in {seconds:.1f} s; "
        f"admission lets {admitted(case):.0%} of the planned sequences in (median)"
    )
    return found


def admitted(case: Case) -> float:
    """Median share of a replica's batch that fits its KV tokens as the proxy counts them."""
    lengths = {one.model: one.workload for one in case.traffic}
    return statistics.median(
        admitted_sequences(case.engine_of(p), p.candidate.batch, lengths[p.model])
        / p.candidate.batch
        for p in case.plan.placements
    )


def table(found: Sequence[Difference]) -> Iterator[str]:
    """Median and worst error by figure, beside the baseline's errors."""
    yield (
        f"  {'load':<7} {'figure':<11} {'count':>5} {'median':>7} {'worst':>8} {'misses':>7}   "
        "as if sharing cost nothing: median, worst"
    )
    for (load, figure), summary in by_figure(found).items():
        naive = ""
        if summary.naive_median is not None and summary.naive_worst is not None:
            naive = f"{summary.naive_median:.1%}, {summary.naive_worst:.1%}"
            if summary.median >= RATIO_FROM:
                naive += f" (x {summary.naive_median / summary.median:.2f})"
        yield (
            f"  {load.value:<7} {figure.value:<11} {summary.count:>5} {summary.median:>7.1%} "
            f"{summary.worst:>8.1%} {summary.misses:>7}   {naive}"
        )


def misses(found: Sequence[Difference], most: int) -> Iterator[str]:
    """The worst misses, and the number of further misses."""
    those = sorted((one for one in found if one.is_miss), key=lambda one: -abs(one.error))
    for one in those[:most]:
        yield (
            f"    {one.model:<20} {one.load.value:<7} {one.figure.value:<11} promised "
            f"{_shown(one, one.promised)}, got {_shown(one, one.got)} ({one.error:+.1%})"
        )
    if len(those) > most:
        yield f"    and {len(those) - most} more"


def _shown(one: Difference, value: float) -> str:
    match one.figure:
        case ComparedFigure.THROUGHPUT:
            return f"{value:.0f} tok/s"
        case ComparedFigure.SERVED:
            return f"{value:.1%}"
        case _:
            return f"{1000 * value:.1f} ms"


def of_profiles(profiles: Sequence[Profile], given: argparse.Namespace) -> None:
    """Compare the simulator with every measured batch."""
    found: list[Difference] = []
    for profile in profiles:
        for point in profile.points:
            if not point.kv_limited:
                found += closed_loop(profile, point, given.seconds)
    print(
        f"the simulator against {len(profiles)} measured profiles, every batch (error: simulated)"
    )
    if found:
        print("\n".join(table([dataclasses.replace(one, naive=None) for one in found])))


def cases(given: argparse.Namespace, profiles: Sequence[Profile]) -> Iterator[Case]:
    """All plans, made one after the other and not kept."""
    for path in given.fleets:
        try:
            case = fleet_case(path, given)
        except PartitiondError as error:
            print(f"{path}: left out, {error}")
            continue
        if case is not None:
            yield case
    case = measured_case(profiles, given)
    if case is not None:
        yield case


def main() -> int:
    """Replay all cases and print the results."""
    given = _parser().parse_args()
    profiles = measured([given.profiles]) if given.profiles.exists() else []
    of_profiles(profiles, given)
    together: dict[str, list[Difference]] = {}
    for case in cases(given, profiles):
        found = replay_case(case)
        together.setdefault(case.source, []).extend(found)
        print("\n".join([*table(found), *misses(found, given.misses)]), flush=True)
    for source, found in together.items():
        print(f"\nall plans of {source} together")
        print("\n".join(table(found)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    examples = sorted(Path("examples").glob("*.toml"))
    parser.add_argument("--fleets", nargs="*", type=Path, default=examples)
    parser.add_argument("--profiles", type=Path, default=Path("profiles"))
    parser.add_argument("--seconds", type=float, default=30.0, help="shortest simulated window")
    parser.add_argument("--plan-seconds", type=float, default=5.0, help="time limit of a solve")
    parser.add_argument("--seed", type=int, default=0, help="of arrivals and lengths")
    parser.add_argument("--misses", type=int, default=8, help="listed of each plan")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Shows that requests that start meet their SLO, on engines as planned, faster and slower.

    python -m bench.dispatch.slo [--seeds 3] [--seconds 60] [--only "1500 in"]

The discrete-event engines of `partitiond.simulated.replay` behind our dispatch, with what it learns
of their speed (`core.dispatch.pace`), and without: then the batch is the planned one, and a request
waits for the bound less the planned time to first token. Both sides have the same arrivals, at 0.7
and 1.5 times of what the engine can do as it is. Good requests meet both bounds.

Every figure is a median over seeds. Goals:
  1. 95 % of what is answered is good, where one request alone on an engine would be;
  2. at 1.5 times the capacity goodput is 1.3 times the baseline's where engines are twice or six
     times as slow as planned (if it can be: the baseline may be good already);
  3. it is nowhere below 0.98 of the baseline's, where an engine is as planned or faster;
  4. after an engine becomes twice as slow, 95 % are good again from the tenth second on.
Misses are printed as such. The exit code is 1 if a goal is missed.
"""

import dataclasses
import itertools
import math
import statistics
import sys
from collections.abc import Sequence
from typing import Final

from bench.command import options
from bench.dispatch.cases import candidate_of, keep_full, percentile_of
from loadgen.load.arrivals import poisson
from loadgen.load.lengths import Lengths, independent, lognormal_list
from partitiond.core.dispatch.routing import (
    ModelAvailability,
    ModelRoute,
    ReplicaRoute,
    longest_wait_seconds,
    service_seconds,
)
from partitiond.core.hardware.kinds import SharingMode
from partitiond.simulated.replay.batch import Batch
from partitiond.simulated.replay.dispatch import SimulatedModel, SimulatedReplica, SimulatedRequest
from partitiond.simulated.replay.engine import SharedDevice, SteppedEngine
from partitiond.simulated.replay.events import SimulatedClock
from partitiond.simulated.replay.steps import StepModel

SPEEDS: Final = (0.5, 1.0, 2.0, 6.0)
LOADS: Final = (0.7, 1.5)
LONGEST_WAIT_SECONDS: Final = 30.0
WARM_UP_SECONDS: Final = 15.0
TURN_SECONDS: Final = 30.0
SETTLED_SECONDS: Final = 10.0
GOOD_SHARE: Final = 0.95
MORE: Final = 1.3
NOT_LESS: Final = 0.98


@dataclasses.dataclass(frozen=True)
class Case:
    """Engines, lengths (median and coefficient of variation) and bounds.

    Attributes:
        lone_seconds: a step of one sequence.
        growth: what each further sequence adds, by a lone step.
        prompt_seconds: what each prompt token adds to a step.
    """

    name: str
    limit: int
    lone_seconds: float
    growth: float
    prompt_seconds: float
    prompt: tuple[float, float]
    output: tuple[float, float]
    ttft_seconds: float
    tpot_seconds: float
    replicas: int = 2

    @property
    def lengths(self) -> Lengths:
        return independent(lognormal_list(*self.prompt), lognormal_list(*self.output))


CASES: Final = (
    Case("CPU, 100 in", 4, 0.060, 0.10, 8e-3, (100, 0.3), (24, 0.5), 1.5, 0.25),
    Case("1500 in, 16 out", 16, 0.010, 0.03, 5e-5, (1500, 0.3), (16, 0.3), 1.0, 0.1, 1),
    Case("256 in, 128 out", 32, 0.010, 0.03, 5e-5, (256, 1.0), (128, 1.0), 2.0, 0.03),
    Case("20 in, 64 out", 32, 0.010, 0.03, 5e-5, (20, 0.3), (64, 0.5), 1.0, 0.03),
    Case("4000 in, 200 out", 16, 0.010, 0.03, 5e-5, (4000, 0.5), (200, 0.5), 3.0, 0.08),
    Case("mixed", 24, 0.010, 0.03, 5e-5, (800, 2.5), (100, 1.0), 2.0, 0.06),
)

KV_TOKENS_EACH: Final = 8000


@dataclasses.dataclass(frozen=True)
class Planned:
    """What a plan says: capacity in requests/s, and p95 of TTFT and TPOT with every slot taken."""

    capacity: float
    ttft_p95: float
    tpot_p95: float


@dataclasses.dataclass
class Run:
    """What came of the requests of a window.

    Attributes:
        sent, answered, good: numbers of requests.
    """

    sent: int = 0
    answered: int = 0
    good: int = 0

    def add(self, case: Case, request: SimulatedRequest) -> None:
        self.sent += 1
        ttft, tpot = request.ttft_seconds, request.tpot_seconds or 0.0
        if request.ended is not None and ttft is not None:
            self.answered += 1
            self.good += ttft <= case.ttft_seconds and tpot <= case.tpot_seconds

    @property
    def share(self) -> float:
        return self.good / max(1, self.answered)


def steps_of(case: Case, slow: float) -> StepModel:
    lone = case.lone_seconds * slow
    return StepModel(((1, lone), (64, lone * (1 + 63 * case.growth))), case.prompt_seconds * slow)


def replicas_of(
    clock: SimulatedClock, case: Case, slow: float, planned: Planned | None = None
) -> list[SimulatedReplica]:
    full = case.lone_seconds * (1 + (case.limit - 1) * case.growth)
    ttft, tpot = (0.1, full) if planned is None else (planned.ttft_p95, planned.tpot_p95)
    kv_tokens = case.limit * KV_TOKENS_EACH
    made = []
    for number in range(case.replicas):
        route = ReplicaRoute(
            f"r{number}", "m", "", "", case.limit, kv_tokens, 32_768,
            service_seconds=service_seconds(ttft, tpot, case.output[0]),
        )  # fmt: skip
        batch = Batch(case.limit, 2048, kv_tokens)
        device, candidate = SharedDevice(SharingMode.WHOLE), candidate_of(case.limit)
        engine = SteppedEngine(clock, device, candidate, batch, steps_of(case, slow))
        made.append(SimulatedReplica(route, engine))
    return made


def plan_for(case: Case, seconds: float = 120.0) -> Planned:
    """Measure the engines as planned, with every slot taken."""
    clock = SimulatedClock()
    ended = keep_full(clock, replicas_of(clock, case, 1.0), case.lengths)
    clock.run(WARM_UP_SECONDS + seconds)
    late = [one for one in ended if (one.ended or 0.0) >= WARM_UP_SECONDS]
    return Planned(
        len(late) / seconds,
        percentile_of([one.ttft_seconds or 0.0 for one in late], 0.95),
        percentile_of([one.tpot_seconds for one in late if one.tpot_seconds is not None], 0.95),
    )


def drive(
    case: Case,
    planned: Planned,
    *,
    learns: bool,
    slow: float,
    load: float,
    seed: int,
    seconds: float,
    turns_to: float = 0.0,
) -> tuple[Run, Run]:
    """Simulate one run; return it as a whole, and from when it should have settled.

    Args:
        case: engines and lengths.
        planned: of the engines as planned.
        learns: whether the SLO's bounds are known to the dispatch.
        slow: time of the engines' steps, over the planned one.
        load: arrivals over what the engines can do, as they are in the end.
        seed: of arrivals and lengths.
        seconds: length of the window.
        turns_to: `slow` from `TURN_SECONDS` on; 0 for no change.
    """
    clock = SimulatedClock()
    replicas = replicas_of(clock, case, slow, planned)
    bound = case.ttft_seconds
    route = ModelRoute(
        "m", ModelAvailability.SERVING, "m",
        max_wait_seconds=longest_wait_seconds(LONGEST_WAIT_SECONDS, bound, planned.ttft_p95),
        ttft_seconds=bound if learns else 0.0,
        tpot_seconds=case.tpot_seconds if learns else 0.0,
    )  # fmt: skip
    model = SimulatedModel(clock, route, replicas, seed)
    requests: list[SimulatedRequest] = []
    due = enumerate(poisson(load * planned.capacity / (turns_to or slow), seed))

    def arrive(index: int) -> None:
        request = SimulatedRequest(clock.now, *case.lengths.pair(index, seed))
        requests.append(request)
        following, when = next(due)
        if when < WARM_UP_SECONDS + seconds:
            clock.at(when, lambda: arrive(following))
        model.arrive(request)

    def turn() -> None:
        for replica in replicas:
            replica.engine.steps = steps_of(case, turns_to)

    first, when = next(due)
    clock.at(when, lambda: arrive(first))
    if turns_to:
        clock.at(TURN_SECONDS, turn)
    clock.run(WARM_UP_SECONDS + seconds + 60 * max(slow, turns_to))
    whole, settled = Run(), Run()
    for request in requests:
        if request.arrived >= WARM_UP_SECONDS:
            whole.add(case, request)
        if request.arrived >= TURN_SECONDS + SETTLED_SECONDS:
            settled.add(case, request)
    return whole, settled


def can_be_good(case: Case, slow: float) -> bool:
    """Whether most requests would be good if each had an engine to itself."""
    steps = steps_of(case, slow)
    prompt = case.prompt[0] * (1 + case.prompt[1])
    ttft = steps.step_seconds(0, math.ceil(prompt)) + steps.step_seconds(1, 0)
    return ttft < case.ttft_seconds and steps.step_seconds(1, 0) < 0.9 * case.tpot_seconds


def _medians(runs: Sequence[Run]) -> tuple[float, float, float]:
    return (
        statistics.median(run.good for run in runs),
        statistics.median(run.answered for run in runs),
        statistics.median(run.share for run in runs),
    )


def compare(case: Case, planned: Planned, seeds: range, seconds: float) -> list[str]:
    """Print a case; return its misses."""
    misses = []
    for slow, load in itertools.product(SPEEDS, LOADS):

        def runs(*, learns: bool, slow: float = slow, load: float = load) -> list[Run]:
            return [
                drive(
                    case, planned, learns=learns, slow=slow, load=load, seed=seed, seconds=seconds
                )[0]
                for seed in seeds
            ]

        base, base_answered, base_share = _medians(runs(learns=False))
        good, answered, share = _medians(runs(learns=True))
        feasible = can_be_good(case, slow)
        place = f"{case.name}, {slow:g} x the time, load {load:g}"
        found = []
        if feasible and share < GOOD_SHARE:
            found.append(f"{share:.0%} of what is answered is good")
        if slow <= 1 and good < NOT_LESS * base:
            found.append(f"{good / base:.2f} of the baseline")
        if feasible and slow > 1 and load > 1 and base_share < 0.7 and good < MORE * base:
            found.append(f"only {good / base:.2f} times the baseline")
        misses += [f"{place}: {one}" for one in found]
        print(
            f"{place:<44} {base:6.0f} of {base_answered:5.0f} ({base_share:4.0%})"
            f" {good:6.0f} of {answered:5.0f} ({share:4.0%})"
            f"{'' if feasible else '  one alone is not good'}{'  MISSED' if found else ''}"
        )
    if can_be_good(case, 2.0):
        settled = [
            drive(
                case, planned, learns=True, slow=1.0, load=1.5, seed=seed,
                seconds=TURN_SECONDS + seconds, turns_to=2.0,
            )[1]
            for seed in seeds
        ]  # fmt: skip
        share = _medians(settled)[2]
        print(f"{case.name + ', 10 s after it turned twice as slow':<60} {share:.0%} good")
        if share < GOOD_SHARE:
            misses.append(f"{case.name}: {share:.0%} good after a turn")
    return misses


def main() -> int:
    parser = options(__doc__, seeds=3, seconds=60.0, only="")
    given = parser.parse_args()
    print(f"{'':<44} {'planned batch and wait':>24} {'learned':>24}")
    misses = []
    for case in CASES:
        if case.name.startswith(given.only):
            misses += compare(case, plan_for(case), range(1, given.seeds + 1), given.seconds)
    print("\n".join(["", *(f"MISSED {miss}" for miss in misses)]) if misses else "\nall goals met")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())

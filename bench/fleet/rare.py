"""Compares who makes room for whom, in simulated time: our decision beside a model swapper's.

    python -m bench.fleet.rare [--hours 2] [--seeds 5] [--cases rare,bursty,cycle,busy]
                               [--forked 2.4] [--by-hand 17.5] [--wake 1.6] [--control 1.7]
                               [--no-sleep]

No engine runs and no clock is read: requests, starts and wakes are numbers. All arms get the same
requests, device memory and host memory; sleeping models hold a part of the device, and their
weights in the host's memory. Starts take what `bench.serving.starts` measured; a wake takes what a
swapper's users report for vLLM's sleep. With `--no-sleep` no arm has any, as on a CPU.

| arm | what it is |
| --- | --- |
| ours | `core.replica.step_down`, every 0.1 s; starts are forked; a start waits for a plan, too |
| ours by hand | the same with starts by hand: what the decision alone gains |
| swap | the longest unused models sleep, and of those asleep the longest unused stop; by hand |
"""

import dataclasses
import itertools
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from bench.command import chosen, options
from loadgen import gamma, poisson
from loadgen.results.statistics import percentile
from partitiond.controller.demand.scaling import HALF_LIFE_SECONDS, ScalingOptions
from partitiond.core.replica.sleep import STOPPED
from partitiond.core.replica.step_down import (
    NO_ROOM,
    Popularity,
    Resident,
    Room,
    RoomNeed,
    StepDown,
    Waiter,
    expected_rate,
    readiness,
)

STEP_SECONDS: Final = 0.1
HOLDS: Final = 100
"""What a model holds of the device; other sizes are in these units."""
ASLEEP: Final = 10
WEIGHTS: Final = 40
ANSWER_SECONDS: Final = 1.0
LEAST_IDLE: Final = ScalingOptions().evict_idle_seconds
GIVES_UP_SECONDS: Final = 120.0
"""When a request that has no replica yet is lost: `scaling.max_hold_seconds`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """Models and their requests.

    Attributes:
        fit: how many of them fit the device awake.
        sleep: how many can have their weights in host memory.
        arrivals: (model's number, seconds, seed) to the times of its requests.
    """

    about: str
    models: int
    fit: int
    sleep: int
    arrivals: Callable[[int, float, int], list[float]]


def _until(times: "itertools.chain[float] | object", seconds: float) -> list[float]:
    return list(itertools.takewhile(lambda at: at < seconds, times))  # type: ignore[arg-type]


def _rare(model: int, seconds: float, seed: int) -> list[float]:
    return _until(poisson(1 / 90, 1000 * seed + model), seconds)


BURST_SHAPE: Final = 0.5
"""Shape of the gaps' gamma distribution in the workload generator that BurstGPT's authors publish
(github.com/HPMLL/BurstGPT, example/src/burstgpt/config.py: `gamma_shape`); 1 is Poisson."""


def _bursty(model: int, seconds: float, seed: int) -> list[float]:
    return _until(gamma(0.2 / (1 + model), BURST_SHAPE, 1000 * seed + model), seconds)


def _cycle(model: int, seconds: float, seed: int) -> list[float]:
    return [
        at for n in range(int(seconds / 140)) if (at := 140.0 * n + 20 * model + seed) < seconds
    ]


def _busy(model: int, seconds: float, seed: int) -> list[float]:
    return _until(poisson(2.0 if model < 2 else 1 / 120, 1000 * seed + model), seconds)


CASES: Final[Mapping[str, Case]] = {
    "rare": Case("12 models once in 90 s, 6 fit, 3 may sleep", 12, 6, 3, _rare),
    "bursty": Case(
        "12 models, 4 fit, 3 may sleep; Zipf's rates of 0.2/s and less, BurstGPT's gamma gaps",
        12, 4, 3, _bursty,
    ),
    "cycle": Case("7 models in turns, 20 s apart, 6 fit, none may sleep", 7, 6, 0, _cycle),
    "busy": Case("2 models that never idle fill the device, 4 rare ones ask", 6, 2, 2, _busy),
}  # fmt: skip


@dataclasses.dataclass(slots=True)
class Model:
    """One model: its level (0 awake, 1 asleep, STOPPED), and since when or until when."""

    name: str
    level: int = STOPPED
    since: float = 0.0  # when it serves, once it is awake
    waiting: list[float] = dataclasses.field(default_factory=list)
    ends: list[float] = dataclasses.field(default_factory=list)
    last: float = float("-inf")
    popularity: Popularity = dataclasses.field(default_factory=Popularity)
    leaving: int | None = None  # the level that it goes to once its requests have ended


@dataclasses.dataclass(frozen=True, slots=True)
class Times:
    """Seconds that a start and a wake take, and a plan before a start."""

    start: float
    wake: float
    plan: float = 0.0

    def ready(self, level: int) -> float:
        """Return the seconds from room to serving, from a level."""
        return self.wake if level == 1 else self.start + self.plan


Policy = Callable[[list[Model], dict[str, Room], float, Times], None]


def _free(models: Sequence[Model], total: Mapping[str, Room]) -> dict[str, Room]:
    held = sum({0: HOLDS, 1: ASLEEP}.get(m.level, 0) for m in models)
    weights = sum(WEIGHTS for m in models if m.level == 1 or m.leaving == 1)
    return {
        "gpu": total["gpu"] - Room(held),
        "host": total["host"] - Room(weights),
    }


def _leave(model: Model, level: int, now: float) -> None:
    """Step down: at once if nothing runs, else when it has ended."""
    model.leaving = level if any(end > now for end in model.ends) else None
    if model.leaving is None:
        model.level = level


def ours(models: list[Model], free: dict[str, Room], now: float, times: Times) -> None:
    """Act on `step_down.readiness` as the controller does."""
    asking = [m for m in models if m.waiting and m.level and m.leaving is None]
    if not asking:
        return
    waiters = []
    for model in asking:
        own = {1: (ASLEEP, WEIGHTS), STOPPED: (0, 0)}[model.level]
        takes = ("gpu", Room(HOLDS - own[0])), ("host", NO_ROOM - Room(own[1]))
        waited, ready = now - model.waiting[0], times.ready(model.level)
        waiters.append(Waiter(model.name, (RoomNeed(takes),), waited, ready))
    residents = []
    for model in models:
        if model.level == STOPPED or model.leaving is not None:
            continue
        is_busy = bool(model.waiting) or any(end > now for end in model.ends)
        idle = 0.0 if is_busy else now - model.last
        rate = expected_rate(model.popularity.req_per_s(now, HALF_LIFE_SECONDS), idle)
        start = times.ready(STOPPED)
        if model.level == 1:
            had = 0.0 if model.waiting else float("inf")
            freed = ("gpu", Room(ASLEEP)), ("host", Room(WEIGHTS))
            steps: tuple[StepDown, ...] = (StepDown(STOPPED, start - times.wake, freed),)
        else:
            had = max(0.0, now - model.since)
            sleep = ("gpu", Room(HOLDS - ASLEEP)), ("host", Room(-WEIGHTS))
            steps = (
                StepDown(1, times.wake, sleep),
                StepDown(STOPPED, start, (("gpu", Room(HOLDS)),)),
            )
        residents.append(Resident(model.name, idle, rate, had, start, steps))
    by_name = {model.name: model for model in models}
    for grant in readiness(waiters, residents, free, least_idle_seconds=LEAST_IDLE).granted:
        for name, step in grant.steps:
            _leave(by_name[name], step.level, now)
        _begin(by_name[grant.model], now, times)


def swap(models: list[Model], free: dict[str, Room], now: float, times: Times) -> None:
    """Load first come, first served; the longest unused idle models make room."""
    for model in sorted((m for m in models if m.waiting and m.level), key=lambda m: m.waiting[0]):
        while free["gpu"].memory_bytes < HOLDS - (ASLEEP if model.level == 1 else 0):
            others = [m for m in models if m is not model and not m.waiting]
            idle = [m for m in others if now >= m.since and all(end <= now for end in m.ends)]
            awake = sorted((m for m in idle if m.level == 0), key=lambda m: m.last)
            asleep = sorted((m for m in idle if m.level == 1), key=lambda m: m.last)
            if awake and free["host"].memory_bytes < WEIGHTS and asleep:
                asleep[0].level = STOPPED
                free["host"] += Room(WEIGHTS)
                free["gpu"] += Room(ASLEEP)
            elif awake and free["host"].memory_bytes >= WEIGHTS:
                awake[0].level = 1
                free["host"] -= Room(WEIGHTS)
                free["gpu"] += Room(HOLDS - ASLEEP)
            elif awake or asleep:
                gone = (awake or asleep)[0]
                free["gpu"] += Room(HOLDS if gone.level == 0 else ASLEEP)
                free["host"] += Room(WEIGHTS if gone.level == 1 else 0)
                gone.level = STOPPED
            else:
                return  # who came first is not passed
        free["gpu"] -= Room(HOLDS - (ASLEEP if model.level == 1 else 0))
        free["host"] += Room(WEIGHTS if model.level == 1 else 0)
        _begin(model, now, times)


def _begin(model: Model, now: float, times: Times) -> None:
    model.since = now + times.ready(model.level)
    model.level = 0


def run(
    case: Case, policy: Policy, times: Times, seconds: float, seed: int
) -> tuple[list[float], int, int]:
    """Return the seconds to the first token of each request, how many were lost, and starts."""
    models = [Model(f"m{n}") for n in range(case.models)]
    arrivals = sorted((at, n) for n in range(case.models) for at in case.arrivals(n, seconds, seed))
    total = {
        "gpu": Room(case.fit * HOLDS + (case.models - case.fit) * ASLEEP),
        "host": Room(case.sleep * WEIGHTS),
    }
    first: list[float] = []
    lost = starts = position = 0
    for tick in range(int((seconds + 2 * GIVES_UP_SECONDS) / STEP_SECONDS)):
        now = tick * STEP_SECONDS
        while position < len(arrivals) and arrivals[position][0] <= now:
            at, number = arrivals[position]
            model = models[number]
            model.waiting.append(at)
            model.popularity = model.popularity.with_requests(1, at, HALF_LIFE_SECONDS)
            position += 1
        for model in models:
            if model.leaving is not None and all(end <= now for end in model.ends):
                model.level, model.leaving = model.leaving, None
            if model.waiting and model.level == 0 and model.leaving is None and now >= model.since:
                first += [now - at for at in model.waiting]
                model.ends = [end for end in model.ends if end > now]
                model.ends += [now + ANSWER_SECONDS] * len(model.waiting)
                model.waiting, model.last = [], now + ANSWER_SECONDS
            lost += sum(now - at > GIVES_UP_SECONDS for at in model.waiting)
            model.waiting = [at for at in model.waiting if now - at <= GIVES_UP_SECONDS]
        if any(model.waiting for model in models):
            before = {model.name for model in models if model.level == STOPPED}
            free = _free(models, total)
            policy(models, free, now, times)
            starts += sum(m.level == 0 and m.name in before for m in models)
    return first, lost, starts


def main(words: Sequence[str] | None = None) -> int:
    """Run the chosen cases, and print a row for each arm: medians over the seeds."""
    parser = options(__doc__)
    parser.add_argument("--cases", default=",".join(CASES), help="some of " + ", ".join(CASES))
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=5)
    for name, seconds in (("forked", 2.4), ("by-hand", 17.5), ("wake", 1.6), ("control", 1.7)):
        parser.add_argument(f"--{name}", type=float, default=seconds)
    parser.add_argument("--no-sleep", action="store_true", help="as on a CPU")
    given = parser.parse_args(words)
    known = {n: dataclasses.replace(c, sleep=0) if given.no_sleep else c for n, c in CASES.items()}
    arms: Mapping[str, tuple[Policy, Times]] = {
        "ours": (ours, Times(given.forked, given.wake, given.control)),
        "ours by hand": (ours, Times(given.by_hand, given.wake, given.control)),
        "swap": (swap, Times(given.by_hand, given.wake)),
    }
    for name in chosen(parser, "--cases", given.cases, CASES):
        print(f"\n{name}: {known[name].about}", flush=True)
        for arm, (policy, times) in arms.items():
            runs = [
                run(known[name], policy, times, 3600 * given.hours, s) for s in range(given.seeds)
            ]
            within = [sum(t <= 60 for t in f) / (len(f) + lost) for f, lost, _ in runs]
            print(
                f"  {arm:12}  within 60 s {statistics.median(within):6.1%}  TTFT"
                f"  mean {statistics.median(statistics.fmean(f) for f, _, _ in runs):5.2f}"
                f"  p95 {statistics.median(percentile(sorted(f), 0.95) for f, _, _ in runs):5.1f}"
                f"  p99 {statistics.median(percentile(sorted(f), 0.99) for f, _, _ in runs):5.1f} s"
                f"  lost {sum(lost for _, lost, _ in runs)}"
                f"  starts {statistics.median(s for _, _, s in runs):.0f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())

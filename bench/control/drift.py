"""Measures how soon drift is found, and how often an alarm is false.

    python -m bench.control.drift                    windows until an alarm, on synthetic windows
    python -m bench.control.drift --loads            predictions at any load, on an engine simulated
                                                   step by step

Windows are lognormal about a true ratio of measured to predicted, with the given scatter of one
window; "bursty" is 3 % with every fourth window three times as noisy. The bench reads no clock:
figures are the same on every machine.
"""

import math
import random
from collections.abc import Callable, Iterator

from bench.command import options
from partitiond.core.drift.detection import Comparison, Figure, Track, Verdict, step
from partitiond.core.drift.load import expected
from tests.core.drift.test_load import OUTPUT, PROMPT, poisson, profile_of_it, run, seen

TOLERANCE = 0.07
"""Tolerance of a measured profile: the plan's 5 %, and a half-width of 2 %."""
RATIOS = (1.0, 1.035, 1.07, 1.1, 1.15, 1.2, 1.3, 1.5)
WINDOWS = 300
REQUESTS = 30
RUNS = 400

Noise = Callable[[random.Random], float]


def noises() -> Iterator[tuple[str, Noise]]:
    for scatter in (0.01, 0.03, 0.05, 0.1):
        yield f"{scatter:.0%}", lambda chance, s=scatter: chance.gauss(0.0, s)  # type: ignore[misc]
    yield "bursty", lambda chance: chance.gauss(0.0, 0.03) * chance.choice((1, 1, 1, 3))


def first_alarm(ratio: float, noise: Noise, seed: int) -> int | None:
    chance, track = random.Random(seed), Track()
    for window in range(1, WINDOWS + 1):
        measured = ratio * math.exp(noise(chance))
        track = step(track, Comparison(Figure.PACE, 1.0, measured, TOLERANCE))
        if track.verdict is Verdict.SLOWER:
            return window
    return None


def alarms() -> None:
    print(f"Alarm within {WINDOWS} windows ({WINDOWS * REQUESTS:,} requests), {RUNS} runs each;")
    print(f"requests until it in half and in 95 % of those runs. Tolerance {TOLERANCE:.0%}.\n")
    print(f"{'scatter':>8} {'ratio':>6} {'alarms':>7} {'median':>8} {'95 %':>8}")
    for name, noise in noises():
        for ratio in RATIOS:
            found = sorted(n for s in range(RUNS) if (n := first_alarm(ratio, noise, s)))
            share = len(found) / RUNS
            half, most = (found[round(q * (len(found) - 1))] if found else 0 for q in (0.5, 0.95))
            times = f"{half * REQUESTS:8,} {most * REQUESTS:8,}" if found else f"{'-':>8} {'-':>8}"
            print(f"{name:>8} {ratio:6.3f} {share:7.1%} {times}")


def loads() -> None:
    profile = profile_of_it()
    print("Poisson arrivals at an engine of known step times, profiled in closed loop; measured by")
    print("predicted at the load that was seen, and what is tolerated beyond the profile's own.\n")
    heads = ("req/s", "batch", "pace", "TPOT", "TTFT", "tolerated", "TTFT's")
    print(" ".join(f"{head:>9}" for head in heads))
    for rate in (0.3, 1.0, 2.0, 3.0, 6.0, 8.0):
        for slower in (1.0, 1.4):
            done, end = run(poisson(rate, 600 / rate, 1), slower=slower)
            looks, pace, tpot, first = seen(done, end)
            wanted = expected(profile, looks, prompt_tokens=PROMPT, output_tokens=OUTPUT)
            assert wanted is not None
            cells = [
                f"{rate:.1f}",
                f"{wanted.batch:.2f}",
                f"{pace / wanted.token_seconds:.2f}",
                f"{tpot / wanted.tpot_seconds:.2f}",
                f"{first / wanted.first_seconds:.2f}",
                f"{wanted.tolerance:.1%}",
                f"{wanted.first_tolerance:.1%}",
            ]
            note = "   engine 1.4 times as slow" if slower > 1 else ""
            print(" ".join(f"{cell:>9}" for cell in cells) + note)


def main() -> None:
    if options(__doc__, loads=False).parse_args().loads:
        loads()
    else:
        alarms()


if __name__ == "__main__":
    main()

"""Asks many questions and lists those whose answers are wrong: `python -m tests.oracle`.

The planner is asked with the settings of the product, by the clock; `--deterministic` gives the
same answers each time. Questions are tiny, so every fourth is asked twice more as a large fleet is.
"""

import argparse
import collections
import sys
import time

from tests.oracle.judge import wrong
from tests.oracle.questions import question_of


def main() -> int:
    """1 where an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--deterministic", action="store_true", help="not by the clock")
    asked = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    began, bad = time.monotonic(), 0
    for seed in range(asked.first, asked.first + asked.questions):
        found = wrong(question_of(seed), deterministic=asked.deterministic)
        if seed % 4 == 0:
            for large in (1.0, 0.01):  # the last is a clock that has passed
                more = wrong(question_of(seed), deterministic=asked.deterministic, large=large)
                found += [f"{line} (as a large fleet, {large:g} s)" for line in more]
        bad += bool(found)
        counts.update({line.partition(":")[0] for line in found})
        for line in found:
            print(f"seed {seed}: {line}", flush=True)
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())) or "none of any kind"
    seconds = time.monotonic() - began
    print(f"{asked.questions} questions, {bad} answered wrongly ({kinds}), {seconds:.0f} s")
    return 1 if bad else 0


sys.exit(main())

"""Harms a fleet at random under load for a bounded time: `make soak PARTS=harm SECONDS=600`.

    python -m tests.soak [--seconds 600] [--seed N]

The soak runs real processes: a daemon, an endpoint, simulated engines on two simulated GPUs under
MPS. Streams run all the time. Faults are chosen at random, one after the other (the seed is
printed); after each the fleet must reach the state in its store by itself within five minutes. It
prints these times by kind of fault, and how requests ended. The exit code is 1 after any failure.
"""

import argparse
import collections
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from partitiond.platform.fault_points import VARIABLE
from tests.chaos.nursery import nursery
from tests.e2e.harness import Load
from tests.soak.fleet import HARM, MODELS, SoakFleet, Watch

ENDS = {"done": "ok", "refused": "refused", "error-event": "failed", "broken": "failed"}


def main() -> int:
    """Returns the exit code."""
    options = _options()
    print(f"seed {options.seed}, {options.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="pd-") as name:
        faults = Path(name) / "fault"
        faults.write_text("")
        with nursery({VARIABLE: f"@{faults}"}) as bed:
            fleet = SoakFleet(Path(name), bed, faults)
            try:
                return _soak(fleet, options.seconds, random.Random(options.seed))
            finally:
                fleet.host.heal()
                fleet.cleanup()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="how long to do harm")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    return parser.parse_args()


def _soak(fleet: SoakFleet, seconds: float, rng: random.Random) -> int:
    fleet.begin_to_serve()
    times: dict[str, list[float]] = collections.defaultdict(list)
    load = Load(fleet.base_url, dict.fromkeys(MODELS, 2), tokens=16)
    problem = ""
    began = time.monotonic()
    with Watch(fleet) as watch, load.running():
        while not problem and time.monotonic() - began < seconds:
            harm = rng.choice(HARM)
            try:
                harm(fleet, rng)
                taken = fleet.require_well()
                times[harm.__name__].append(taken)
            except AssertionError as error:
                problem = f"{harm.__name__}: {error}"
            print(f"{time.monotonic() - began:6.0f} s  {harm.__name__}", file=sys.stderr)
    _report(times, load, watch, time.monotonic() - began)
    problem = problem or watch.problem
    if not problem:
        fleet.require_clean()
    print(f"FAILED: {problem}" if problem else "all is well, and nothing is left", flush=True)
    return 1 if problem else 0


def _report(times: dict[str, list[float]], load: Load, watch: Watch, seconds: float) -> None:
    count = sum(map(len, times.values()))
    print(f"\n{count} faults in {seconds:.0f} s; engines were counted {watch.looks} times\n")
    print(f"{'fault':34}{'times':>6}{'median s':>10}{'longest s':>11}")
    for name, taken in sorted(times.items()):
        words = name.replace("_", " ")
        print(f"{words:34}{len(taken):6}{statistics.median(taken):10.2f}{max(taken):11.2f}")
    ends = collections.Counter(ENDS[outcome.ended] for outcome in load.outcomes)
    codes = collections.Counter(o.detail[:3] for o in load.outcomes if o.ended == "refused")
    print(f"\nrequests: {ends['ok']} ok, {ends['refused']} refused {dict(codes)}, "
          f"{ends['failed']} failed in the middle of a fault")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

"""Harms a fleet at random under load for a bounded time: `make soak PARTS=harm SECONDS=600`.

    python -m tests.soak [--hosts] [--ray] [--seconds 600] [--seed N]

The soak runs real processes: a daemon, an endpoint, simulated engines on two simulated GPUs under
MPS; with `--hosts` a head and two agents, each with an endpoint and GPUs, which with
`--ray` reach each other by real Ray. Streams run all the time.
Faults are chosen at random, one after the other (the seed is printed); after each the fleet must
reach the state in its store by itself. It prints these times by kind of fault, and how requests
ended. The exit code is 1 after any failure.
"""

import argparse
import collections
import contextlib
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.cluster.ray_fixtures import managed_python
from tests.e2e.harness import Load
from tests.soak import fleet, hosts

ENDS = {"done": "ok", "refused": "refused", "error-event": "failed", "broken": "failed"}
Harmed = fleet.SoakFleet | hosts.SoakHosts


class Watch:
    """Looks all the time whether an engine is there twice."""

    def __init__(self, look: Callable[[], object]) -> None:
        self._look_once = look
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.looks = 0
        self.problem = ""

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.2):
            try:
                self._look_once()
            except AssertionError as error:
                self.problem = self.problem or str(error)
            self.looks += 1


def main() -> int:
    """Returns the exit code."""
    options = _options()
    print(f"seed {options.seed}, {options.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="pd-") as name:
        with _harmed(Path(name), options) as harmed:
            return _soak(harmed, options.seconds, random.Random(options.seed))


@contextlib.contextmanager
def _harmed(folder: Path, options: argparse.Namespace) -> Iterator[Harmed]:
    made: Harmed
    if options.ray:
        made = hosts.SoakRayHosts(folder, managed_python())
    elif options.hosts:
        made = hosts.SoakHosts(folder)
    else:
        made = fleet.SoakFleet(folder)
    try:
        yield made
    finally:
        made.cleanup()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="how long to do harm")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--hosts", action="store_true", help="three hosts in place of one")
    parser.add_argument("--ray", action="store_true", help="three hosts, over real Ray")
    return parser.parse_args()


def _soak(harmed: Harmed, seconds: float, rng: random.Random) -> int:
    harmed.begin_to_serve()
    times: dict[str, list[float]] = collections.defaultdict(list)
    problem = ""
    began = time.monotonic()
    acts = harmed.acts()
    with Watch(harmed.look) as watch, harmed.load() as loads:
        while not problem and time.monotonic() - began < seconds:
            harm = rng.choice(acts)
            try:
                harm(harmed, rng)
                taken = harmed.require_well()
                times[harm.__name__].append(taken)
            except AssertionError as error:
                problem = f"{harm.__name__}: {error}"
            print(f"{time.monotonic() - began:6.0f} s  {harm.__name__}", file=sys.stderr)
    _report(times, loads, watch, time.monotonic() - began)
    problem = problem or watch.problem
    if not problem:
        harmed.require_clean()
    print(f"FAILED: {problem}" if problem else "all is well, and nothing is left", flush=True)
    return 1 if problem else 0


def _report(times: dict[str, list[float]], loads: list[Load], watch: Watch, seconds: float) -> None:
    count = sum(map(len, times.values()))
    print(f"\n{count} faults in {seconds:.0f} s; engines were counted {watch.looks} times\n")
    print(f"{'fault':34}{'times':>6}{'median s':>10}{'longest s':>11}")
    for name, taken in sorted(times.items()):
        words = name.replace("_", " ")
        print(f"{words:34}{len(taken):6}{statistics.median(taken):10.2f}{max(taken):11.2f}")
    outcomes = [outcome for load in loads for outcome in load.outcomes]
    ends = collections.Counter(ENDS[outcome.ended] for outcome in outcomes)
    codes = collections.Counter(o.detail[:3] for o in outcomes if o.ended == "refused")
    print(f"\nrequests: {ends['ok']} ok, {ends['refused']} refused {dict(codes)}, "
          f"{ends['failed']} failed in the middle of a fault")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

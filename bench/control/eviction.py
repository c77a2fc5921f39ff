"""Compares orders of evicting idle models for requested ones: our price, LRU, LFU and random.

    python -m bench.control.eviction [--seeds 5] [--hours 12] [--models 40] [--json FILE]

The simulation has one device and many registered models; models fit together while the sum of
their memory is at most the device's. Requests come as Poisson per model, the models' rates by Zipf
(exponent 1), half of the models in bursts instead (on for ten minutes, off for fifty, six times
the rate). A request for a model without a replica waits until `core.replica.eviction.victims_for`
has made room, as in the daemon, and until the model has started; sizes and start times differ by
model. A hit is a request that finds its model serving.

Policies differ only in the order of eviction: `price` is ours (expected rate x start seconds, over
the memory that is freed), `lru` evicts the longest idle first, `lfu` the lowest rate first,
`random` by chance. Figures are medians over seeds; waiting time is paired by seed against LRU.
"""

import argparse
import dataclasses
import heapq
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from partitiond.core.replica.eviction import (
    Order,
    Popularity,
    Resident,
    Room,
    RoomNeed,
    by_idle,
    by_price,
    expected_rate,
    victims_for,
)

DEVICE: Final = "device"
HALF_LIFE: Final = 900.0
LEAST_IDLE: Final = 3.0
CASES: Final = ("equal", "sizes", "sizes and starts")
"""Whether models differ in memory, and in the seconds that a start takes."""


@dataclasses.dataclass(frozen=True)
class Model:
    """One registered model."""

    name: str
    memory: int
    start_seconds: float
    rate: float
    bursts: bool


@dataclasses.dataclass
class Held:
    """A model that holds memory.

    Attributes:
        ready_at: when the model serves.
        until: when its last request ends.
        asked_at: when the model was last requested.
    """

    ready_at: float
    until: float = 0.0
    asked_at: float = 0.0


@dataclasses.dataclass(frozen=True)
class Figures:
    """The results of one run."""

    hit_rate: float
    mean_wait: float
    p95_wait: float
    starts: int


def models(count: int, total_rate: float, case: str, draw: random.Random) -> list[Model]:
    """Registered models, the most popular first."""
    weights = [1 / (rank + 1) for rank in range(count)]
    scale = total_rate / sum(weights)
    made = []
    for rank, weight in enumerate(weights):
        memory = draw.choice((1, 2, 4, 8)) if "sizes" in case else 3
        start = draw.choice((5.0, 20.0, 60.0)) if "starts" in case else 20.0
        made.append(Model(f"m{rank}", memory, start, weight * scale, draw.random() < 0.5))
    return made


def arrivals(model: Model, seconds: float, draw: random.Random) -> Iterator[float]:
    """The times at which requests for the model arrive."""
    at, offset = 0.0, draw.uniform(0, 3600)
    while True:
        at += draw.expovariate(model.rate * (6 if model.bursts else 1))
        if at >= seconds:
            return
        if not model.bursts or (at + offset) % 3600 < 600:
            yield at


class Host:
    """One device in simulated time."""

    def __init__(self, models: Sequence[Model], memory: int, order: Order) -> None:
        self._models = {model.name: model for model in models}
        self._memory = memory
        self._order = order
        self._held: dict[str, Held] = {}
        self._popularity = {model.name: Popularity() for model in models}
        self._waiting: list[tuple[float, str, float]] = []
        self.waits: list[float] = []
        self.hits = 0
        self.starts = 0

    def run(self, requests: Sequence[tuple[float, str, float]]) -> Figures:
        """Handle all requests (time, model, duration) one after the other."""
        ends: list[float] = []
        for at, name, seconds in requests:
            while ends and ends[0] <= at:
                self._try_waiting(heapq.heappop(ends), ends)
            known = self._popularity[name]
            self._popularity[name] = known.with_requests(1, at, HALF_LIFE)
            self._waiting.append((at, name, seconds))
            self._try_waiting(at, ends)
        while ends:
            self._try_waiting(heapq.heappop(ends), ends)
        waits = sorted(self.waits)
        return Figures(
            self.hits / len(waits),
            statistics.fmean(waits),
            waits[math.ceil(0.95 * len(waits)) - 1],
            self.starts,
        )

    def _try_waiting(self, now: float, ends: list[float]) -> None:
        still = []
        for asked, name, seconds in self._waiting:
            if not self._serve(now, asked, name, seconds, ends):
                still.append((asked, name, seconds))
        if still and not ends:
            heapq.heappush(ends, now + LEAST_IDLE)
        self._waiting = still

    def _serve(
        self, now: float, asked: float, name: str, seconds: float, ends: list[float]
    ) -> bool:
        held = self._held.get(name)
        if held is None:
            if not self._make_room(now, name):
                return False
            held = self._held[name] = Held(now + self._models[name].start_seconds)
            self.starts += 1
        begins = max(now, held.ready_at)
        held.until = max(held.until, begins + seconds)
        held.asked_at = now
        self.waits.append(begins - asked)
        self.hits += begins <= asked
        # A model must be idle for a while before it can be evicted: try again at that time.
        heapq.heappush(ends, begins + seconds + LEAST_IDLE)
        return True

    def _make_room(self, now: float, name: str) -> bool:
        free = Room(self._memory - sum(self._models[other].memory for other in self._held))
        found = victims_for(
            [RoomNeed(DEVICE, Room(self._models[name].memory))],
            lambda _: free,
            [self._resident(now, other, held) for other, held in self._held.items()],
            least_idle_seconds=LEAST_IDLE,
            order=self._order,
        )
        for victim in found or ():
            del self._held[victim]
        return found is not None

    def _resident(self, now: float, name: str, held: Held) -> Resident:
        model = self._models[name]
        idle = max(0.0, now - max(held.until, held.ready_at))
        popular = self._popularity[name].req_per_s(now, HALF_LIFE)
        return Resident(
            name,
            idle,
            expected_rate(popular, idle),
            model.start_seconds,
            ((DEVICE, Room(model.memory)),),
            busy=held.until > now or held.ready_at > now,
        )


def orders(seed: int) -> dict[str, Order]:
    """The orders that are compared."""
    draw = random.Random(f"order {seed}")

    def by_chance(_resident: Resident, _device: str) -> float:
        return draw.random()

    def by_rate(resident: Resident, _device: str) -> float:
        return resident.rate_req_per_s

    return {"price": by_price, "lru": by_idle, "lfu": by_rate, "random": by_chance}


def trace(
    registered: Sequence[Model], seconds: float, draw: random.Random
) -> list[tuple[float, str, float]]:
    """Requests of all models in order of time."""
    found = [
        (at, model.name, draw.expovariate(1 / 2.0))
        for model in registered
        for at in arrivals(model, seconds, draw)
    ]
    return sorted(found)


def run(case: str, seed: int, count: int, hours: float) -> dict[str, Figures]:
    """One case with one seed under every policy: the same models and requests."""
    draw = random.Random(f"{case} {seed}")
    registered = models(count, 0.15, case, draw)
    requests = trace(registered, hours * 3600, draw)
    memory = max(8, sum(model.memory for model in registered) // 5)
    return {
        name: Host(registered, memory, order).run(requests) for name, order in orders(seed).items()
    }


def median(values: Sequence[Figures], of: Callable[[Figures], float]) -> float:
    """Median of a figure over seeds."""
    return statistics.median(of(value) for value in values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 if our order waits longer than LRU in some case."""
    parser = argparse.ArgumentParser(description="Compare orders of eviction.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--hours", type=float, default=12.0)
    parser.add_argument("--models", type=int, default=40)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    found: dict[str, dict[str, list[Figures]]] = {}
    print(f"{given.models} models, a fifth of their memory, {given.hours:g} h, {given.seeds} seeds")
    print(f"{'case':18s} {'order':8s} {'hits':>7s} {'wait':>8s} {'p95':>8s} {'starts':>7s}  vs LRU")
    worse = False
    for case in CASES:
        runs = [run(case, seed, given.models, given.hours) for seed in range(given.seeds)]
        found[case] = {name: [one[name] for one in runs] for name in runs[0]}
        for name, figures in found[case].items():
            against = statistics.median(
                one.mean_wait / lru.mean_wait
                for one, lru in zip(figures, found[case]["lru"], strict=True)
            )
            worse = worse or (name == "price" and against > 1.02)
            print(
                f"{case:18s} {name:8s} {median(figures, lambda f: f.hit_rate):7.1%} "
                f"{median(figures, lambda f: f.mean_wait):6.2f} s "
                f"{median(figures, lambda f: f.p95_wait):6.1f} s "
                f"{median(figures, lambda f: f.starts):7.0f}  x {against:.2f}"
            )
    if given.json is not None:
        plain = {
            case: {name: [dataclasses.asdict(f) for f in figures] for name, figures in by.items()}
            for case, by in found.items()
        }
        given.json.write_text(json.dumps(plain, indent=1))
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())

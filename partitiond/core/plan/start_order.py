"""Orders the starts of engines: those that restore most goodput per second come first. Pure.

On each device one engine is taken to start at a time; devices start theirs in parallel. The loss on
the way is the integral over time of the requests/s that will be served in the end and are not
served yet. On one device, with gains that do not depend on each other, the loss is least if engines
start by falling gain / seconds (Smith's rule for the weighted sum of completion times). Here a
further replica of a model gains only what the model's demand still lacks, so the gains are computed
anew after each choice, device by device as they become free.
"""

import dataclasses
import heapq
from collections.abc import Mapping, Sequence
from typing import Final

from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.record import Placement

_NOTHING: Final[Mapping[str, float]] = {}
USUAL_SECONDS: Final = 30.0
"""Duration of a start of which nothing is known; it is alike for all, so it decides nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class StartGains:
    """The gains of starting engines, and how long the starts take.

    Attributes:
        demands: wanted requests/s, by model; a model that is not listed takes all there is.
        weights: value of one request/s, by model; 1 if not listed.
        seconds: time until the engine of a replica serves, by replica id.
    """

    demands: Mapping[str, float] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def served(self, model: str, capacity_req_per_s: float) -> float:
        """Return the part of a model's capacity that counts, in weighted requests/s."""
        wanted = self.demands.get(model)
        served = capacity_req_per_s if wanted is None else min(wanted, capacity_req_per_s)
        return served * self.weights.get(model, 1.0)

    def takes(self, placement: Placement) -> float:
        """Return seconds until its engine serves; always above 0."""
        return max(1e-3, self.seconds.get(placement.replica_id, USUAL_SECONDS))


NO_GAINS: Final = StartGains()


def start_order(
    missing: Sequence[Placement],
    gains: StartGains = NO_GAINS,
    serving: Mapping[str, float] = _NOTHING,
    replaced: Mapping[str, float] = _NOTHING,
) -> tuple[Placement, ...]:
    """Return the placements in the order in which they should start, on each device and so overall.

    Of equal gains a model that has nothing goes first, then the earlier one in `missing`.

    Args:
        missing: placements that have to start.
        gains: gains and durations of starts.
        serving: requests/s that models can serve already, or will from starts under way; by model.
        replaced: the part of these that ends once a replica serves in its new place; by replica id.
    """
    coming = dict(serving)
    waiting = by_key((placement.device_id, placement) for placement in missing)
    free = [(0.0, number, mine) for number, mine in enumerate(waiting.values())]
    order: list[Placement] = []
    while free:
        at, number, mine = free[0]  # the device that is free first
        ranks = [_rank(p, gains, coming, replaced.get(p.replica_id, 0.0)) for p in mine]
        chosen = mine.pop(ranks.index(min(ranks)))
        order.append(chosen)
        had = coming.get(chosen.model, 0.0) - replaced.get(chosen.replica_id, 0.0)
        coming[chosen.model] = had + chosen.candidate.capacity_req_per_s
        if mine:
            heapq.heapreplace(free, (at + gains.takes(chosen), number, mine))
        else:
            heapq.heappop(free)
    return tuple(order)


def _rank(
    placement: Placement, gains: StartGains, coming: Mapping[str, float], replaced: float
) -> tuple[float, bool]:
    model = placement.model
    had = coming.get(model, 0.0)
    more = gains.served(model, had - replaced + placement.candidate.capacity_req_per_s)
    gain = more - gains.served(model, had)
    return -gain / gains.takes(placement), model in coming

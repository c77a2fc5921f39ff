"""In which order engines start: what brings most goodput back by the second comes first. Pure.

One engine starts at a time on a device, devices side by side. What is lost on the way is the
integral over time of the requests/s that will be served in the end and are not yet. On one device,
with gains that do not depend on each other, the least is lost when engines start by falling gain /
seconds (Smith's rule for the weighted sum of completion times). Here a further replica of a model
gains only what its demand still lacks, so the gains are looked at anew after each choice, device
by device as they come free.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.plan import Placement

_NOTHING: Final[Mapping[str, float]] = {}
USUAL_SECONDS: Final = 30.0
"""Of a start of which nothing is known; alike for all, it decides nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stakes:
    """What is to be won by starting engines, and how long that takes.

    Attributes:
        demands: requests/s that are wanted, by model; who is not listed takes all there is.
        weights: what one request/s counts, by model; 1 where not listed.
        seconds: until the engine of a replica serves, by replica id.
    """

    demands: Mapping[str, float] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def served(self, model: str, capacity_req_per_s: float) -> float:
        """What counts of a model's capacity, in weighted requests/s."""
        wanted = self.demands.get(model)
        served = capacity_req_per_s if wanted is None else min(wanted, capacity_req_per_s)
        return served * self.weights.get(model, 1.0)

    def takes(self, placement: Placement) -> float:
        """Seconds until its engine serves; never nothing."""
        return max(1e-3, self.seconds.get(placement.replica_id, USUAL_SECONDS))


NO_STAKES: Final = Stakes()


def start_order(
    missing: Sequence[Placement],
    stakes: Stakes = NO_STAKES,
    serving: Mapping[str, float] = _NOTHING,
    replaced: Mapping[str, float] = _NOTHING,
) -> tuple[Placement, ...]:
    """The placements in the order in which they should start, of each device and so of all.

    Of equal gains a model that has nothing goes first, then who comes first in `missing`.

    Args:
        missing: what has to start.
        stakes: what is to be won.
        serving: requests/s that models can serve already, or will from starts under way; by model.
        replaced: of them what ends once a replica serves in its new place; by replica id.
    """
    coming = dict(serving)
    waiting: dict[str, list[Placement]] = {}
    for placement in missing:
        waiting.setdefault(placement.device_id, []).append(placement)
    free_at = dict.fromkeys(waiting, 0.0)
    order: list[Placement] = []
    while waiting:
        device_id = min(waiting, key=lambda device: free_at[device])
        mine = waiting[device_id]
        ranks = [_rank(p, stakes, coming, replaced.get(p.replica_id, 0.0)) for p in mine]
        chosen = mine.pop(ranks.index(min(ranks)))
        order.append(chosen)
        free_at[device_id] += stakes.takes(chosen)
        had = coming.get(chosen.model, 0.0) - replaced.get(chosen.replica_id, 0.0)
        coming[chosen.model] = had + chosen.candidate.capacity_req_per_s
        if not mine:
            del waiting[device_id]
    return tuple(order)


def _rank(
    placement: Placement, stakes: Stakes, coming: Mapping[str, float], replaced: float
) -> tuple[float, bool]:
    model = placement.model
    had = coming.get(model, 0.0)
    more = stakes.served(model, had - replaced + placement.candidate.capacity_req_per_s)
    gain = more - stakes.served(model, had)
    return -gain / stakes.takes(placement), model in coming


def lost_requests(
    order: Iterable[Placement],
    stakes: Stakes = NO_STAKES,
    serving: Mapping[str, float] = _NOTHING,
) -> float:
    """Weighted requests that are not served until all of these have started in this order.

    What is served in the end, minus what is served on the way, over the time until then.
    """
    clocks: dict[str, float] = {}
    ready: list[tuple[float, Placement]] = []
    for placement in order:
        device_id = placement.device_id
        clocks[device_id] = clocks.get(device_id, 0.0) + stakes.takes(placement)
        ready.append((clocks[device_id], placement))
    capacities = {p.model: serving.get(p.model, 0.0) for _, p in ready}
    final = dict(capacities)
    for _, placement in ready:
        final[placement.model] += placement.candidate.capacity_req_per_s
    missing = sum(stakes.served(m, c) - stakes.served(m, capacities[m]) for m, c in final.items())
    lost, before = 0.0, 0.0
    for at, placement in sorted(ready, key=lambda pair: pair[0]):
        lost += missing * (at - before)
        before, model = at, placement.model
        had = capacities[model]
        capacities[model] = had + placement.candidate.capacity_req_per_s
        missing -= stakes.served(model, capacities[model]) - stakes.served(model, had)
    return lost

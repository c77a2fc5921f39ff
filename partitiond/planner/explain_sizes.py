"""What speaks for the size that a model was given."""

from partitiond.core.plan import Candidate, Placement
from partitiond.planner.instance import Instance, Need


class Sizes:
    """What each size of each model serves per device; read off the instance once."""

    def __init__(self, instance: Instance) -> None:
        most = _most_per_device(instance)
        self._of: dict[int, dict[Candidate, float]] = {}
        for item in instance.items:
            self._of.setdefault(item.model, {})[item.candidate] = most[item.index]

    def why(self, need: Need, placements: list[Placement]) -> str | None:
        """That it gives the most per device, or that less would not do; None where it was chosen
        to fit beside the others, as most are."""
        per_device = self._of[need.model]
        chosen = placements[0].candidate
        sizes = len(per_device)
        if sizes <= 1:
            return "it has one size only"
        if per_device.get(chosen, 0.0) >= 0.98 * max(per_device.values()):
            return f"none of its {sizes} sizes serves more per device"
        wanted = need.rate / need.units
        if need.rated and len(placements) == 1 and chosen.capacity_req_per_s >= wanted:
            smaller = [
                c
                for c in per_device
                if c.memory_bytes < chosen.memory_bytes and c.capacity_req_per_s >= wanted
            ]
            if not smaller:
                return f"no smaller one of its {sizes} sizes covers the demand alone"
        return None


def _most_per_device(instance: Instance) -> list[float]:
    """Of each item: the rate of a device full of it, on the best kind and in the best mode."""
    most = [0.0] * len(instance.items)
    for group in instance.groups:
        for option, fit in zip(group.options, group.fits, strict=True):
            for index in fit:
                item = instance.items[index]
                limits = [option.max_items, group.memory_bytes // max(1, item.memory_bytes)]
                limits += [100 // item.sm] if item.sm else []
                limits += [group.cores // item.cores] if group.cores and item.cores else []
                most[index] = max(most[index], min(limits) * instance.rate(index, option))
    return most

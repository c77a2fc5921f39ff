"""What is left over: models without a rate fill it, by weight."""

from collections.abc import Iterable

from partitiond.planner.exact.objectives import SHARE_UNITS, reference_rate
from partitiond.planner.greedy import Guide
from partitiond.planner.instance import Need
from partitiond.planner.packing import Packing
from partitiond.planner.rules import lonely


def share_value(packing: Packing) -> float:
    """How good the shares are: the smallest weighted one counts most, then their sum."""
    shares = [_share(packing, need) for need in packing.instance.needs if not need.rated]
    weights = [need.weight for need in packing.instance.needs if not need.rated]
    if not shares:
        return 0.0
    lowest = min(s / w for s, w in zip(shares, weights, strict=True))
    return len(shares) * lowest + sum(shares) / 100


def _share(packing: Packing, need: Need) -> float:
    """Planned rate over what one device gives the model when it has it to itself."""
    unit = reference_rate(packing.instance, need)
    return packing.rates[need.model] * SHARE_UNITS / unit / SHARE_UNITS


def fill(packing: Packing, guide: Guide, devices: Iterable[int]) -> None:
    """Add replicas of models without a rate until none fits.

    The model with the smallest weighted share goes first. No replica is added where it would
    take a covered demand, or an SLO, below what was asked.
    """
    allowed = list(devices)
    needs = [need for need in packing.instance.needs if not need.rated]
    units = {need.model: reference_rate(packing.instance, need) for need in needs}
    while needs:
        need = min(
            needs, key=lambda n: (packing.rates[n.model] / units[n.model] / n.weight, n.model)
        )
        if not _add_best(packing, guide, need, allowed):
            needs.remove(need)


def _add_best(packing: Packing, guide: Guide, need: Need, allowed: list[int]) -> bool:
    """Add the replica that gains most per worth; False where none fits or none gains."""
    if packing.counts[need.model] >= need.max_replicas:
        return False
    entries = sorted(
        guide.entries[need.model], key=lambda e: (-e.rate / guide.of(e), e.item, e.group)
    )
    tried: set[tuple[int, int]] = set()
    for entry in entries:
        for index in allowed:
            if packing.loads[index].group == entry.group and (index, entry.item) not in tried:
                tried.add((index, entry.item))
                if add_if_harmless(packing, index, entry.item):
                    return True
    return False


def add_if_harmless(packing: Packing, index: int, item: int) -> bool:
    """Add an item, at a higher level if need be, if nobody's demand suffers and it gains."""
    load, instance = packing.loads[index], packing.instance
    option = packing.best_option(index, [*load.items, item])
    if option is None or not packing.pools_allow(index, item):
        return False
    model = instance.items[item].model
    if lonely(packing, index, model):
        return False
    before, lacking, old = packing.rates[model], len(packing.lacking()), load.option
    if old is not None and old != option:
        packing.rerun(index, option)
    packing.add(index, item, option)
    if packing.rates[model] > before and len(packing.lacking()) <= lacking:
        return True
    packing.remove(index, item)
    if old is not None and old != option:
        packing.rerun(index, old)
    return False

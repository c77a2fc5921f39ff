"""Compares plans by the kinds of device that they take, and by the prices at which each wins.

If nothing runs, the cost of devices decides between plans that serve everything. As the price of
one kind changes, the cost of each plan is a straight line.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

TRIFLE = 1e-6
"""Costs and prices this close, as a share, count as equal."""


@dataclasses.dataclass(frozen=True, slots=True)
class OnKinds:
    """The devices that a plan takes.

    Attributes:
        kinds: devices by hardware.
        price_per_hour: of all these devices.
        wins: a kind of device, and the prices between which this is the cheapest plan found.
    """

    kinds: Mapping[str, int]
    price_per_hour: float
    wins: tuple[str, float, float] | None = None

    @property
    def devices(self) -> int:
        """Number of devices of all kinds."""
        return sum(self.kinds.values())


def first_to_win(
    mine: OnKinds, found: Sequence[OnKinds], prices: Mapping[str, float]
) -> OnKinds | None:
    """Return the plan that becomes the cheapest with the smallest relative change of one price.

    Returns None if no price above zero of a single kind does that, as with plans that take the same
    devices and more.

    Args:
        mine: the plan that is the cheapest at these prices.
        found: other plans.
        prices: of one device of each kind.
    """
    others = [one for one in found if one.kinds != mine.kinds]
    wins = []
    for one, (kind, now) in itertools.product(others, prices.items()):
        low, high = _cheapest_between(one, [mine, *others], kind, now)
        if high - low > TRIFLE * now:
            change = max(low - now, now - high) / now
            wins.append((change, one.price_per_hour, kind, low, high, one))
    if not wins:
        return None
    *_, kind, low, high, one = min(wins, key=lambda win: win[:5])
    return dataclasses.replace(one, wins=(kind, low, high))


def _cheapest_between(
    one: OnKinds, rivals: Sequence[OnKinds], kind: str, now: float
) -> tuple[float, float]:
    """Return the prices of a kind between which a plan costs no more than any of its rivals."""
    low, high = 0.0, math.inf
    for rival in rivals:
        more = one.kinds.get(kind, 0) - rival.kinds.get(kind, 0)
        lead = one.price_per_hour - rival.price_per_hour
        if more > 0:
            high = min(high, now - lead / more)
        elif more < 0:
            low = max(low, now - lead / more)
        elif lead > TRIFLE * rival.price_per_hour:
            high = 0.0
    return low, high


def kinds_told(plan: OnKinds) -> str:
    """Describe the devices of a plan in words."""
    return " and ".join(f"{count}x {kind}" for kind, count in sorted(plan.kinds.items()))


def between_told(low: float, high: float) -> str:
    """Describe a range of prices in words, with three digits that are rounded into the range."""
    least, most = _rounded(low, math.ceil), _rounded(high, math.floor)
    if low <= 0:
        return f"below {most:.4g}"
    if math.isinf(high):
        return f"above {least:.4g}"
    if least >= most:
        return f"between {low:.7g} and {high:.7g}"
    return f"between {least:.4g} and {most:.4g}"


def _rounded(price: float, whole: Callable[[float], int]) -> float:
    """Round to three digits; a price without more digits stays, despite float errors."""
    if price <= 0 or math.isinf(price):
        return price
    step = 10.0 ** (math.floor(math.log10(price)) - 2)
    steps = price / step
    return step * (round(steps) if abs(steps - round(steps)) < TRIFLE else whole(steps))

"""What tokens cost on a device, from prices that the user gives."""

import dataclasses
import math
from collections.abc import Mapping

from partitiond.core.errors import SpecError
from partitiond.core.hardware import HardwareSpec, find_hardware


@dataclasses.dataclass(frozen=True, slots=True)
class Prices:
    """Prices per device and hour.

    Attributes:
        per_hour: by hardware key.
        currency: what they are in; for display.
    """

    per_hour: Mapping[str, float]
    currency: str = ""

    def of(self, hardware: HardwareSpec) -> float | None:
        """The price of one device an hour; None where the user gave none."""
        return self.per_hour.get(hardware.key)


def prices_from(table: Mapping[str, object]) -> Prices:
    """Prices from a parsed TOML file.

    Args:
        table: `[price_per_hour]` with a number for each kind of hardware, and on the top level
            optionally `currency = "EUR"`.

    Raises:
        SpecError: a key is not known, or a price is no positive number.
    """
    unknown = sorted(set(table) - {"price_per_hour", "currency"})
    listed = table.get("price_per_hour")
    if unknown or not isinstance(listed, Mapping):
        raise SpecError(
            f"the prices hold {unknown[0]!r}, which is not known."
            if unknown
            else "the prices have no table [price_per_hour].",
            hint="Write [price_per_hour] and below it a line such as l4-24gb = PRICE for each "
            'device; optionally above it currency = "EUR".',
        )
    currency = table.get("currency", "")
    if not isinstance(currency, str):
        raise SpecError("currency must be a text.", hint='Write currency = "EUR".')
    found: dict[str, float] = {}
    for name, price in listed.items():
        number = isinstance(price, int | float) and not isinstance(price, bool)
        if not number or not math.isfinite(price) or price <= 0:
            raise SpecError(
                f"the price of {name} must be a number above 0, got {price!r}.",
                hint="Give what one device costs per hour.",
            )
        found[find_hardware(name)[0].key] = float(price)
    return Prices(found, currency)


def cost_per_million(price_per_hour: float, tokens_per_s: float) -> float | None:
    """What a million tokens cost at this rate; None where there is no rate."""
    if tokens_per_s <= 0:
        return None
    return price_per_hour / (tokens_per_s * 3600) * 1e6

"""Computes what tokens cost on a device, from prices that the user gives."""

import dataclasses
import math
from collections.abc import Mapping

from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import DeviceKind, HardwareSpec
from partitiond.core.hardware.lookup import find_hardware

CPU = "cpu"
"""The name of this host's CPU in a price list, as on the command line."""


@dataclasses.dataclass(frozen=True, slots=True)
class TokenPrices:
    """Prices per device and hour.

    Attributes:
        per_hour: by hardware key; "cpu" is this host's CPU.
        currency: of the prices; for display.
    """

    per_hour: Mapping[str, float]
    currency: str = ""

    def of(self, hardware: HardwareSpec) -> float | None:
        """Return the price of one device per hour; None if the user gave none."""
        return self.per_hour.get(CPU if hardware.kind is DeviceKind.CPU else hardware.key)


def prices_from(table: Mapping[str, object]) -> TokenPrices:
    """Read prices from a parsed TOML file.

    Args:
        table: `[price_per_hour]` with a number for each kind of hardware, and on the top level
            optionally `currency = "EUR"`.

    Raises:
        SpecError: a key is not known or names a MIG slice, a device has two prices, or a price is
            not a positive number.
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
        key = _device_key(name)
        if key in found:
            raise SpecError(f"{key} has two prices.", hint="Leave one of its names out.")
        found[key] = float(price)
    return TokenPrices(found, currency)


def _device_key(name: str) -> str:
    """Return a device's key. Raises SpecError if there is no such device, or for a part of one."""
    if name.strip().lower() == CPU:
        return CPU
    spec, slice_of_it = find_hardware(name)
    if slice_of_it is not None:
        raise SpecError(
            f"{name} is a MIG slice; a price is of a whole device.",
            hint=f"Give what one {spec.key} costs per hour: its slices are counted together.",
        )
    return spec.key


def cost_per_million(price_per_hour: float, tokens_per_s: float) -> float | None:
    """Return the cost of a million tokens at this rate; None if there is no rate."""
    if tokens_per_s <= 0:
        return None
    return price_per_hour / (tokens_per_s * 3600) * 1e6

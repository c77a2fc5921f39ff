"""Defines where replicas may be beyond what fits, and which models go first if not all fit."""

import dataclasses
import enum
from typing import Final

from partitiond.core.checks import require


class Isolation(enum.StrEnum):
    """What a replica may share a device with."""

    SHARED = "shared"
    DEVICE = "device"
    """A device of its own."""
    HARDWARE = "hardware"
    """Compute and memory that the hardware isolates: a MIG slice, or a device of its own."""


class FaultDomain(enum.StrEnum):
    """What can be lost at once."""

    DEVICE = "device"
    HOST = "host"
    RACK = "rack"


MAX_PRIORITY: Final = 2
MAX_NAME: Final = 256
"""Characters of a name in a rule; host names have at most 253."""
PRIORITY_FACTOR: Final = 100
"""In sums over priorities, one request/s counts as much as this many of the priority below. If not
everything fits, sums do not tell which plan is better: the highest priority decides first."""


@dataclasses.dataclass(frozen=True, slots=True)
class PlacementRules:
    """Where replicas may be, beyond what fits.

    Attributes:
        avoid: models that never share a device with it; holds both ways, whoever says it.
        near: models of which every host that holds a replica of it holds one as well.
        only_on: device ids, host names, racks or hardware keys its replicas are restricted to;
            empty for any.
        survive: when any one of these is lost, `survive_share` of the planned rate is still
            served (without a rate: one replica is left).
        survive_share: share of the planned rate, above 0 and at most 1.
        priority: -MAX_PRIORITY..MAX_PRIORITY; who is served first where not everything fits.
    """

    avoid: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    only_on: tuple[str, ...] = ()
    survive: FaultDomain | None = None
    survive_share: float = 1.0
    priority: int = 0

    def __post_init__(self) -> None:
        require(
            0 < self.survive_share <= 1,
            f"survive_share must be above 0 and at most 1, got {self.survive_share!r}.",
            "1 keeps the whole planned rate when one fault domain is lost.",
        )
        require(
            -MAX_PRIORITY <= self.priority <= MAX_PRIORITY,
            f"priority must lie between {-MAX_PRIORITY} and {MAX_PRIORITY}, got {self.priority}.",
            "0 is usual; a higher number is served first.",
        )
        for name in ("avoid", "near", "only_on"):
            value = getattr(self, name)
            require(
                isinstance(value, tuple) and all(isinstance(v, str) and v for v in value),
                f"{name} must be a list of names, got {value!r}.",
                f'Write {name} = ["one-name", "another"].',
            )
            bad = next((v for v in value if not v.isprintable() or len(v) > MAX_NAME), None)
            require(
                bad is None,
                f"{name} names {str(bad)[:80]!r}, which is no name of anything.",
                f"Use names of at most {MAX_NAME} characters that can be printed.",
            )
        both = sorted(set(self.avoid) & set(self.near))
        stand = "stands" if len(both) == 1 else "stand"
        require(
            not both,
            f"{', '.join(both)} {stand} both in avoid and in near.",
            "Name a model in one of the two.",
        )


NO_RULES: Final = PlacementRules()

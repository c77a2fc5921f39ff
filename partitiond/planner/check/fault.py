"""Defines what the checker finds wrong with a replica on a device."""

import dataclasses
import enum
import math


class Kind(enum.Enum):
    """What a fault is about; a replica that a later kind stops is closer to fitting."""

    HARDWARE = enum.auto()
    CORDONED = enum.auto()
    ONLY_ON = enum.auto()
    NEAR = enum.auto()
    AVOID = enum.auto()
    ISOLATION = enum.auto()
    GROUP = enum.auto()
    MODE = enum.auto()
    REPLICAS = enum.auto()
    SLICES = enum.auto()
    FIXED = enum.auto()
    MEMORY = enum.auto()
    SMS = enum.auto()
    CORES = enum.auto()
    HOST = enum.auto()
    INTERFERENCE = enum.auto()
    SLO = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One violation.

    Attributes:
        text: the violation as a sentence.
        excess: how much more is needed than there is, as a share of what is there; infinite where
            nothing is measured.
    """

    kind: Kind
    text: str
    excess: float = math.inf

    @property
    def rank(self) -> tuple[int, float]:
        """How close the replica is to fitting, for comparison: more is closer."""
        return self.kind.value, -self.excess

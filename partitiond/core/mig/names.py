"""Reads and writes names of MIG profiles: "2g.20gb", "1g.10gb+me", "1c.3g.40gb".

Drivers and operators make a name of compute slices, memory and attributes: +me has the media
engines, +me.all has all of them, +gfx can draw, -me lacks media engines that its size would have. A
leading "1c." names a compute instance that covers only a part of its GPU instance.
"""

import dataclasses
import math
import re
from typing import Final

from partitiond.core.hardware.kinds import MIG_MEMORY_SLICES
from partitiond.core.units import MIB

_NAME: Final = re.compile(
    r"^(?:MIG\s+)?(?:(?P<compute>\d+)c\.)?(?P<slices>\d+)g\.(?P<gb>\d+)gb"
    r"(?P<attributes>(?:[+-][a-z0-9.,]+)*)$",
    re.IGNORECASE,
)

MEDIA: Final = "+me"
PLANNED_ATTRIBUTES: Final = frozenset({"", MEDIA})
"""Attributes that plans use. An instance that draws, or that has all or no media engines, serves
text no better, and the driver allows few of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class MigName:
    """The parts of a MIG profile's name.

    Attributes:
        slices: compute slices of the GPU instance.
        gb: its memory as the name gives it.
        attributes: "+me", "+me.all", "+gfx", "-me" or several of them; empty for none.
        compute: compute slices of the compute instance; 0 if it has all of them.
    """

    slices: int
    gb: int
    attributes: str = ""
    compute: int = 0

    @property
    def text(self) -> str:
        """The name as drivers print it, without "MIG"."""
        part = f"{self.compute}c." if self.compute and self.compute != self.slices else ""
        return f"{part}{self.slices}g.{self.gb}gb{self.attributes}"

    @property
    def whole(self) -> bool:
        """Whether the name is of a GPU instance with all of its compute slices."""
        return self.compute in {0, self.slices}


def read_name(text: str) -> MigName | None:
    """Return the parts of a name; None if the text is no such name."""
    found = _NAME.match(text.strip())
    if found is None:
        return None
    return MigName(
        slices=int(found["slices"]),
        gb=int(found["gb"]),
        attributes=found["attributes"].lower(),
        compute=int(found["compute"] or 0),
    )


def canonical(text: str) -> str:
    """Return the name as the catalog writes it ("MIG 2g.20gb" -> "2g.20gb"); unknown forms
    unchanged.
    """
    found = read_name(text)
    return text.strip() if found is None else found.text


def memory_slices_of(memory_mib: int, total_bytes: int) -> int:
    """Return the number of memory slices, of eight, under an instance with this share of the
    memory.
    """
    share = memory_mib * MIB / max(1, total_bytes)
    return max(1, min(MIG_MEMORY_SLICES, math.ceil(share * MIG_MEMORY_SLICES)))

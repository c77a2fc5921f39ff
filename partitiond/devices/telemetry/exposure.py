"""Which figures a device exposes, and why not the others."""

import dataclasses
from collections.abc import Mapping
from typing import Final

FIGURES: Final = (
    "gpu_util",
    "sm_activity",
    "sm_occupancy",
    "dram_activity",
    "power_watts",
    "energy_joules",
    "cores_used",
)
"""Fields of `core.profile.Telemetry`, in the order they are shown."""

CPU_FIGURES: Final = ("power_watts", "energy_joules", "cores_used")
"""Those that a CPU can have."""


@dataclasses.dataclass(frozen=True, slots=True)
class Exposure:
    """What one device exposes.

    Attributes:
        source: who says it, as in `Telemetry.source`; empty where nobody does.
        exposes: figures, in the order of FIGURES.
        missing: reason by figure, for those that its kind of device could have.
    """

    source: str
    exposes: tuple[str, ...]
    missing: Mapping[str, str]

    def text(self) -> str:
        """One line for people."""
        shown = ", ".join(self.exposes) or "nothing"
        reasons: dict[str, list[str]] = {}
        for figure, reason in self.missing.items():
            reasons.setdefault(reason, []).append(figure)
        why = "; ".join(f"no {', '.join(figures)}: {why}" for why, figures in reasons.items())
        return f"{shown}{f' ({why})' if why else ''}"

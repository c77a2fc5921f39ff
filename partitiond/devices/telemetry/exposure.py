"""Defines which figures a device exposes, and why it does not expose the others."""

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
"""Fields of `core.profile.Telemetry`, in the order of display."""

CPU_FIGURES: Final = ("cores_used",)
"""Figures that a CPU can have."""


@dataclasses.dataclass(frozen=True, slots=True)
class ExposedFigures:
    """The figures that one device exposes.

    Attributes:
        source: sources of the figures, as in `Telemetry.source`; empty if there are none.
        exposes: exposed figures, in the order of FIGURES.
        missing: reason by missing figure, for figures that the kind of device could have.
    """

    source: str
    exposes: tuple[str, ...]
    missing: Mapping[str, str]

    def text(self) -> str:
        """Return one line for display."""
        shown = ", ".join(self.exposes) or "nothing"
        reasons: dict[str, list[str]] = {}
        for figure, reason in self.missing.items():
            reasons.setdefault(reason, []).append(figure)
        why = "; ".join(f"no {', '.join(figures)}: {why}" for why, figures in reasons.items())
        return f"{shown}{f' ({why})' if why else ''}"

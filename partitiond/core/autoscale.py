"""What a model that scales by itself asks for."""

import dataclasses
import math
from typing import Final

from partitiond.core.checks import require

MIN_ZERO_SECONDS: Final = 1.0
MAX_ZERO_SECONDS: Final = 30 * 86400.0


@dataclasses.dataclass(frozen=True, slots=True)
class Autoscale:
    """Its demand is measured, and plans that follow from that are applied without being asked.

    How many replicas it may have are the model's `min_replicas` and `max_replicas`.

    Attributes:
        scale_to_zero_seconds: without a request for so long it gives up its engines, to be started
            by the next request; it may also be made to, when another model needs its room. None:
            it keeps a replica.
    """

    scale_to_zero_seconds: float | None = None

    def __post_init__(self) -> None:
        seconds = self.scale_to_zero_seconds
        if seconds is not None:
            require(
                math.isfinite(seconds) and MIN_ZERO_SECONDS <= seconds <= MAX_ZERO_SECONDS,
                f"scale_to_zero_seconds must lie between {MIN_ZERO_SECONDS:g} and "
                f"{MAX_ZERO_SECONDS:g}, got {seconds!r}.",
                "Leave it out for a model that keeps a replica.",
            )


def check_autoscale(autoscale: Autoscale | None, min_replicas: int) -> None:
    """Raises SpecError where the bounds contradict each other."""
    if autoscale is None or autoscale.scale_to_zero_seconds is None:
        return
    require(
        min_replicas == 0,
        f"min_replicas is {min_replicas}, and the model is to scale to zero.",
        "Set min_replicas to 0, or leave scale_to_zero_seconds out.",
    )

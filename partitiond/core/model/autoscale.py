"""Defines and checks the settings of a model that scales by itself."""

import dataclasses
import math
from typing import Final

from partitiond.core.checks import require

MIN_ZERO_SECONDS: Final = 1.0
MAX_ZERO_SECONDS: Final = 30 * 86400.0
"""Bounds of the field `scale_to_zero_seconds`: a second, and a month."""


@dataclasses.dataclass(frozen=True, slots=True)
class Autoscale:
    """Settings of a model whose demand is measured and whose plans are applied automatically.

    The model's `min_replicas` and `max_replicas` bound its number of replicas.

    Attributes:
        scale_to_zero_seconds: after this long without a request the model is scaled to zero, and
            the next request starts it again. The model may also be evicted, when another model
            needs its room. None: the model keeps a replica.
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
    """Raise SpecError if the bounds contradict each other."""
    if autoscale is None or autoscale.scale_to_zero_seconds is None:
        return
    require(
        min_replicas == 0,
        f"min_replicas is {min_replicas}, and the model is to scale to zero.",
        "Set min_replicas to 0, or leave scale_to_zero_seconds out.",
    )

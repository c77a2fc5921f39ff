"""Defines the settings' table `[drift]`."""

from pydantic import Field

from partitiond.settings.types import Seconds, Table


class DriftSettings(Table):
    """The comparison of measured with predicted figures."""

    enabled: bool = Field(
        default=True, description="Compare what replicas do with what plans predict of them."
    )
    window_requests: int = Field(
        30, ge=5, le=10_000, description="Requests that a replica is judged by at a time."
    )
    window_seconds: Seconds = Field(
        20.0, description="Shortest time over which it is judged, in seconds."
    )
    correct: bool = Field(
        default=True,
        description="Plan with corrected figures where a profile's replicas are slower than it.",
    )
    reprofile: bool = Field(
        default=True,
        description="Measure such a model again by itself, at a quiet time on spare capacity.",
    )
    quiet_share: float = Field(
        0.3,
        gt=0,
        le=1,
        description="Share of their places that replicas use at most at a quiet time.",
    )
    quiet_seconds: Seconds = Field(
        600.0, le=1700.0, description="How long it has to have been so quiet, in seconds."
    )

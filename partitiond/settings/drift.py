"""Defines the settings' table `[drift]`."""

from pydantic import Field

from partitiond.serde import Table
from partitiond.settings.types import Seconds


class DriftSettings(Table):
    """The comparison of measured with predicted figures."""

    enabled: bool = Field(
        default=True,
        description="Compare the measured figures of replicas with the predicted ones.",
    )
    window_requests: int = Field(
        30, ge=5, le=10_000, description="Least number of requests in a window that is compared."
    )
    window_seconds: Seconds = Field(
        20.0, description="Shortest length of a window that is compared, in seconds."
    )
    correct: bool = Field(
        default=True,
        description="Plan with corrected figures if replicas are slower than their profile.",
    )
    reprofile: bool = Field(
        default=True,
        description="Measure a profile that has drifted again automatically, at a quiet time on "
        "spare capacity.",
    )
    quiet_share: float = Field(
        0.3,
        gt=0,
        le=1,
        description="At a quiet time, replicas use at most this share of their slots.",
    )
    quiet_seconds: Seconds = Field(
        600.0, le=1700.0, description="How long the time has to have been quiet, in seconds."
    )

"""Defines the settings of drift detection."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class DriftOptions:
    """Settings of the comparison of replicas.

    Attributes:
        window_requests, window_seconds: a window has at least so much of both.
        correct: plans use corrected figures.
        reprofile: drifting models are measured again.
        quiet_share, quiet_seconds: measure if at most this share of places was in use for so long.
    """

    enabled: bool = True
    window_requests: int = 30
    window_seconds: float = 20.0
    correct: bool = True
    reprofile: bool = True
    quiet_share: float = 0.3
    quiet_seconds: float = 600.0

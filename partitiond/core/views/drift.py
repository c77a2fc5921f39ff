"""Defines the drift of replicas as people see it."""

import dataclasses

from partitiond.core.drift.correction import Correction
from partitiond.core.drift.detection import LedgerEntry


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaDrift:
    """One replica: what is known of it.

    Attributes:
        engine: its engine's name.
        verdict: learning, holds, slower or faster.
        words: what drifts, by how much, and whose matter that is; why nothing can be said.
        gathered: requests of the window that is not full yet.
        last: its last full window; None before the first.
    """

    replica_id: str
    engine: str
    model: str
    device_id: str
    verdict: str
    words: str
    gathered: int
    last: LedgerEntry | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Remeasure:
    """A profile that is to be measured again because of drift.

    Attributes:
        job_id: of its job; empty where none is queued.
        words: what it waits for, or why there is no job.
    """

    profile_id: str
    model: str
    job_id: str
    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class DriftReport:
    """Everything that is known of drift now.

    Attributes:
        replicas: those that serve, by name.
        corrections: factors that plans use.
        remeasures: what is to be measured again.
        window_requests: requests of a full window.
    """

    replicas: tuple[ReplicaDrift, ...]
    corrections: tuple[Correction, ...]
    remeasures: tuple[Remeasure, ...]
    window_requests: int

"""Defines the comparison of measured and predicted figures: the ledger, and what people see."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from partitiond.core.drift.correction import Correction
from partitiond.core.drift.detection import LedgerEntry


class Ledger(Protocol):
    """Keeps predicted and measured figures on disk."""

    def add_ledger_entries(self, entries: Sequence[LedgerEntry]) -> None:
        """Append all of them or none. Beyond the bounds, the oldest entries of a replica and the
        oldest of all are dropped.
        """
        ...

    def ledger(
        self, *, model: str | None = None, replica_id: str | None = None, limit: int = 200
    ) -> Sequence[LedgerEntry]:
        """Return entries, newest first."""
        ...


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


class DriftControl(Protocol):
    """The use cases of drift."""

    def report(self) -> DriftReport:
        """Report on replicas, corrections and what is to be measured again."""
        ...

    def ledger(
        self, model: str | None = None, replica_id: str | None = None, limit: int = 200
    ) -> Sequence[LedgerEntry]:
        """The ledger, newest first."""
        ...

    def lift(self, profile_id: str) -> Correction:
        """Remove a correction; the replicas are judged anew. Raises NotFoundError."""
        ...

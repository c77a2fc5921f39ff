"""Defines how the ledger of measured and predicted figures is kept, and the use cases of drift."""

from collections.abc import Sequence
from typing import Protocol

from partitiond.core.drift.correction import Correction
from partitiond.core.drift.detection import LedgerEntry
from partitiond.core.views.drift import DriftReport


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


class DriftControl(Protocol):
    """The use cases of drift."""

    def report(self) -> DriftReport:
        """Report on replicas, corrections and what is to be measured again."""
        ...

    def ledger(
        self, model: str | None = None, replica_id: str | None = None, limit: int = 200
    ) -> Sequence[LedgerEntry]:
        """Return the ledger, newest first."""
        ...

    def lift(self, profile_id: str) -> Correction:
        """Remove a correction; the replicas are judged anew. Raises NotFoundError."""
        ...

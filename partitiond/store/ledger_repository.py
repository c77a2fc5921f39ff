"""Stores the ledger of predicted and measured figures: part of `Store` on SQLite."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, delete
from sqlmodel import Session, col, select

from partitiond import serde
from partitiond.core.drift.detection import LedgerEntry
from partitiond.store.sessions import Sessions
from partitiond.store.tables import LedgerRow

MAX_ENTRIES: Final = 20_000
"""Entries kept in all; some 30 MB."""
DROP_EVERY: Final = 100
"""Entries between two checks for too many: a check has to count them."""
MAX_OF_REPLICA: Final = 200
"""Entries kept of each replica: a busy replica must not push out the entries of the others."""


class LedgerRepository(Sessions):
    """Predicted and measured figures of replicas."""

    def add_ledger_entries(self, entries: Sequence[LedgerEntry]) -> None:
        """Append all of them or none; the oldest entries beyond the bounds are dropped."""
        with self._write() as session:
            rows = [
                LedgerRow(
                    at=entry.at,
                    model=entry.model,
                    replica_id=entry.replica_id,
                    body=serde.to_stored_json(entry),
                )
                for entry in entries
            ]
            session.add_all(rows)
            session.flush()
            for model, replica_id in {(entry.model, entry.replica_id) for entry in entries}:
                own = col(LedgerRow.replica_id) == replica_id
                _drop_beyond(session, MAX_OF_REPLICA, col(LedgerRow.model) == model, own)
            # By number, not by age: a busy replica uses up sequences, and keeps few entries.
            if any((row.sequence or 0) % DROP_EVERY == 0 for row in rows):
                _drop_beyond(session, MAX_ENTRIES)

    def ledger(
        self, *, model: str | None = None, replica_id: str | None = None, limit: int = 200
    ) -> Sequence[LedgerEntry]:
        """Return entries, newest first."""
        query = select(LedgerRow).order_by(col(LedgerRow.sequence).desc()).limit(limit)
        if model is not None:
            query = query.where(LedgerRow.model == model)
        if replica_id is not None:
            query = query.where(LedgerRow.replica_id == replica_id)
        with self._read() as session:
            rows = session.exec(query).all()
            bodies = ((row.body, f"ledger entry {row.sequence}") for row in rows)
            return self._readable(LedgerEntry, bodies)


def _drop_beyond(session: Session, most: int, *of: ColumnElement[bool]) -> None:
    """Drop the oldest of these entries if there are more than `most`."""
    kept = (
        select(LedgerRow.sequence)
        .where(*of)
        .order_by(col(LedgerRow.sequence).desc())
        .offset(most)
        .limit(1)
    )
    beyond = session.exec(kept).first()
    if beyond is not None:
        session.exec(delete(LedgerRow).where(*of, col(LedgerRow.sequence) <= beyond))

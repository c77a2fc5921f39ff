"""Stores what happened and who asked for it: the events of `Store` on SQLite."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, insert, or_
from sqlmodel import Session, col, select

from partitiond.core.events import ANY, EVERY_EVENT, Event, EventFilter
from partitiond.store.sessions import Sessions
from partitiond.store.tables import EventRow

MAX_EVENTS: Final = 20_000
"""Events kept; about 4 MB. Older ones are dropped, unless an actor asked for them:"""
MAX_AUDIT_EVENTS: Final = 200_000
"""Events that an actor asked for are kept until so many events of any kind came after them: an
engine that dies every minute must not push out who changed what."""
DROP_EVERY: Final = 100
"""Events between two searches for old ones: a search takes time."""


class EventRepository(Sessions):
    """Events, oldest to newest."""

    def add_event(
        self, at: str, kind: str, subject: str, message: str, *, actor: str = ""
    ) -> Event:
        """Append an event."""
        return self.add_events([Event(0, at, kind, subject, message, actor)])[0]

    def add_events(self, events: Sequence[Event]) -> Sequence[Event]:
        """Append all of them or none; returns them with their ids.

        Events that an actor asked for survive a power loss: who removed a key, and when.
        """
        rows = [_row(event) for event in events]
        with self._write(durable=any(event.actor for event in events)) as session:
            if not rows:
                return ()
            # Not as ORM objects: each takes most of a millisecond. Nothing else writes meanwhile,
            # and each new id is one more than the largest ever, so these ids are consecutive.
            session.connection().execute(insert(EventRow), rows)
            last = session.exec(select(func.max(EventRow.id))).one() or 0
            stored = [
                dataclasses.replace(event, id=last - len(events) + number)
                for number, event in enumerate(events, 1)
            ]
            due = [event.id for event in stored if event.id % DROP_EVERY == 0]
            if due:
                _drop_old(session, due[-1])
            return stored

    def events(
        self, after: int = 0, limit: int = 200, wanted: EventFilter = EVERY_EVENT
    ) -> Sequence[Event]:
        """Oldest first, with ids greater than `after`; the newest if the filter says so, or if
        there is neither `after` nor `since`.
        """
        query = select(EventRow).where(col(EventRow.id) > after, *_conditions(wanted)).limit(limit)
        from_the_begin = bool(after or wanted.since) and not wanted.newest
        query = query.order_by(col(EventRow.id) if from_the_begin else col(EventRow.id).desc())
        with self._read() as session:
            events = [_event(row) for row in session.exec(query).all()]
        return events if from_the_begin else events[::-1]


def _drop_old(session: Session, number: int) -> None:
    """Drop the events that are too old once the event of this number is stored."""
    by_itself = col(EventRow.actor) == ""
    session.exec(delete(EventRow).where(col(EventRow.id) <= number - MAX_EVENTS, by_itself))
    session.exec(delete(EventRow).where(col(EventRow.id) <= number - MAX_AUDIT_EVENTS))


def _conditions(wanted: EventFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.kinds:
        found.append(or_(*(_like(col(EventRow.kind), kind) for kind in wanted.kinds)))
    if wanted.subject:
        found.append(_like(col(EventRow.subject), wanted.subject))
    if wanted.actor:
        found += [_like(col(EventRow.actor), wanted.actor), col(EventRow.actor) != ""]
    if wanted.since:
        found.append(col(EventRow.at) >= wanted.since)
    if wanted.until:
        found.append(col(EventRow.at) < wanted.until)
    return found


def _like(column: Any, word: str) -> ColumnElement[bool]:
    # Not LIKE: for SQLite "Ada" and "ada" are equal there, and nowhere else.
    begin = word.removesuffix(ANY)
    found: ColumnElement[bool] = (
        func.substr(column, 1, len(begin)) == begin if word.endswith(ANY) else column == word
    )
    return found


def _row(event: Event) -> dict[str, str]:
    return {
        "at": event.at,
        "kind": event.kind,
        "subject": event.subject,
        "message": event.message,
        "actor": event.actor,
    }


def _event(row: EventRow) -> Event:
    return Event(row.id or 0, row.at, row.kind, row.subject, row.message, row.actor)

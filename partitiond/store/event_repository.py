"""Stores what happened and who asked for it: the events of `ports.Store` on SQLite."""

import dataclasses
import sqlite3
from collections.abc import Sequence
from typing import Final

from partitiond.core.events import ANY, EVERY_EVENT, Event, EventFilter
from partitiond.store.sessions import Sessions

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
        with self._write(durable=any(event.actor for event in events)) as connection:
            stored = []
            for event in events:
                values = (event.at, event.kind, event.subject, event.message, event.actor)
                number = connection.execute(
                    "INSERT INTO event (at, kind, subject, message, actor) VALUES (?, ?, ?, ?, ?)",
                    values,
                ).lastrowid
                stored.append(dataclasses.replace(event, id=number or 0))
            due = [event.id for event in stored if event.id % DROP_EVERY == 0]
            if due:
                _drop_old(connection, due[-1])
            return stored

    def events(
        self, after: int = 0, limit: int = 200, wanted: EventFilter = EVERY_EVENT
    ) -> Sequence[Event]:
        """Oldest first, with ids greater than `after`; the newest if the filter says so, or if
        there is neither `after` nor `since`.
        """
        where, values = _conditions(wanted)
        from_the_begin = bool(after or wanted.since) and not wanted.newest
        order = "ASC" if from_the_begin else "DESC"
        rows = self._rows(
            "SELECT id, at, kind, subject, message, actor FROM event "
            f"WHERE {' AND '.join(('id > ?', *where))} ORDER BY id {order} LIMIT ?",
            *(after, *values, limit),
        )
        events = [Event(*row) for row in rows]
        return events if from_the_begin else events[::-1]


def _drop_old(connection: sqlite3.Connection, number: int) -> None:
    """Drop the events that are too old once the event of this number is stored."""
    by_itself = "DELETE FROM event WHERE id <= ? AND actor = ''"
    connection.execute(by_itself, (number - MAX_EVENTS,))
    connection.execute("DELETE FROM event WHERE id <= ?", (number - MAX_AUDIT_EVENTS,))


def _conditions(wanted: EventFilter) -> tuple[list[str], list[str]]:
    """Return the conditions of a filter, and their values."""
    found: list[str] = []
    values: list[str] = []

    def add_words(column: str, words: Sequence[str]) -> None:
        # Not LIKE: for SQLite "Ada" and "ada" are equal there, and nowhere else.
        begins = [
            f"substr({column}, 1, {len(w) - 1})" if w.endswith(ANY) else column for w in words
        ]
        found.append(f"({' OR '.join(f'{begin} = ?' for begin in begins)})")
        values.extend(word.removesuffix(ANY) for word in words)

    if wanted.kinds:
        add_words("kind", wanted.kinds)
    if wanted.subject:
        add_words("subject", [wanted.subject])
    if wanted.actor:
        add_words("actor", [wanted.actor])
        found.append("actor != ''")
    for condition, value in (("at >= ?", wanted.since), ("at < ?", wanted.until)):
        if value:
            found.append(condition)
            values.append(value)
    return found, values

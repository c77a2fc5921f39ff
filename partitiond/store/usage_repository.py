"""Stores the usage of keys and models by the hour. Part of `Store`."""

import contextlib
import dataclasses
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import bindparam
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import Session, col, delete, select

from partitiond import serde
from partitiond.core.demand.traffic import UsageCount
from partitiond.core.keys.usage import HOUR_LENGTH, UsagePosition
from partitiond.core.views.usage import UsageLine
from partitiond.store.errors import store_error
from partitiond.store.sessions import IN_MEMORY, Sessions
from partitiond.store.tables import MarkRow, UsageRow

POSITION: Final = "usage-position"
"""Kind of the marks that say what is booked: one for the proxy's epoch, one for each key and model.
Only changed marks are written."""
OTHERS: Final = "usage-position-of-host"
"""Kind of the same marks of other hosts' proxies; the host's name comes first. The release before
does not know this kind, and goes on with the own host's."""
OWN_HOST: Final = "usage-position-own-host"
"""Kind of the mark that says which host the marks of `POSITION` are of; none if there is one."""
_EPOCH: Final = "epoch"
_USE: Final = "use"
_SEPARATOR: Final = "\n"
"""No name contains it."""
_NEW_USAGE: Final = insert(UsageRow)
_ADD_USAGE: Final = _NEW_USAGE.on_conflict_do_update(
    index_elements=["hour", "key_id", "model"],
    set_={
        field.name: getattr(UsageRow, field.name) + getattr(_NEW_USAGE.excluded, field.name)
        for field in dataclasses.fields(UsageCount)
    },
)
_SUMS: Final = f"""
SELECT substr(hour, 1, ?) AS period, CASE WHEN ? THEN key_id ELSE '' END AS one_key, '',
    CASE WHEN ? THEN model ELSE '' END AS one_model,
    {", ".join(f"sum({field.name})" for field in dataclasses.fields(UsageCount))}
FROM usage WHERE hour BETWEEN ? AND ?
GROUP BY period, one_key, one_model ORDER BY period, one_key, one_model
"""
_NEW_MARK: Final = insert(MarkRow)
_PUT_MARK: Final = _NEW_MARK.on_conflict_do_update(
    index_elements=["kind", "subject"], set_={"value": _NEW_MARK.excluded.value}
)


class UsageRepository(Sessions):
    """Mixed into `Store`."""

    def add_usage(
        self,
        hour: str,
        used: Mapping[tuple[str, str], UsageCount],
        position: UsagePosition,
        host: str = "",
        others: Mapping[str, UsagePosition] | None = None,
    ) -> None:
        """Add to the hour what each (key, model) used, and move the positions; all or nothing."""
        rows = [
            {"hour": hour, "key_id": key_id, "model": model, **dataclasses.asdict(more)}
            for (key_id, model), more in used.items()
        ]
        with self._write() as session:
            # Not as ORM objects, which take half a millisecond each: hundreds of keys are booked.
            if rows:
                session.connection().execute(_ADD_USAGE, rows)
            _move(session, POSITION, _marks(position))
            if others is not None:
                _move(session, OWN_HOST, {host: ""} if host else {})
                _move(session, OTHERS, _marks_of_hosts(others))

    def usage_position(self) -> UsagePosition:
        """Return the position up to which the proxy's counts are booked; empty at first."""
        return self._position(self._values(POSITION))

    def usage_positions(self) -> Mapping[str, UsagePosition]:
        """Return the positions of all hosts' proxies, by host; "" if there was only one host."""
        by_host: dict[str, dict[str, str]] = {}
        for subject, value in self._values(OTHERS).items():
            host, _, rest = subject.partition(_SEPARATOR)
            by_host.setdefault(host, {})[rest] = value
        found = {host: self._position(values) for host, values in by_host.items()}
        own = self.usage_position()
        if own.epoch:
            found[next(iter(self._values(OWN_HOST)), "")] = own
        return found

    def _values(self, kind: str) -> dict[str, str]:
        query = select(MarkRow).where(MarkRow.kind == kind)
        with self._read() as session:
            return {row.subject: row.value for row in session.exec(query).all()}

    def _position(self, values: Mapping[str, str]) -> UsagePosition:
        epoch = ""
        uses: dict[str, dict[str, UsageCount]] = {}
        for subject, value in values.items():
            what, _, rest = subject.partition(_SEPARATOR)
            if what == _EPOCH:
                epoch = value
            elif what == _USE:  # the release before has others
                key_id, _, model = rest.partition(_SEPARATOR)
                count = self._parse(UsageCount, value, "position of the usage")
                uses.setdefault(key_id, {})[model] = count
        return UsagePosition(epoch, uses)

    def usage(
        self,
        first_hour: str,
        last_hour: str,
        period_length: int = HOUR_LENGTH,
        *,
        by_key: bool = True,
        by_model: bool = True,
    ) -> Sequence[UsageLine]:
        """Return the sums of these hours, both included, without labels. Any thread may call this.

        A sum of months takes seconds: on a connection of its own it holds up no other call.
        """
        given = (period_length, by_key, by_model, first_hour, last_hour)
        if self.path == IN_MEMORY:
            with self._read() as session:
                rows = session.connection().exec_driver_sql(_SUMS, given).all()
                return [UsageLine(*row) for row in rows]
        try:
            uri = f"{Path(self.path).absolute().as_uri()}?mode=ro"
            with contextlib.closing(
                sqlite3.connect(uri, uri=True, timeout=self._patience_seconds)
            ) as connection:
                return [UsageLine(*row) for row in connection.execute(_SUMS, given)]
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error

    def last_used(self, most: int) -> Sequence[str]:
        """Return the last hours in which something was used, newest first."""
        query = select(UsageRow.hour).distinct().order_by(col(UsageRow.hour).desc()).limit(most)
        with self._read() as session:
            return session.exec(query).all()

    def drop_usage(self, before_hour: str) -> int:
        """Delete the hours before this one; returns how many records were deleted."""
        with self._write() as session:
            old = col(UsageRow.hour) < before_hour
            return int(session.exec(delete(UsageRow).where(old)).rowcount)


def _move(session: Session, kind: str, wanted: Mapping[str, str]) -> None:
    """Write the marks of a kind that have changed, and drop those that are gone."""
    of_kind = col(MarkRow.kind) == kind
    rows = session.exec(select(MarkRow.subject, MarkRow.value).where(of_kind)).all()
    known = dict(rows)
    moved = [
        {"kind": kind, "subject": subject, "value": value, "at": ""}
        for subject, value in wanted.items()
        if known.get(subject) != value
    ]
    if moved:
        session.connection().execute(_PUT_MARK, moved)
    gone = [{"gone": subject} for subject in known.keys() - wanted.keys()]
    if gone:
        one = delete(MarkRow).where(of_kind, col(MarkRow.subject) == bindparam("gone"))
        session.connection().execute(one, gone)


def _marks_of_hosts(positions: Mapping[str, UsagePosition]) -> dict[str, str]:
    return {
        _SEPARATOR.join((host, subject)): value
        for host, position in positions.items()
        for subject, value in _marks(position).items()
    }


def _marks(position: UsagePosition) -> dict[str, str]:
    marks = {_EPOCH: position.epoch}
    for key_id, uses in position.uses.items():
        for model, count in uses.items():
            marks[_SEPARATOR.join((_USE, key_id, model))] = serde.to_json(count)
    return marks

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

POSITION: Final = "usage-position-of-host"
"""Kind of the marks that say what is booked: for each host's proxy one for its epoch, and one for
each key and model. The host's name comes first. Only changed marks are written."""
OWN: Final = "usage-position"
OWN_HOST: Final = "usage-position-own-host"
"""The release before had marks of the own host, and a mark with its name, under these kinds."""
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
        positions: Mapping[str, UsagePosition],
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
            _move(session, _marks(positions))

    def usage_positions(self) -> Mapping[str, UsagePosition]:
        """Return up to where each host's proxy is booked; the host is "" if there was only one."""
        by_host: dict[str, dict[str, str]] = {}
        for subject, value in self._values(POSITION).items():
            host, _, rest = subject.partition(_SEPARATOR)
            by_host.setdefault(host, {})[rest] = value
        if own := self._values(OWN):
            by_host[next(iter(self._values(OWN_HOST)), "")] = own
        return {host: self._position(values) for host, values in by_host.items()}

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


def _move(session: Session, wanted: Mapping[str, str]) -> None:
    """Write the marks that have changed, and drop those that are gone."""
    session.exec(delete(MarkRow).where(col(MarkRow.kind).in_((OWN, OWN_HOST))))
    of_kind = col(MarkRow.kind) == POSITION
    rows = session.exec(select(MarkRow.subject, MarkRow.value).where(of_kind)).all()
    known = dict(rows)
    moved = [
        {"kind": POSITION, "subject": subject, "value": value, "at": ""}
        for subject, value in wanted.items()
        if known.get(subject) != value
    ]
    if moved:
        session.connection().execute(_PUT_MARK, moved)
    gone = [{"gone": subject} for subject in known.keys() - wanted.keys()]
    if gone:
        one = delete(MarkRow).where(of_kind, col(MarkRow.subject) == bindparam("gone"))
        session.connection().execute(one, gone)


def _marks(positions: Mapping[str, UsagePosition]) -> dict[str, str]:
    marks = {}
    for host, position in positions.items():
        marks[_SEPARATOR.join((host, _EPOCH))] = position.epoch
        for key_id, uses in position.uses.items():
            for model, count in uses.items():
                marks[_SEPARATOR.join((host, _USE, key_id, model))] = serde.to_json(count)
    return marks

"""Stores the usage of keys and models by the hour. Implements `ports.usage.UsageStore`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import bindparam
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import Session, col, delete, select

from partitiond import serde
from partitiond.core.demand.traffic import UsageCount
from partitiond.core.keys.usage import UsagePosition, UsageRecord, Used
from partitiond.store.sessions import Sessions
from partitiond.store.tables import MarkRow, UsageRow

POSITION: Final = "usage-position"
"""Kind of the marks that say what is booked: one for the proxy's epoch, one for each key and model,
one for each replica. Only changed marks are written."""
_EPOCH: Final = "epoch"
_SEPARATOR: Final = "\n"
"""No name contains it."""
_NEW_USAGE: Final = insert(UsageRow)
_ADD_USAGE: Final = _NEW_USAGE.on_conflict_do_update(
    index_elements=["hour", "key_id", "model"],
    set_={
        field.name: getattr(UsageRow, field.name) + getattr(_NEW_USAGE.excluded, field.name)
        for field in dataclasses.fields(Used)
    },
)
_NEW_MARK: Final = insert(MarkRow)
_PUT_MARK: Final = _NEW_MARK.on_conflict_do_update(
    index_elements=["kind", "subject"], set_={"value": _NEW_MARK.excluded.value}
)


class UsageRepository(Sessions):
    """Mixed into `SqlStore`."""

    def add_usage(
        self, hour: str, used: Mapping[tuple[str, str], Used], position: UsagePosition
    ) -> None:
        """Add to the hour what each (key, model) used, and move the position; all or nothing."""
        rows = [
            {"hour": hour, "key_id": key_id, "model": model, **dataclasses.asdict(more)}
            for (key_id, model), more in used.items()
        ]
        with self._write() as session:
            # Not as ORM objects, which take half a millisecond each: hundreds of keys are booked.
            if rows:
                session.connection().execute(_ADD_USAGE, rows)
            _move(session, position)

    def usage_position(self) -> UsagePosition:
        """Return the position up to which the proxy's counts are booked; empty at first."""
        query = select(MarkRow).where(MarkRow.kind == POSITION)
        epoch = ""
        uses: dict[str, dict[str, UsageCount]] = {}
        busy: dict[str, tuple[str, float]] = {}
        with self._read() as session:
            for row in session.exec(query).all():
                what, _, rest = row.subject.partition(_SEPARATOR)
                if what == _EPOCH:
                    epoch = row.value
                elif what == "use":
                    key_id, _, model = rest.partition(_SEPARATOR)
                    count = self._parse(UsageCount, row.value, "position of the usage")
                    uses.setdefault(key_id, {})[model] = count
                else:
                    seconds, _, generation = row.value.partition(" ")
                    busy[rest] = (generation, float(seconds))
        return UsagePosition(epoch, uses, busy)

    def usage(self, first_hour: str, last_hour: str) -> Sequence[UsageRecord]:
        """Return all records of these hours, both included, by hour, key and model."""
        query = (
            select(UsageRow)
            .where(col(UsageRow.hour) >= first_hour, col(UsageRow.hour) <= last_hour)
            .order_by(col(UsageRow.hour), col(UsageRow.key_id), col(UsageRow.model))
        )
        with self._read() as session:
            return [
                UsageRecord(row.hour, row.key_id, row.model, _used(row))
                for row in session.exec(query).all()
            ]

    def drop_usage(self, before_hour: str) -> int:
        """Delete the hours before this one; returns how many records were deleted."""
        with self._write() as session:
            old = col(UsageRow.hour) < before_hour
            return int(session.exec(delete(UsageRow).where(old)).rowcount)


def _move(session: Session, position: UsagePosition) -> None:
    """Write the marks of the position that have changed."""
    of_position = col(MarkRow.kind) == POSITION
    rows = session.exec(select(MarkRow.subject, MarkRow.value).where(of_position)).all()
    known = dict(rows)
    wanted = _marks(position)
    moved = [
        {"kind": POSITION, "subject": subject, "value": value, "at": ""}
        for subject, value in wanted.items()
        if known.get(subject) != value
    ]
    if moved:
        session.connection().execute(_PUT_MARK, moved)
    gone = [{"gone": subject} for subject in known.keys() - wanted.keys()]
    if gone:
        one = delete(MarkRow).where(of_position, col(MarkRow.subject) == bindparam("gone"))
        session.connection().execute(one, gone)


def _marks(position: UsagePosition) -> dict[str, str]:
    marks = {_EPOCH: position.epoch}
    for key_id, uses in position.uses.items():
        for model, count in uses.items():
            marks[_SEPARATOR.join(("use", key_id, model))] = serde.to_json(count)
    for name, (generation, seconds) in position.busy.items():
        marks[_SEPARATOR.join(("busy", name))] = f"{seconds!r} {generation}"
    return marks


def _used(row: UsageRow) -> Used:
    return Used(
        row.requests,
        row.failed,
        row.prompt_tokens,
        row.output_tokens,
        row.engine_seconds,
        row.device_seconds,
        row.joules,
    )

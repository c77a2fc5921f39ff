"""The usage of keys and models, by the hour. Implements `ports.usage.UsageStore`."""

from collections.abc import Mapping, Sequence
from typing import Final

from sqlmodel import Session, col, delete, select

from partitiond import serde
from partitiond.core.traffic import UsageCount
from partitiond.core.usage import UsagePosition, Used
from partitiond.ports.usage import UsageRecord
from partitiond.store.sessions import Sessions
from partitiond.store.tables import MarkRow, UsageRow

POSITION: Final = "usage-position"
"""Kind of the marks that say what is booked: one for the proxy's epoch, one for each key and model,
one for each replica. Only those that change are written."""
_EPOCH: Final = "epoch"
_SEPARATOR: Final = "\n"
"""No name has one."""


class UsageRepository(Sessions):
    """Mixed into `SqlStore`."""

    def add_usage(
        self, hour: str, used: Mapping[tuple[str, str], Used], position: UsagePosition
    ) -> None:
        """Add to the hour what each (key, model) used, and move the position; all or nothing."""
        with self._write() as session:
            for (key_id, model), more in used.items():
                row = session.get(UsageRow, (hour, key_id, model))
                before = Used() if row is None else _used(row)
                session.merge(_row(hour, key_id, model, before + more))
            self._move(session, position)

    def _move(self, session: Session, position: UsagePosition) -> None:
        rows = session.exec(select(MarkRow).where(MarkRow.kind == POSITION)).all()
        known = {row.subject: row for row in rows}
        wanted = _marks(position)
        for subject, value in wanted.items():
            row = known.get(subject)
            if row is None:
                session.add(MarkRow(kind=POSITION, subject=subject, value=value, at=""))
            elif row.value != value:
                row.value = value
                session.add(row)
        for subject in known.keys() - wanted.keys():
            session.delete(known[subject])

    def usage_position(self) -> UsagePosition:
        """Up to where the proxy's counts are booked; empty at first."""
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
        """All records of these hours, both included, by hour, key and model."""
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
        """Forget the hours before this one; how many records those were."""
        with self._write() as session:
            old = col(UsageRow.hour) < before_hour
            return int(session.exec(delete(UsageRow).where(old)).rowcount)


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


def _row(hour: str, key_id: str, model: str, used: Used) -> UsageRow:
    return UsageRow(
        hour=hour,
        key_id=key_id,
        model=model,
        requests=used.requests,
        failed=used.failed,
        prompt_tokens=used.prompt_tokens,
        output_tokens=used.output_tokens,
        engine_seconds=used.engine_seconds,
        device_seconds=used.device_seconds,
        joules=used.joules,
    )

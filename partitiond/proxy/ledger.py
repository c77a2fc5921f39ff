"""What all workers of one proxy have in flight, and who waits: numbers in shared memory.

Every worker has a *row*, and writes nowhere else; so a worker that dies leaves nothing behind that
clearing its row does not mend. Every replica has a *seat* (a column of sequences and KV tokens),
every model a *line* (who waits), every key with limits a *meter*. Seats, lines and meters are found
by a hash of what they are for, which only the parent writes.

Taking a place happens under one lock for all workers: the sum over the rows is read, compared and
added to. Giving it back is a decrement of the own row without the lock: a sum that is read
meanwhile is too large by it, never too small. Cells are 64 bit and aligned, so each is read and
written whole.

Who gets a place that comes free: each line counts what was *given back*, and remembers for each row
up to where its worker has *looked*. A worker leaves one place to each other one whose head is more
urgent than what it has itself and that has not looked since the last place came free; for a tick at
most, and it pings it. Who has looked and did not want the place is passed over.

A head that fits into no free place (many sequences, much KV) would be overtaken for ever by small
ones of other workers: after a while it holds one replica, which takes nothing less urgent.

No clock, no I/O. `line` has the rules, `shared` the mapped file, the lock and the bells.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Final, Protocol

from partitiond.core.errors import InputError
from partitiond.core.rates import NO_USAGE, Usage
from partitiond.core.routing import NO_KEY_RATES, ReplicaRoute, RoutingTable

ROWS: Final = 64
"""Twice 16 workers (one generation starts while the former ends), and as many left by a parent
that was killed."""
PAST: Final = ROWS - 1
"""Row of no worker: what keys used in workers that are gone, and before all of them."""
SEATS: Final = 2048
LINES: Final = 1024
METERS: Final = 8192
METER_CELLS: Final = 5
"""Numbers of `rates.Usage`."""

_MAGIC: Final = 0x7061727469743031
_HEADER: Final = 16
ROWS_CELL: Final = 1
_ABOUT: Final = 4
"""Cells about each row: process id, its start time, connections closed, requests."""


def seat_key(route: ReplicaRoute) -> int:
    """Names one engine process: another generation has another seat."""
    return _hash("seat", route.replica_id, route.generation, route.socket_path)


def line_key(model: str) -> int:
    """Names a model."""
    return _hash("line", model)


def meter_key(key_id: str) -> int:
    """Names an API key."""
    return _hash("meter", key_id)


def _hash(*parts: str) -> int:
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


class _Columns:
    """Numbers found by a hash: a directory of hashes, and one cell per row and index."""

    __slots__ = ("count", "directory", "start")

    def __init__(self, ints: "memoryview[int]", start: int, count: int) -> None:
        self.start = start
        self.count = count
        self.directory = ints[start : start + count]

    def find(self, key: int) -> int:
        """Its index, or -1."""
        try:
            return self.directory.tolist().index(key)
        except ValueError:
            return -1


class Ledger:
    """The memory itself. Its layout never depends on settings, so that processes of two parents,
    the older one dead, mean the same."""

    def __init__(self, buffer: memoryview) -> None:
        self.ints = buffer.cast("q")
        self.floats = buffer.cast("d")
        at = _HEADER + ROWS * _ABOUT
        self.seats = _Columns(self.ints, at, SEATS)
        self.lines = _Columns(self.ints, at + SEATS, LINES)
        self.meters = _Columns(self.ints, at + SEATS + LINES, METERS)
        at += SEATS + LINES + METERS
        self.sequences, at = at, at + SEATS * ROWS
        self.kv_tokens, at = at, at + SEATS * ROWS
        self.holds, at = at, at + SEATS * ROWS
        self.given, at = at, at + LINES * ROWS
        self.looked, at = at, at + LINES * ROWS
        self.waiting, at = at, at + LINES * ROWS
        self.waiting_sequences, at = at, at + LINES * ROWS
        self.urgency, at = at, at + LINES * ROWS
        self.meter_cells = at

    @staticmethod
    def size_bytes() -> int:
        """Of the memory; hardly any of it is ever touched."""
        cells = _HEADER + ROWS * _ABOUT + SEATS + LINES + METERS
        cells += ROWS * (3 * SEATS + 5 * LINES + METER_CELLS * METERS)
        return 8 * cells

    def begin(self) -> None:
        """Mark the memory as a ledger; it is all zero."""
        self.ints[0] = _MAGIC

    def is_valid(self) -> bool:
        """Whether it is one, of this layout."""
        return self.ints[0] == _MAGIC

    @property
    def rows(self) -> int:
        """Rows in use are below it."""
        return self.ints[ROWS_CELL]

    # What the parent does

    def open_row(self, row: int) -> None:
        """A worker is about to start on it."""
        self.clear(row)
        self.ints[ROWS_CELL] = max(self.rows, row + 1)

    def owner(self, row: int) -> tuple[int, int]:
        """(process id, start time) of its worker; zeros where it has none."""
        at = _HEADER + row * _ABOUT
        return self.ints[at], self.ints[at + 1]

    def set_owner(self, row: int, pid: int, start_ticks: int) -> None:
        """Whose it is."""
        at = _HEADER + row * _ABOUT
        self.ints[at], self.ints[at + 1] = pid, start_ticks

    def clear(self, row: int) -> None:
        """Its worker is gone: what it held is free.

        `given` only ever grows, and grows here: everybody has to look again.
        """
        for seat in range(SEATS):
            if self.seats.directory[seat]:
                for plane in (self.sequences, self.kv_tokens, self.holds):
                    self.ints[plane + seat * ROWS + row] = 0
        for line in range(LINES):
            if self.lines.directory[line]:
                self.ints[self.waiting + line * ROWS + row] = 0
                self.ints[self.waiting_sequences + line * ROWS + row] = 0
                self.ints[self.given + line * ROWS + row] += 1
        for meter, key in enumerate(self.meters.directory.tolist()):
            usage = self.usage(row, meter) if key else NO_USAGE
            if usage != NO_USAGE:
                # What was used stays used; only what was in flight is over.
                ended = dataclasses.replace(usage, in_flight=0.0)
                self.put_usage(PAST, meter, self.usage(PAST, meter) + ended)
                self.put_usage(row, meter, NO_USAGE)
        at = _HEADER + row * _ABOUT
        for cell in range(at, at + _ABOUT):
            self.ints[cell] = 0

    def make_room(self, tables: Sequence[RoutingTable]) -> None:
        """Seats and lines for all replicas and models of these tables.

        Those of no table are free for others once nobody sits there any more. Every worker must
        have acknowledged the last but one table before: it could still send requests by it.

        Raises:
            InputError: there are too many.
        """
        seats = {seat_key(replica) for table in tables for replica in table.replicas}
        lines = {line_key(model.name) for table in tables for model in table.models}
        meters = {
            meter_key(key.id) for table in tables for key in table.keys if key.rates != NO_KEY_RATES
        }
        self._assign(self.seats, seats, self._is_empty_seat, "replicas")
        self._assign(self.lines, lines, self._is_empty_line, "models")
        # A key without a meter is held to its rates by each worker for itself: better than
        # refusing the whole table (see `meters`).
        self._assign(self.meters, meters, lambda _: True, "")

    def _assign(self, columns: _Columns, wanted: set[int], is_empty: "_IsEmpty", what: str) -> None:
        known = columns.directory.tolist()
        for index, key in enumerate(known):
            if key and key not in wanted and is_empty(index):
                known[index] = columns.directory[index] = 0
                self._wipe(columns, index)
        missing = wanted.difference(known)
        free = [index for index, key in enumerate(known) if not key]
        if what and len(missing) > len(free):
            raise InputError(
                f"Several workers serve at most {columns.count} {what}, not {len(wanted)}.",
                hint="Set [proxy] workers to 1, which has no such bound.",
            )
        for index, key in zip(free, sorted(missing), strict=False):
            columns.directory[index] = key

    def _wipe(self, columns: _Columns, index: int) -> None:
        """What stands there means nothing to the next one."""
        if columns is self.seats:
            for cell in range(self.holds + index * ROWS, self.holds + (index + 1) * ROWS):
                self.ints[cell] = 0
        elif columns is self.meters:
            at = self.meter_cells + index * ROWS * METER_CELLS
            for cell in range(at, at + ROWS * METER_CELLS):
                self.floats[cell] = 0.0
        else:
            for plane in (self.given, self.looked, self.urgency):
                for cell in range(plane + index * ROWS, plane + (index + 1) * ROWS):
                    self.ints[cell] = 0

    def _is_empty_seat(self, seat: int) -> bool:
        return not any(self._row_cells(self.sequences, seat)) and not any(
            self._row_cells(self.kv_tokens, seat)
        )

    def _is_empty_line(self, line: int) -> bool:
        return not any(self._row_cells(self.waiting, line))

    def _row_cells(self, plane: int, index: int) -> "memoryview[int]":
        at = plane + index * ROWS
        return self.ints[at : at + ROWS]

    # What anybody may read

    def in_flight(self, seat: int) -> tuple[int, int]:
        """(sequences, KV tokens) of all workers together."""
        ints = self.ints
        rows, at = ints[ROWS_CELL], self.sequences + seat * ROWS
        sequences = sum(ints[at : at + rows])
        at += SEATS * ROWS  # the next column
        return sequences, sum(ints[at : at + rows])

    def closed(self, row: int) -> int:
        """Connections that its worker has closed, of those it was handed."""
        return self.ints[_HEADER + row * _ABOUT + 2]

    def count_closed(self, row: int) -> None:
        """Its worker has closed one."""
        self.ints[_HEADER + row * _ABOUT + 2] += 1

    # Meters

    def put_usage(self, row: int, meter: int, usage: Usage) -> None:
        """What its worker counts of a key."""
        at = self.meter_cells + (meter * ROWS + row) * METER_CELLS
        for index, value in enumerate(usage.as_row()):
            self.floats[at + index] = value

    def usage(self, row: int, meter: int) -> Usage:
        """What one worker counts of it."""
        at = self.meter_cells + (meter * ROWS + row) * METER_CELLS
        return Usage(*self.floats[at : at + METER_CELLS])

    def usage_of_others(self, row: int, meter: int) -> Usage:
        """What all others count of it, those that are gone included; of everybody for row -1."""
        total = self.usage(PAST, meter)
        for other in range(self.rows):
            if other != row:
                total += self.usage(other, meter)
        return total


class _IsEmpty(Protocol):
    def __call__(self, index: int, /) -> bool: ...

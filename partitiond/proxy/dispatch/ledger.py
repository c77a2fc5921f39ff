"""Holds the requests in flight and waiting in all workers of one proxy, as shared-memory numbers.

Every worker has a *row* and writes nowhere else, so clearing the row of a worker that died repairs
the ledger. Every replica has a *seat* (a column of sequences and KV tokens), every model a *line*
(its waiting requests), every key with limits a *meter*. Seats, lines and meters are found by a hash
of the replica, model or key, which only the parent writes.

A worker takes a place under one lock for all workers: it reads the sum over the rows, compares it
and adds to its row. It gives a place back without the lock, by decrementing its own row: a sum that
is read meanwhile is too large by this place, never too small. Cells are 64 bit and aligned, so each
is read and written atomically.

Free places are assigned as follows: each line counts the places *given back*, and remembers for
each row up to which count its worker has *looked*. A worker leaves one place to each other worker
whose head is more urgent than its own and that has not looked since the last place came free, for a
tick at most, and pings that worker. Workers that have looked and declined a place are skipped.

A head that fits into no free place (many sequences, much KV) could starve behind small requests of
other workers. So after a while it holds one replica, which then takes nothing less urgent.

There is no clock and no I/O here. `line` has the rules; `shared` the mapped file, lock and bells.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Final, Protocol

from partitiond.core.dispatch.routing import NO_KEY_RATES, ReplicaRoute, RoutingTable
from partitiond.core.errors import InputError
from partitiond.core.keys.rates import NO_USAGE, Usage

ROWS: Final = 64
"""Twice 16 workers (one generation starts while the previous one ends), and as many again left by
a parent that was killed."""
PAST: Final = ROWS - 1
"""Row of no worker: the use of keys in workers that are gone, and before all workers."""
SEATS: Final = 2048
LINES: Final = 1024
METERS: Final = 8192
METER_CELLS: Final = 5
"""Number of fields in `rates.Usage`."""

_MAGIC: Final = 0x7061727469743031
_HEADER: Final = 16
ROWS_CELL: Final = 1
_ABOUT: Final = 4
"""Cells for each row: process id, its start time, connections closed, peers' ones closed."""


def seat_key(route: ReplicaRoute) -> int:
    """Return the key of one engine process: another generation has another seat."""
    return _hash("seat", route.replica_id, route.generation, route.socket_path)


def line_key(model: str) -> int:
    """Return the key of a model."""
    return _hash("line", model)


def meter_key(key_id: str) -> int:
    """Return the key of an API key's meter."""
    return _hash("meter", key_id)


def _hash(*parts: str) -> int:
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


class _Columns:
    """A directory of hashes; the index of a hash locates its numbers, one cell per row."""

    __slots__ = ("count", "directory", "start")

    def __init__(self, ints: "memoryview[int]", start: int, count: int) -> None:
        self.start = start
        self.count = count
        self.directory = ints[start : start + count]

    def find(self, key: int) -> int:
        """Index of the key, or -1."""
        try:
            return self.directory.tolist().index(key)
        except ValueError:
            return -1


class SlotLedger:
    """The shared memory. Its layout never depends on settings, so that processes of two parents,
    the older one dead, read it the same way."""

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
        """Size of the memory; hardly any of it is ever touched."""
        cells = _HEADER + ROWS * _ABOUT + SEATS + LINES + METERS
        cells += ROWS * (3 * SEATS + 5 * LINES + METER_CELLS * METERS)
        return 8 * cells

    def begin(self) -> None:
        """Mark the memory, which is all zero, as a ledger."""
        self.ints[0] = _MAGIC

    def is_valid(self) -> bool:
        """Whether the memory is a ledger of this layout."""
        return self.ints[0] == _MAGIC

    @property
    def rows(self) -> int:
        """Upper bound of the rows in use (exclusive)."""
        return self.ints[ROWS_CELL]

    # Calls of the parent

    def open_row(self, row: int) -> None:
        """Prepare a row for a worker that is about to start."""
        self.clear(row)
        self.ints[ROWS_CELL] = max(self.rows, row + 1)

    def owner(self, row: int) -> tuple[int, int]:
        """(process id, start time) of the row's worker; zeros if there is none."""
        at = _HEADER + row * _ABOUT
        return self.ints[at], self.ints[at + 1]

    def set_owner(self, row: int, pid: int, start_ticks: int) -> None:
        """Set the worker that owns the row."""
        at = _HEADER + row * _ABOUT
        self.ints[at], self.ints[at + 1] = pid, start_ticks

    def clear(self, row: int) -> None:
        """Free everything that the row's worker held, because the worker is gone.

        `given` only ever grows. It grows here, so that all workers have to look again.
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
                # Past use stays counted; only the requests in flight are over.
                ended = dataclasses.replace(usage, in_flight=0.0)
                self.put_usage(PAST, meter, self.usage(PAST, meter) + ended)
                self.put_usage(row, meter, NO_USAGE)
        at = _HEADER + row * _ABOUT
        for cell in range(at, at + _ABOUT):
            self.ints[cell] = 0

    def make_room(self, tables: Sequence[RoutingTable]) -> None:
        """Assign seats, lines and meters to all replicas, models and keys of these tables.

        Other seats and lines are freed once they are empty. Every worker must have acknowledged
        the oldest of the tables before: else it could still send requests by an older one.

        Raises:
            InputError: there are too many replicas or models.
        """
        seats = {seat_key(replica) for table in tables for replica in table.replicas}
        lines = {line_key(model.name) for table in tables for model in table.models}
        meters = {
            meter_key(key.id) for table in tables for key in table.keys if key.rates != NO_KEY_RATES
        }
        self._assign(self.seats, seats, self._is_empty_seat, "replicas")
        self._assign(self.lines, lines, self._is_empty_line, "models")
        # If a key gets no meter, each worker enforces the key's rates for itself, which is better
        # than refusing the whole table (see `meters`).
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
        """Clear the cells, because their values mean nothing to the next owner."""
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

    # Calls of the parent and of all workers

    def in_flight(self, seat: int) -> tuple[int, int]:
        """(sequences, KV tokens) of all workers together."""
        ints = self.ints
        rows, at = ints[ROWS_CELL], self.sequences + seat * ROWS
        sequences = sum(ints[at : at + rows])
        at += SEATS * ROWS  # the next column
        return sequences, sum(ints[at : at + rows])

    def closed(self, row: int) -> int:
        """Connections that the row's worker has closed, of those that it was handed."""
        return self.ints[_HEADER + row * _ABOUT + 2]

    def count_closed(self, row: int) -> None:
        """Count a connection that the row's worker has closed."""
        self.ints[_HEADER + row * _ABOUT + 2] += 1

    def peers_closed(self, row: int) -> int:
        """Connections of other hosts that the row's worker has closed, of those it was handed."""
        return self.ints[_HEADER + row * _ABOUT + 3]

    def count_peer_closed(self, row: int) -> None:
        """Count a connection of another host that the row's worker has closed."""
        self.ints[_HEADER + row * _ABOUT + 3] += 1

    # Meters

    def put_usage(self, row: int, meter: int, usage: Usage) -> None:
        """Write the use of a key that the row's worker has counted."""
        at = self.meter_cells + (meter * ROWS + row) * METER_CELLS
        for index, value in enumerate(usage.as_row()):
            self.floats[at + index] = value

    def usage(self, row: int, meter: int) -> Usage:
        """Return the use of a key that one worker has counted."""
        at = self.meter_cells + (meter * ROWS + row) * METER_CELLS
        return Usage(*self.floats[at : at + METER_CELLS])

    def usage_of_others(self, row: int, meter: int) -> Usage:
        """Use of a key in all other workers, including past ones; of all workers for row -1."""
        total = self.usage(PAST, meter)
        for other in range(self.rows):
            if other != row:
                total += self.usage(other, meter)
        return total


class _IsEmpty(Protocol):
    def __call__(self, index: int, /) -> bool: ...

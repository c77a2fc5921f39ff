"""Holds the requests in flight and waiting in all workers of one proxy, as shared-memory numbers.

Every worker has a *row* and writes nowhere else, so clearing the row of a worker that died repairs
the ledger. Every replica has a *column* (its sequences and KV tokens), and so have every model (its
waiting requests) and every key with limits (its use). Columns are found by a hash of the replica,
model or key, which only the parent writes.

A worker takes a slot under one lock for all workers: it reads the sum over the rows, compares it
and adds to its row. It gives a slot back without the lock, by decrementing its own row: a sum that
is read meanwhile is too large by this slot, never too small. Cells are 64 bit and aligned, so each
is read and written atomically.

While requests wait in several workers, the worker with the fewest sequences in flight goes first,
and of those with as many the one that started a request longest ago. It looks every tick; the
others leave a slot for it, unless its last look found none that its requests can use.

A head that fits into no free slot (many sequences, much KV) could starve behind small requests of
other workers. So after a while it holds one replica, which the others leave alone.

Each worker learns an engine's pace (`core.dispatch.pace`) from its own streams, and tells the
others the prompt tokens that it has sent and that are unread, and the limit of sequences that it
has found: together they keep to the sum, and to the least limit.

There is no clock and no I/O here. `worker_queue` has the rules; `shared` the mapped file and lock.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Final

from partitiond.core.dispatch.routing import NO_KEY_RATES, ReplicaRoute, RoutingTable
from partitiond.core.errors import InputError
from partitiond.core.keys.rates_and_budgets import NO_USAGE, Usage

ROWS: Final = 64
"""Twice 16 workers (a new one starts while the one before ends), and as many again left by a parent
that was killed."""
PAST: Final = ROWS - 1
"""Row of no worker: the use of keys in workers that are gone, and before all workers."""
REPLICAS: Final = 2048
MODELS: Final = 1024
KEYS: Final = 8192
KEY_CELLS: Final = 5
"""Number of fields in `rates.Usage`."""

CLIENTS, PEERS = 0, 1
"""Numbers of the listeners: of clients, and of other hosts' proxies."""

MOST_LIMIT: Final = 1 << 20
"""More than any batch; the time of a limit is in the bits above. Chosen so."""

_MAGIC: Final = 0x7061727469743031
_HEADER: Final = 16
ROWS_CELL: Final = 1
_ABOUT: Final = 4
"""Cells for each row: process id, its start time, connections closed of each listener."""


def replica_hash(route: ReplicaRoute) -> int:
    """Return the hash of one engine process: another generation has another column."""
    return _hash("replica", route.replica_id, route.generation, route.socket_path)


def model_hash(model: str) -> int:
    """Return the hash of a model."""
    return _hash("model", model)


def key_hash(key_id: str) -> int:
    """Return the hash of an API key."""
    return _hash("key", key_id)


def _hash(*parts: str) -> int:
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


class _Columns:
    """A directory of hashes; the index of a hash locates its numbers.

    Attributes:
        planes: where the numbers of each kind begin.
        width: cells of one index in a plane: those of all rows.
        end: of the last plane.
    """

    __slots__ = ("count", "directory", "end", "planes", "width")

    def __init__(
        self, directory: "memoryview[int]", start: int, planes: int, width: int = ROWS
    ) -> None:
        self.count = len(directory)
        self.directory = directory
        self.width = width
        self.end = start + planes * self.count * width
        self.planes = tuple(range(start, self.end, self.count * width))

    def find(self, hashed: int) -> int:
        """Column of what has this hash, or -1."""
        try:
            return self.directory.tolist().index(hashed)
        except ValueError:
            return -1


class SlotLedger:
    """The shared memory. Its layout never depends on settings, so that processes of two parents,
    the older one dead, read it the same way."""

    def __init__(self, buffer: memoryview) -> None:
        self.ints = buffer.cast("q")
        self.floats = buffer.cast("d")
        ints, at = self.ints, _HEADER + ROWS * _ABOUT
        models, keys, end = at + REPLICAS, at + REPLICAS + MODELS, at + REPLICAS + MODELS + KEYS
        self.replicas = _Columns(ints[at:models], end, 5)
        self.models = _Columns(ints[models:keys], self.replicas.end, 4)
        self.keys = _Columns(ints[keys:end], self.models.end, 1, KEY_CELLS * ROWS)
        self.sequences, self.kv_tokens, self.holds, self.unread, self.limits = self.replicas.planes
        self.turns, self.waiting, self.waiting_sequences, self.wants = self.models.planes
        (self.key_cells,) = self.keys.planes

    @staticmethod
    def size_bytes() -> int:
        """Size of the memory; hardly any of it is ever touched."""
        cells = _HEADER + ROWS * _ABOUT + REPLICAS + MODELS + KEYS
        cells += ROWS * (5 * REPLICAS + 4 * MODELS + KEY_CELLS * KEYS)
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
        """Free everything that the row's worker held, because the worker is gone."""
        for columns in (self.replicas, self.models):
            for column, hashed in enumerate(columns.directory.tolist()):
                for plane in columns.planes if hashed else ():
                    self.ints[plane + column * ROWS + row] = 0
        for column, hashed in enumerate(self.keys.directory.tolist()):
            usage = self.usage(row, column) if hashed else NO_USAGE
            if usage != NO_USAGE:
                # Past use stays counted; only the requests in flight are over.
                ended = dataclasses.replace(usage, in_flight=0.0)
                self.put_usage(PAST, column, self.usage(PAST, column) + ended)
                self.put_usage(row, column, NO_USAGE)
        at = _HEADER + row * _ABOUT
        for cell in range(at, at + _ABOUT):
            self.ints[cell] = 0

    def make_room(self, tables: Sequence[RoutingTable]) -> None:
        """Assign columns to all replicas, models and keys of these tables.

        Other columns are freed once they are empty. Every worker must have acknowledged
        the oldest of the tables before: else it could still send requests by an older one.

        Raises:
            InputError: there are too many replicas or models.
        """
        replicas = {replica_hash(replica) for table in tables for replica in table.replicas}
        models = {model_hash(model.name) for table in tables for model in table.models}
        keys = {
            key_hash(key.id) for table in tables for key in table.keys if key.rates != NO_KEY_RATES
        }
        self._assign(self.replicas, replicas, self._has_no_request, "replicas")
        self._assign(self.models, models, self._has_no_waiting, "models")
        # If a key gets no column, each worker enforces the key's rates for itself, which is better
        # than refusing the whole table (see `meters`).
        self._assign(self.keys, keys, lambda _: True, "")

    def _assign(
        self, columns: _Columns, wanted: set[int], is_empty: Callable[[int], bool], what: str
    ) -> None:
        known = columns.directory.tolist()
        for index, hashed in enumerate(known):
            if hashed and hashed not in wanted and is_empty(index):
                known[index] = columns.directory[index] = 0
                self._wipe(columns, index)
        missing = wanted.difference(known)
        free = [index for index, hashed in enumerate(known) if not hashed]
        if what and len(missing) > len(free):
            raise InputError(
                f"Several workers serve at most {columns.count} {what}, not {len(wanted)}.",
                hint="Set [proxy] workers to 1, which has no such bound.",
            )
        for index, hashed in zip(free, sorted(missing), strict=False):
            columns.directory[index] = hashed

    def _wipe(self, columns: _Columns, index: int) -> None:
        """Clear the cells, because their values mean nothing to the next owner."""
        for plane in columns.planes:
            at = plane + index * columns.width
            for cell in range(at, at + columns.width):
                self.ints[cell] = 0  # of a float as well

    def _has_no_request(self, column: int) -> bool:
        return not any(self._row_cells(self.sequences, column)) and not any(
            self._row_cells(self.kv_tokens, column)
        )

    def _has_no_waiting(self, column: int) -> bool:
        return not any(self._row_cells(self.waiting, column))

    def _row_cells(self, plane: int, index: int) -> "memoryview[int]":
        at = plane + index * ROWS
        return self.ints[at : at + ROWS]

    # Calls of the parent and of all workers

    def in_flight(self, column: int) -> tuple[int, int]:
        """(sequences, KV tokens) of all workers together."""
        ints = self.ints
        rows, at = ints[ROWS_CELL], self.sequences + column * ROWS
        sequences = sum(ints[at : at + rows])
        at += REPLICAS * ROWS  # the KV tokens
        return sequences, sum(ints[at : at + rows])

    def pace_of_others(self, row: int, column: int, since: int) -> tuple[int, int]:
        """(unread prompt tokens, least limit found since or 0) of a replica in all other workers;
        `since` as of `put_limit`.
        """
        ints, rows = self.ints, self.ints[ROWS_CELL]
        unread, limits = self.unread + column * ROWS, self.limits + column * ROWS
        tokens = sum(ints[unread : unread + rows]) - ints[unread + row]
        least = 0
        for other, cell in enumerate(ints[limits : limits + rows]):
            limit = cell % MOST_LIMIT
            if cell and other != row and cell // MOST_LIMIT >= since and not 0 < least < limit:
                least = limit
        return tokens, least

    def put_limit(self, row: int, column: int, limit: int, at: int) -> None:
        """Write the limit of a replica that the row's worker has found; 0 for none.

        Args:
            at: when, in milliseconds of the monotonic clock; in the same cell, so that both are
                read together.
        """
        cell = MOST_LIMIT * at + min(limit, MOST_LIMIT - 1) if limit else 0
        self.ints[self.limits + column * ROWS + row] = cell

    def closed(self, row: int, listener: int) -> int:
        """Connections of a listener that the row's worker was handed and has closed."""
        return self.ints[_HEADER + row * _ABOUT + 2 + listener]

    def count_closed(self, row: int, listener: int = CLIENTS) -> None:
        """Count a connection that the row's worker has closed."""
        self.ints[_HEADER + row * _ABOUT + 2 + listener] += 1

    # Keys

    def put_usage(self, row: int, column: int, usage: Usage) -> None:
        """Write the use of a key that the row's worker has counted."""
        at = self.key_cells + (column * ROWS + row) * KEY_CELLS
        for index, value in enumerate(usage.as_row()):
            self.floats[at + index] = value

    def usage(self, row: int, column: int) -> Usage:
        """Return the use of a key that one worker has counted."""
        at = self.key_cells + (column * ROWS + row) * KEY_CELLS
        return Usage(*self.floats[at : at + KEY_CELLS])

    def usage_of_others(self, row: int, column: int, latest: float = math.inf) -> Usage:
        """Use of a key in all other workers, including past ones; of all workers for row -1. Of its
        budget only periods that begin by `latest` count (`core.keys.wall_clock`).
        """
        total = self.usage(PAST, column).until(latest)
        for other in range(self.rows):
            if other != row:
                total += self.usage(other, column).until(latest)
        return total

"""Shares with all workers of a host what one of them knows of keys over all hosts.

The worker that the parent has chosen (`SlotLedger.keeper`) works the allowances out, and writes a
row of numbers for each key; all workers read it at each request, under the lock of all workers.
"""

import dataclasses
import time
from collections.abc import Collection, Sequence
from typing import Final

from partitiond.core.keys.allowance import Allowance, Part, allowance_of_row
from partitiond.core.keys.portions import Portions
from partitiond.core.keys.rates import NO_USAGE, KeyMeter, Usage, period_start
from partitiond.proxy.dispatch.ledger import KEY_NUMBERS, METER_CELLS
from partitiond.proxy.dispatch.shared import LedgerAccess
from partitiond.proxy.keys.meters import PeerMeters

STALE_SECONDS: Final = 2.0
"""A row counts for no longer without a look of the worker that writes it: other hosts take this one
for silent after 3 s. Chosen."""
_TOLD: Final = METER_CELLS
_LEVELS: Final = _TOLD + 2
_ALLOWANCE: Final = _LEVELS + 3
"""Positions in a row, after what was heard: what peers were told of this host's requests and
tokens; levels of its buckets, and when; the `Allowance`, of which the first number is 0 for none.
"""
_NO_ROW: Final = (0.0,) * KEY_NUMBERS
_NOTHING: Final = Part(0.0, 0.0, 0.0, 0.0)


class KeyOverHosts:
    """A key over all hosts, as a worker reads it.

    Attributes:
        heard: use by the other hosts since this worker knows the key.
        allowance: of this host.
    """

    __slots__ = ("allowance", "heard")

    def __init__(self, heard: Usage, allowance: Allowance) -> None:
        self.heard = heard
        self.allowance = allowance


class KeyRows:
    """One worker's access to the rows of all keys."""

    def __init__(self, access: LedgerAccess, meters: PeerMeters) -> None:
        self._access = access
        self._ledger = access.ledger
        self._meters = meters
        self._before: dict[str, tuple[float, float]] = {}

    def is_keeper(self) -> bool:
        """Whether this worker keeps the limits together with other hosts."""
        return self._ledger.keeper == self._access.row

    def keep(self, now: float) -> bool:
        """Note that this worker looks; returns False if another worker does so now."""
        if not self.is_keeper():
            return False
        self._ledger.set_kept_at(now)
        return True

    def of_other_workers(self, key_id: str) -> Usage:
        """(locked) Use of the key by all other workers, present and past."""
        return self._meters.all_others(key_id)

    def forget(self, keys: Collection[str]) -> None:
        """Forget what was read of other keys than these."""
        self._before = {key_id: self._before[key_id] for key_id in keys if key_id in self._before}

    def read(self, key_id: str, own: KeyMeter, hosts: int) -> KeyOverHosts | None:
        """(locked) Return what is known of a key; None if it has no row.

        Until the first look, and while no worker looks, a host sends one request at a time.

        Args:
            key_id: of the key.
            own: this worker's meter. A new worker's bucket begins as full as the fleet's is.
            hosts: that serve the key.
        """
        meter = self._meters.find(key_id)
        if meter < 0:
            return None
        row = self._ledger.key_row(meter)
        now = time.monotonic()
        self._first_read(key_id, own, row, now)
        allowance = allowance_of_row(row[_ALLOWANCE:])
        if not allowance.hosts or now > self._ledger.kept_at + STALE_SECONDS:
            start = period_start(time.time(), own.rates.budget_period)
            allowance = Allowance(hosts, _NOTHING, _NOTHING, _NOTHING, start, _NOTHING)
        return KeyOverHosts(self._since(key_id, Usage(*row[:_TOLD])), allowance)

    def left_behind(self, key_id: str, own: KeyMeter) -> tuple[Usage, Usage]:
        """Return the use by this host that peers were told of, and theirs that was heard, as the
        worker left it that kept the limits before.
        """
        meter = self._meters.find(key_id)
        with self._access.file.locked():
            total = own.usage + self.of_other_workers(key_id)
            row = self._ledger.key_row(meter) if meter >= 0 else _NO_ROW
            self._first_read(key_id, own, row, time.monotonic())
        if not row[_ALLOWANCE]:
            return total, NO_USAGE
        told = dataclasses.replace(total, requests=row[_TOLD], tokens=row[_TOLD + 1])
        return told, Usage(*row[:_TOLD])

    def work_out(self, key_id: str, portions: Portions, own: KeyMeter) -> None:
        """Work out what this host may use, all workers together, and write it for all of them."""
        meter = self._meters.find(key_id)
        with self._access.file.locked():
            if not self.is_keeper():
                return
            recalled = portions.recalled(own.usage)
            if recalled is not None:
                own.restore(recalled)
                self._meters.tell(key_id, own.usage)
            total = own.usage + self.of_other_workers(key_id)
            others = self._meters.others(key_id)
            now = time.monotonic()
            levels = own.levels(now=now, others=others + self._since(key_id, portions.heard))
            portions.tick(total, levels, now=now, unix=time.time())
            levels = own.levels(now=now, others=others + self._since(key_id, portions.heard))
            if meter >= 0:
                allowed = portions.allowance
                row = _NO_ROW[_ALLOWANCE:] if allowed is None else allowed.as_row()
                told = (total.requests, total.tokens, *levels, now)
                self._ledger.put_key_row(meter, (*portions.heard.as_row(), *told, *row))

    def _first_read(self, key_id: str, own: KeyMeter, row: Sequence[float], now: float) -> None:
        if key_id in self._before:
            return
        self._before[key_id] = (row[0], row[1])
        if row[_ALLOWANCE]:
            total = own.usage + self.of_other_workers(key_id)
            levels = (
                row[_LEVELS] - (total.requests - row[_TOLD]),
                row[_LEVELS + 1] - (total.tokens - row[_TOLD + 1]),
            )
            own.lower(levels, at=row[_LEVELS + 2], now=now)

    def _since(self, key_id: str, heard: Usage) -> Usage:
        """Return the use by other hosts since this worker read it first."""
        requests, tokens = self._before.get(key_id, (0.0, 0.0))
        return dataclasses.replace(
            heard, requests=heard.requests - requests, tokens=heard.tokens - tokens
        )

"""Shares the use of API keys with limits: workers publish counts, the parent keeps budgets."""

import logging
import time
from pathlib import Path

from partitiond.core.dispatch.routing import NO_KEY_RATES, KeyRates, KeyRoute
from partitiond.core.keys.rates_and_budgets import NO_USAGE, BudgetUse, Usage, budget_use
from partitiond.core.keys.wall_clock import WallClock
from partitiond.proxy.dispatch.ledger import KEYS, PAST, SlotLedger, key_hash
from partitiond.proxy.keys.budgets_file import BudgetsFile

_logger = logging.getLogger("partitiond.proxy")


class Meters:
    """Finds the position of each key's counts in the ledger."""

    def __init__(self, ledger: SlotLedger) -> None:
        self.ledger = ledger
        self._found: dict[str, tuple[int, int]] = {}

    def find(self, key_id: str) -> int:
        """Index of the key's meter; -1 if the key has none."""
        key, index = self._found.get(key_id, (0, -1))
        if index < 0 or self.ledger.keys.directory[index] != key:
            if len(self._found) > KEYS:
                self._found.clear()  # most have left the table
            key = key_hash(key_id)
            index = self.ledger.keys.find(key)
            self._found[key_id] = (key, index)
        return index


class SiblingMeters:
    """One worker's side: publishes its counts of each key, and reads the other workers' counts."""

    def __init__(self, ledger: SlotLedger, row: int) -> None:
        self._meters = Meters(ledger)
        self._ledger = ledger
        self._row = row

    def publish(self, key_id: str, usage: Usage) -> None:
        """Publish this worker's counts of a key."""
        meter = self._meters.find(key_id)
        if meter >= 0:
            self._ledger.put_usage(self._row, meter, usage)

    def others(self, key_id: str, latest: float) -> Usage:
        """Return what the other workers have counted of the key; `latest` as of the ledger."""
        meter = self._meters.find(key_id)
        return NO_USAGE if meter < 0 else self._ledger.usage_of_others(self._row, meter, latest)


class Budgets:
    """The parent's side: keeps budgets, which outlive all workers and the parent itself."""

    def __init__(self, path: Path, ledger: SlotLedger) -> None:
        self._file = BudgetsFile(path)
        self._ledger = ledger
        self._meters = Meters(ledger)
        self._rates: dict[str, KeyRates] = {}
        self._clock = WallClock()
        self._file.load()

    def apply(self, keys: tuple[KeyRoute, ...]) -> None:
        """Take over a table's keys; stored use of a budget is counted in the row `PAST`."""
        metered = sum(key.rates != NO_KEY_RATES for key in keys)
        if metered > KEYS:
            _logger.error(
                "%d keys have rates or budgets, and the workers share %d meters: each worker holds "
                "the others to their limits for itself, and their budgets are not kept. Set "
                "[proxy] workers to 1, or remove keys.",
                metered, KEYS,
            )  # fmt: skip
        self._rates = {key.id: key.rates for key in keys if key.rates.token_budget > 0}
        for key_id, rates in self._rates.items():
            meter = self._meters.find(key_id)
            if meter < 0:
                continue  # the stored use of its budget stays stored
            kept = self._file.take(key_id, rates)
            if kept is not None and self._ledger.usage_of_others(-1, meter).budget_tokens <= 0:
                use = Usage(budget_start=kept.start, budget_tokens=kept.tokens)
                self._ledger.put_usage(PAST, meter, use)

    def used(self) -> dict[str, BudgetUse]:
        """Return the use of budgets by all present and past workers, where there is any."""
        found: dict[str, BudgetUse] = {}
        latest = self._clock.latest(time.monotonic(), time.time())
        for key_id, rates in self._rates.items():
            meter = self._meters.find(key_id)
            if meter >= 0:
                # Else what ends in a wrong period would count no other of those that end later.
                self._ledger.put_usage(PAST, meter, self._ledger.usage(PAST, meter).until(latest))
                use = budget_use(rates, self._ledger.usage_of_others(-1, meter, latest))
                if use is not None:
                    found[key_id] = use
        return found

    def save(self) -> None:
        """Write the budgets if they have changed."""
        self._file.save(self.used())

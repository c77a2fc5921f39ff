"""Counts the use of each API key, enforces its rates and budget, and stores budgets on disk.

`core.keys.rates` decides; this module holds the meter of each key. Keys without limits are only
counted.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.routing import NO_KEY_RATES, WHOLE_SHARES, HostShares, KeyRoute
from partitiond.core.keys.rates import NO_USAGE, Allowed, BudgetUse, KeyMeter, Usage, budget_use
from partitiond.proxy.keys.budgets_file import BudgetsFile

SAVE_SECONDS: Final = 5.0
"""Interval of writing budgets while they change; a crash loses the use since the last write."""


@dataclasses.dataclass
class Receipt:
    """The debit of an admitted request on its key's account.

    Attributes:
        tokens: estimated tokens of the request.
        allowed: the debit on the key's meter; None if the key has no limits.
        meter: the meter that was debited. A key that lost its limits and got new ones has another.
    """

    key_id: str
    tokens: float
    allowed: Allowed | None
    meter: KeyMeter | None = None


@dataclasses.dataclass
class Counts:
    """Counts of a key, whether or not it has limits; `refused` by these."""

    requests: int = 0
    tokens: float = 0.0
    in_flight: int = 0
    refused: int = 0
    refused_tokens: float = 0.0


class Accounts:
    """All keys' accounts in one process.

    Attributes:
        others: returns what the other workers have counted of a key; set if there are any.
        tell: publishes this worker's counts to the others, whenever they change.
    """

    def __init__(self, path: Path | None) -> None:
        """With a path, read the budgets from there; `save` writes them there."""
        self._file = None if path is None else BudgetsFile(path)
        self._meters: dict[str, KeyMeter] = {}
        self._counts: dict[str, Counts] = {}
        self._kept: dict[str, BudgetUse] = {} if self._file is None else self._file.load()
        self._save_at = 0.0
        self.others: Callable[[str], Usage] = _nobody
        self.tell: Callable[[str, Usage], object] | None = None

    def apply(self, keys: Iterable[KeyRoute], shares: HostShares = WHOLE_SHARES) -> None:
        """Take over a table's keys; use that was counted before stays counted.

        Args:
            keys: of the table.
            shares: what this host may use of them.
        """
        now = time.monotonic()
        rows = {row.key: row for row in shares.rows}
        meters: dict[str, KeyMeter] = {}
        counts: dict[str, Counts] = {}
        for key in keys:
            counts[key.id] = self._counts.get(key.id) or Counts()
            if key.rates == NO_KEY_RATES:
                continue
            meter = self._meters.get(key.id)
            share = rows.get(key.id)
            if meter is None:
                meter = KeyMeter(key.rates, now, share, shares.part)
                self.others(key.id)  # the others' use counts from now on
                kept = self._kept.pop(key.id, None)
                if kept is not None:
                    meter.restore(kept)
            else:
                meter.apply(key.rates, now, share, shares.part)
            meters[key.id] = meter
        self._meters, self._counts = meters, counts

    def admit(self, key_id: str, tokens: float, service_seconds: float) -> Receipt | Rejected:
        """Debit a request, or return why its key may not send the request now."""
        meter = self._meters.get(key_id)
        counts = self._counts.get(key_id)
        allowed: Allowed | None = None
        if meter is not None:
            verdict = meter.admit(
                tokens,
                now=time.monotonic(),
                unix=time.time(),
                others=self.others(key_id),
                service_seconds=service_seconds,
            )
            if isinstance(verdict, Rejected):
                if counts is not None:
                    counts.refused += 1
                    counts.refused_tokens += tokens
                return verdict
            allowed = verdict
            if self.tell is not None:
                self.tell(key_id, meter.usage)
        if counts is not None:
            counts.requests += 1
            counts.in_flight += 1
        return Receipt(key_id, tokens, allowed, meter)

    def settle(self, receipt: Receipt, actual_tokens: float) -> None:
        """Settle a request that ended in any way. Call it exactly once for each receipt."""
        counts = self._counts.get(receipt.key_id)
        if counts is not None:
            counts.tokens += actual_tokens
            counts.in_flight = max(0, counts.in_flight - 1)
        meter = self._meters.get(receipt.key_id)
        # A different meter has not debited this request, so it must not refund the debit.
        if meter is not None and meter is receipt.meter and receipt.allowed is not None:
            meter.settle(receipt.allowed, actual_tokens, now=time.monotonic(), unix=time.time())
            if self.tell is not None:
                self.tell(receipt.key_id, meter.usage)

    def uses(self) -> dict[str, dict[str, float]]:
        """Return what each key has used, for queries to the proxy."""
        found: dict[str, dict[str, float]] = {}
        for key_id, counts in self._counts.items():
            meter = self._meters.get(key_id)
            found[key_id] = {
                "requests": counts.requests,
                "tokens": round(counts.tokens),
                "budget_used": round(meter.usage.budget_tokens) if meter is not None else 0,
                "in_flight": counts.in_flight,
            }
        return found

    def for_the_head(self) -> dict[str, dict[str, float]]:
        """Return a `KeyCount` of each key with limits that was used; a budget is of this worker."""
        found: dict[str, dict[str, float]] = {}
        for key_id, meter in self._meters.items():
            usage, counts = meter.usage, self._counts[key_id]
            if usage != NO_USAGE or counts.refused:
                found[key_id] = {
                    "requests": usage.requests,
                    "tokens": usage.tokens,
                    "refused": counts.refused,
                    "refused_tokens": counts.refused_tokens,
                    "in_flight": usage.in_flight,
                    "budget_start": usage.budget_start,
                    "budget_tokens": usage.budget_tokens,
                }
        return found

    def budgets(self) -> dict[str, BudgetUse]:
        """Return the budgets to store: over all workers' rows, and of keys not in the table."""
        found = dict(self._kept)
        for key_id, meter in self._meters.items():
            use = budget_use(meter.rates, meter.usage + self.others(key_id))
            if use is not None:
                found[key_id] = use
        return found

    def save_if_due(self, now: float) -> None:
        """Write the budgets at most once per `SAVE_SECONDS`; called periodically."""
        if now >= self._save_at:
            self._save_at = now + SAVE_SECONDS
            self.save()

    def save(self) -> None:
        """Write the budgets if they have changed. A full disk loses budgets, never a request."""
        if self._file is not None:
            self._file.save(self.budgets())


def _nobody(_key_id: str) -> Usage:
    return NO_USAGE

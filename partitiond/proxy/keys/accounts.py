"""Keeps one account for each API key, with the meter of its limits, and stores budgets on disk.

`core.keys.rates_and_budgets` decides. Keys without limits are only counted.
"""

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.routing import NO_KEY_RATES, WHOLE_SHARES, HostShares, KeyRoute
from partitiond.core.keys.rates_and_budgets import (
    NO_USAGE,
    NOT_RESERVED,
    BudgetUse,
    KeyMeter,
    Usage,
    budget_use,
)
from partitiond.core.keys.wall_clock import WallClock
from partitiond.proxy.keys.budgets_file import BudgetsFile

SAVE_SECONDS: Final = 5.0
"""Interval of writing budgets while they change; a crash loses the use since the last write."""


class Account:
    """What one process counts of a key.

    Attributes:
        meter: enforces the key's limits; None if it has none.
        requests: admitted ones, whether or not the key has limits, as are tokens and in_flight.
        refused, refused_tokens: by these limits; tokens of requests that had begun.
        service_seconds: mean time of a request to the model that the key used last.
    """

    __slots__ = (
        "in_flight", "meter", "refused", "refused_tokens", "requests", "service_seconds", "tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self.meter: KeyMeter | None = None
        self.requests = 0
        self.tokens = 0.0
        self.in_flight = 0
        self.refused = 0
        self.refused_tokens = 0.0
        self.service_seconds = 1.0


class Receipt:
    """The debit of a request that has begun.

    Attributes:
        key_id: of the account's key.
        account: that was debited.
        meter: of the key; None if it has no limits. A key that lost its limits and got new ones has
            another.
        allowed: the tokens debited there.
    """

    def __init__(self, key_id: str, account: Account, meter: KeyMeter | None) -> None:
        self.key_id: Final = key_id
        self.account: Final = account
        self.meter: Final = meter
        self.allowed = NOT_RESERVED


class Accounts:
    """All keys' accounts in one process.

    Attributes:
        others: returns what the other workers have counted of a key, in periods that begin at the
            latest at a time; set if there are any.
        publish: publishes this worker's counts to the others, whenever they change.
    """

    def __init__(self, path: Path | None) -> None:
        """With a path, read the budgets from there; `save` writes them there."""
        self._file = None if path is None else BudgetsFile(path)
        if self._file is not None:
            self._file.load()
        self._accounts: dict[str, Account] = {}
        self._unknown = Account()
        """Of requests without a key, and of keys of no table, which nobody asks for."""
        self._save_at = 0.0
        self._clock = WallClock()
        self.others: Callable[[str, float], Usage] = lambda _key_id, _latest: NO_USAGE
        self.publish: Callable[[str, Usage], object] | None = None

    def apply(self, keys: Iterable[KeyRoute], shares: HostShares = WHOLE_SHARES) -> None:
        """Take over a table's keys; use that was counted before stays counted.

        Args:
            keys: of the table.
            shares: what this host may use of them.
        """
        now = time.monotonic()
        rows = {row.key: row for row in shares.rows}
        accounts: dict[str, Account] = {}
        for key in keys:
            account = accounts[key.id] = self._accounts.get(key.id) or Account()
            if key.rates == NO_KEY_RATES:
                account.meter = None
            elif account.meter is not None:
                account.meter.apply(key.rates, now, rows.get(key.id), shares.part)
            else:
                others = self.others(key.id, math.inf)  # their use counts from now on
                account.meter = KeyMeter(key.rates, now, rows.get(key.id), shares.part, others)
                kept = None if self._file is None else self._file.take(key.id, key.rates)
                if kept is not None:
                    account.meter.restore(kept)
        self._accounts = accounts

    def begin(self, key_id: str) -> Receipt | Rejected:
        """Count a request whose head has come, or return why its key may not send one now."""
        account = self._accounts.get(key_id, self._unknown)
        meter = account.meter
        if meter is not None:
            refused = meter.begin(
                now=time.monotonic(),
                others=self.others(key_id, math.inf),
                service_seconds=account.service_seconds,
            )
            if refused is not None:
                account.refused += 1
                return refused
            if self.publish is not None:
                self.publish(key_id, meter.usage)
        account.in_flight += 1
        return Receipt(key_id, account, meter)

    def reserve(self, receipt: Receipt, tokens: float, service_seconds: float) -> Rejected | None:
        """Debit the tokens of a request that has begun, or return why its key may not use them."""
        account, meter = receipt.account, receipt.meter
        account.service_seconds = service_seconds
        if meter is None or meter is not account.meter:
            account.requests += 1
            return None
        now, unix = time.monotonic(), time.time()
        latest = self._clock.latest(now, unix)
        others = self.others(receipt.key_id, latest)
        verdict = meter.reserve(tokens, now=now, unix=unix, others=others, latest=latest)
        if isinstance(verdict, Rejected):
            account.refused += 1
            account.refused_tokens += tokens
            return verdict
        account.requests += 1
        receipt.allowed = verdict
        if self.publish is not None:
            self.publish(receipt.key_id, meter.usage)
        return None

    def settle(self, receipt: Receipt, actual_tokens: float) -> None:
        """Settle a request that ended in any way. Call it exactly once for each receipt."""
        account = receipt.account
        account.tokens += actual_tokens
        account.in_flight -= 1
        meter = account.meter
        # A different meter has not debited this request, so it must not refund the debit.
        if meter is not None and meter is receipt.meter:
            now, unix = time.monotonic(), time.time()
            latest = self._clock.latest(now, unix)
            meter.settle(receipt.allowed, actual_tokens, now=now, unix=unix, latest=latest)
            if self.publish is not None:
                self.publish(receipt.key_id, meter.usage)

    def uses(self) -> dict[str, dict[str, float]]:
        """Return what each key has used, for queries to the proxy."""
        return {
            key_id: {
                "requests": account.requests,
                "tokens": round(account.tokens),
                "budget_used": round(_usage(account).budget_tokens),
                "in_flight": account.in_flight,
            }
            for key_id, account in self._accounts.items()
        }

    def for_the_head(self) -> dict[str, dict[str, float]]:
        """Return a `KeyCount` of each key with limits that was used; a budget is of this worker."""
        found: dict[str, dict[str, float]] = {}
        for key_id, account in self._accounts.items():
            usage = _usage(account)
            if usage != NO_USAGE or account.refused:
                found[key_id] = {
                    "requests": account.requests,
                    "tokens": usage.tokens,
                    "refused": account.refused,
                    "refused_tokens": account.refused_tokens,
                    "in_flight": usage.in_flight,
                    "budget_start": usage.budget_start,
                    "budget_tokens": usage.budget_tokens,
                }
        return found

    def save_if_due(self, now: float) -> None:
        """Write the budgets at most once per `SAVE_SECONDS`; called periodically."""
        if now >= self._save_at:
            self._save_at = now + SAVE_SECONDS
            self.save()

    def save(self) -> None:
        """Write the budgets if they have changed. A full disk loses budgets, never a request."""
        if self._file is None:
            return
        used: dict[str, BudgetUse] = {}
        for key_id, account in self._accounts.items():
            if account.meter is not None:
                use = budget_use(account.meter.rates, account.meter.usage)
                if use is not None:
                    used[key_id] = use
        self._file.save(used)


def _usage(account: Account) -> Usage:
    return NO_USAGE if account.meter is None else account.meter.usage

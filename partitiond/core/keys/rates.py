"""Enforces what an API key may use: requests and tokens a minute, at once, and per period.

A minute's limits are token buckets of one minute's size: whatever a key did before, in any stretch
of t seconds it is admitted at most one minute's amount plus t times the rate. Tokens are debited by
estimate when a request is admitted, and corrected by actual usage when the request ends; an
estimate that was too low leaves the bucket in debt. A request of more tokens than the whole bucket
is admitted when the bucket is full, and its debt is paid off before the next request.

A budget is a sum over a UTC period (an hour, a day, a month, or for ever). It is reserved by
estimate, too, so that many requests at once cannot exceed it together.

Several worker processes serve one key. Each keeps a row of plain numbers (`Usage`), cumulative for
the buckets, and is told the sum of the other workers' rows. What the others used since the last
time is debited here as if it had been used here. So limits hold for all workers together, apart
from the age of the rows.

Several hosts may serve one key, too. Their use comes in the same way, but is older. Therefore a
host has an `Allowance`, which `core.keys.portions` works out, and uses no more than that.

There are two clocks, both arguments: `now` is monotonic seconds, for the buckets; `unix` is Unix
seconds, for the periods.
"""

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from partitiond.core.dispatch.admission import Rejected, retry_after_seconds
from partitiond.core.dispatch.routing import BudgetPeriod, KeyRates
from partitiond.core.keys.allowance import Allowance

_SECONDS: Final = {BudgetPeriod.HOUR: 3600, BudgetPeriod.DAY: 86_400}
_PERIOD_WORDS: Final = {
    BudgetPeriod.HOUR: "this hour",
    BudgetPeriod.DAY: "today (UTC)",
    BudgetPeriod.MONTH: "this month (UTC)",
    BudgetPeriod.NEVER: "in all",
}


class RejectedForNow(Rejected):
    """A refusal for lack of a portion alone (`core.keys.portions`): the limit itself may have room,
    and this host hears within some tenths of a second how much of it.
    """


def period_start(unix: float, period: BudgetPeriod) -> float:
    """Start of the period that contains this moment, in Unix seconds; 0 for NEVER."""
    if period is BudgetPeriod.NEVER:
        return 0.0
    if period is BudgetPeriod.MONTH:
        return _month_start(unix, 0)
    seconds = _SECONDS[period]
    return float(math.floor(unix / seconds) * seconds)


def period_end(unix: float, period: BudgetPeriod) -> float | None:
    """Start of the next period, in Unix seconds; None for NEVER."""
    if period is BudgetPeriod.NEVER:
        return None
    if period is BudgetPeriod.MONTH:
        return _month_start(unix, 1)
    return period_start(unix, period) + _SECONDS[period]


def _month_start(unix: float, later: int) -> float:
    moment = datetime.datetime.fromtimestamp(unix, datetime.UTC)
    months = moment.year * 12 + moment.month - 1 + later
    year, month = divmod(months, 12)
    return datetime.datetime(year, month + 1, 1, tzinfo=datetime.UTC).timestamp()


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """One worker's counts for one key; a row of five numbers.

    Attributes:
        requests: admitted since the worker's start.
        tokens: debited since the worker's start, corrections included.
        in_flight: requests running or waiting now.
        budget_start: start of the budget's period, Unix seconds.
        budget_tokens: tokens of the budget that are used or reserved in that period.
    """

    requests: float = 0.0
    tokens: float = 0.0
    in_flight: float = 0.0
    budget_start: float = 0.0
    budget_tokens: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        """Add both; of the budgets only the one of the later period counts."""
        start = max(self.budget_start, other.budget_start)
        return Usage(
            self.requests + other.requests,
            self.tokens + other.tokens,
            self.in_flight + other.in_flight,
            start,
            self.budget_in(start) + other.budget_in(start),
        )

    def budget_in(self, start: float) -> float:
        """Return tokens of the budget in the period that began at `start`."""
        return self.budget_tokens if self.budget_start == start else 0.0

    def as_row(self) -> tuple[float, float, float, float, float]:
        """Return the counts as numbers, for a table that workers share."""
        return (
            self.requests, self.tokens, self.in_flight, self.budget_start, self.budget_tokens
        )  # fmt: skip


NO_USAGE: Final = Usage()


@dataclasses.dataclass(frozen=True, slots=True)
class Allowed:
    """The receipt of an admitted request, for `KeyMeter.settle`.

    Attributes:
        tokens: that were debited.
        budget_start: start of the period in whose budget they were reserved.
    """

    tokens: float
    budget_start: float


@dataclasses.dataclass(slots=True)
class Bucket:
    """A token bucket of one minute's size.

    Attributes:
        per_minute: rate and size; 0 is no limit.
        level: amount that may be taken at `at`; negative while in debt.
        at: monotonic seconds of `level`.
    """

    per_minute: float
    level: float
    at: float

    def fill(self, now: float) -> None:
        """Bring the level up to date."""
        if now > self.at:
            added = (now - self.at) * self.per_minute / 60
            self.level = min(self.per_minute, self.level + added)
            self.at = now

    def wait_seconds(self, amount: float) -> float:
        """Return seconds from the last `fill` until this amount may be taken; 0 if it may be
        now.
        """
        if self.per_minute <= 0:
            return 0.0
        missing = min(amount, self.per_minute) - self.level
        # A rounding error of the level must not refuse what is due.
        return missing * 60 / self.per_minute if missing > 1e-9 * self.per_minute else 0.0

    def debit(self, amount: float) -> None:
        """Take an amount; a negative amount is a refund, which never fills beyond the size."""
        if self.per_minute > 0:
            self.level = min(self.per_minute, self.level - amount)

    def resize(self, per_minute: float) -> None:
        """Set another limit; what was used of the old one stays used, unless there was none."""
        used = self.per_minute - self.level if self.per_minute > 0 else 0.0
        self.level = min(per_minute, per_minute - used)
        self.per_minute = per_minute


class KeyMeter:
    """One worker's account of one key. `usage` is its row."""

    def __init__(self, rates: KeyRates, now: float) -> None:
        self.rates = rates
        self._requests = Bucket(rates.requests_per_minute, rates.requests_per_minute, now)
        self._tokens = Bucket(rates.tokens_per_minute, rates.tokens_per_minute, now)
        self._seen = NO_USAGE
        self.usage = NO_USAGE

    def apply(self, rates: KeyRates, now: float) -> None:
        """Set other limits from now on; what was used stays used."""
        for bucket, per_minute in (
            (self._requests, rates.requests_per_minute),
            (self._tokens, rates.tokens_per_minute),
        ):
            bucket.fill(now)
            bucket.resize(per_minute)
        self.rates = rates

    def admit(
        self,
        tokens: float,
        *,
        now: float,
        unix: float,
        others: Usage = NO_USAGE,
        service_seconds: float = 1.0,
        allowance: Allowance | None = None,
        siblings: Usage = NO_USAGE,
    ) -> Allowed | Rejected:
        """Return whether the key may send this request now; if it may, the request is debited.

        Args:
            tokens: estimated prompt and output tokens of all its sequences.
            now: monotonic seconds.
            unix: Unix seconds.
            others: sum of the other workers' rows and of what was heard of other hosts.
            service_seconds: mean time of a request, for Retry-After when too many are in flight.
            allowance: of this host; None if no other host serves the key.
            siblings: sum of the rows of this host's other workers, to compare with the allowance.
        """
        self._learn(others, now)
        rejected = (
            self._refuse_in_flight(others, service_seconds)
            or self._refuse_budget(tokens, unix, others)
            or self._refuse_rates(tokens)
        )
        if rejected is None and allowance is not None:
            rejected = self._refuse_portion(tokens, unix, others, siblings, allowance)
        if rejected is not None:
            return rejected
        self._requests.debit(1)
        self._tokens.debit(tokens)
        used = self.usage
        start = period_start(unix, self.rates.budget_period)
        self.usage = Usage(
            used.requests + 1,
            used.tokens + tokens,
            used.in_flight + 1,
            start,
            used.budget_in(start) + tokens,
        )
        return Allowed(tokens, start)

    def settle(self, allowed: Allowed, actual_tokens: float, *, now: float, unix: float) -> None:
        """Settle an ended request, however it ended: exactly once for each `Allowed`.

        The difference from the estimate is corrected in the period in which the request was
        admitted; if that period is over, nothing is left to correct.
        """
        more = actual_tokens - allowed.tokens
        self._tokens.fill(now)
        self._tokens.debit(more)
        used = self.usage
        start = period_start(unix, self.rates.budget_period)
        budget = used.budget_in(start)
        if allowed.budget_start == start:
            budget += more
        self.usage = Usage(
            used.requests, used.tokens + more, max(0.0, used.in_flight - 1), start, budget
        )

    def levels(self, *, now: float, others: Usage = NO_USAGE) -> tuple[float, float]:
        """Return the levels of the buckets of requests and tokens, for `Portions.tick`."""
        self._learn(others, now)
        return self._requests.level, self._tokens.level

    def lower(self, levels: tuple[float, float], *, at: float, now: float) -> None:
        """Lower the buckets of requests and tokens to what these levels are by now.

        Args:
            levels: of another worker's buckets.
            at: monotonic seconds of these levels.
            now: monotonic seconds.
        """
        for bucket, level in zip((self._requests, self._tokens), levels, strict=True):
            bucket.fill(now)
            bucket.level = min(bucket.level, level + (now - at) * bucket.per_minute / 60)

    def restore(self, budget: "BudgetUse") -> None:
        """Restore what was used of the budget before a restart; for one of the workers only."""
        if budget.period is self.rates.budget_period:
            self.usage = dataclasses.replace(
                self.usage, budget_start=budget.start, budget_tokens=budget.tokens
            )

    def _learn(self, others: Usage, now: float) -> None:
        """Debit what the other workers took since the last call."""
        # Fewer requests than before: a worker was restarted, and what it took is not known.
        known = others.requests >= self._seen.requests
        for bucket, seen, used in (
            (self._requests, self._seen.requests, others.requests),
            (self._tokens, self._seen.tokens, others.tokens),
        ):
            bucket.fill(now)
            if known:
                bucket.debit(used - seen)
        self._seen = others

    def _refuse_in_flight(self, others: Usage, service_seconds: float) -> Rejected | None:
        limit = self.rates.max_in_flight
        running = self.usage.in_flight + others.in_flight
        if limit <= 0 or running < limit:
            return None
        return Rejected(
            429,
            "too_many_in_flight",
            f"The key has {running:.0f} requests in flight, as many as it may.",
            retry_after_seconds(service_seconds / max(1.0, running)),
        )

    def _refuse_budget(self, tokens: float, unix: float, others: Usage) -> Rejected | None:
        budget, period = self.rates.token_budget, self.rates.budget_period
        if budget <= 0:
            return None
        start = period_start(unix, period)
        used = self.usage.budget_in(start) + others.budget_in(start)
        if used + tokens <= budget:
            return None
        end = period_end(unix, period)
        return Rejected(
            429,
            "budget_exhausted",
            f"The key has used {used:.0f} of its {budget} tokens {_PERIOD_WORDS[period]}; "
            f"this request may need {tokens:.0f}.",
            # Not bounded as other waits are, because no earlier attempt can succeed.
            None if end is None else max(1, math.ceil(end - unix)),
        )

    def _refuse_rates(self, tokens: float) -> Rejected | None:
        wait = self._requests.wait_seconds(1)
        if wait > 0:
            return Rejected(
                429,
                "rate_limited",
                f"The key may send {self.rates.requests_per_minute} requests a minute.",
                retry_after_seconds(wait),
            )
        wait = self._tokens.wait_seconds(tokens)
        if wait > 0:
            return Rejected(
                429,
                "tokens_rate_limited",
                f"The key may use {self.rates.tokens_per_minute} tokens a minute.",
                retry_after_seconds(wait),
            )
        return None

    def _refuse_portion(
        self, tokens: float, unix: float, others: Usage, siblings: Usage, allowance: Allowance
    ) -> Rejected | None:
        """Refuse what other hosts may be using in this moment. Their next words come soon."""
        rates, host = self.rates, self.usage + siblings
        start = period_start(unix, rates.budget_period)
        running = self.usage.in_flight + others.in_flight
        used = self.usage.budget_in(start) + others.budget_in(start)
        budget = allowance.budget_in(start, rates.token_budget)
        why = None
        if rates.max_in_flight > 0 and allowance.in_flight.refuses(
            host.in_flight, 1.0, rates.max_in_flight - running
        ):
            why = ("too_many_in_flight", f"requests in flight ({rates.max_in_flight})")
        elif rates.token_budget > 0 and budget.refuses(
            host.budget_in(start), tokens, rates.token_budget - used
        ):
            words = _PERIOD_WORDS[rates.budget_period]
            why = ("budget_exhausted", f"tokens {words} ({rates.token_budget})")
        elif rates.requests_per_minute > 0 and allowance.requests.refuses(
            host.requests, 1.0, self._requests.level
        ):
            why = ("rate_limited", f"requests a minute ({rates.requests_per_minute})")
        elif rates.tokens_per_minute > 0 and allowance.tokens.refuses(
            host.tokens, tokens, self._tokens.level
        ):
            why = ("tokens_rate_limited", f"tokens a minute ({rates.tokens_per_minute})")
        if why is None:
            return None
        allowance.wanted = True
        return RejectedForNow(
            429,
            why[0],
            f"Other hosts may be using what is left of the key's {why[1]}; this host asks them.",
            1,
        )


BudgetOfHost = tuple[str, int, float, float]
"""Host, incarnation of its counts, start of the period, tokens of the budget."""
_MOST_HOSTS: Final = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class BudgetUse:
    """The used part of a key's budget, to be kept over a restart.

    Attributes:
        period: of the budget.
        start: start of the period, Unix seconds.
        tokens: used in the period, by all workers of this host.
        hosts: what other hosts have used of it, as far as this one knows.
    """

    period: BudgetPeriod
    start: float
    tokens: float
    hosts: tuple[BudgetOfHost, ...] = ()


def budget_use(
    rates: KeyRates, total: Usage, hosts: tuple[BudgetOfHost, ...] = ()
) -> BudgetUse | None:
    """Return the part of all workers' summed rows that is worth keeping; None without a budget.

    Args:
        rates: of the key.
        total: of this host.
        hosts: what the other hosts have used.
    """
    if rates.token_budget <= 0 or (total.budget_tokens <= 0 and not hosts):
        return None
    return BudgetUse(rates.budget_period, total.budget_start, max(0.0, total.budget_tokens), hosts)


def budgets_to_dict(budgets: Mapping[str, BudgetUse]) -> dict[str, dict[str, object]]:
    """Convert to plain data, by key id."""
    return {key: _as_plain(use) for key, use in budgets.items()}


def _as_plain(use: BudgetUse) -> dict[str, object]:
    plain: dict[str, object] = {
        "period": use.period.value, "start": use.start, "tokens": use.tokens
    }  # fmt: skip
    if use.hosts:
        plain["hosts"] = [list(one) for one in use.hosts]
    return plain


def budgets_from_dict(data: object) -> dict[str, BudgetUse]:
    """Convert back. Entries that make no sense are left out: a bad file must not stop the proxy."""
    found: dict[str, BudgetUse] = {}
    if not isinstance(data, Mapping):
        return found
    for key, one in data.items():
        try:
            use = BudgetUse(BudgetPeriod(one["period"]), float(one["start"]), float(one["tokens"]))
            use = dataclasses.replace(use, hosts=_hosts_of(one.get("hosts", ())))
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            continue
        if isinstance(key, str) and math.isfinite(use.start) and 0 <= use.tokens < math.inf:
            found[key] = use
    return found


def _hosts_of(rows: Sequence[Sequence[Any]]) -> tuple[BudgetOfHost, ...]:
    """Raises TypeError or ValueError if that is no list of hosts' use."""
    return tuple(
        [
            (str(host), int(incarnation), float(start), float(tokens))
            for host, incarnation, start, tokens in rows[:_MOST_HOSTS]
        ]
    )

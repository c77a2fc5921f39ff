"""Checks requests against the rates and the budget of an API key, and counts what was used. Pure.

A minute's limits are token buckets of one minute's size: whatever a key did before, in any stretch
of t seconds it is admitted at most one minute's amount plus t times the rate. Tokens are debited by
estimate when a request is admitted, and corrected by actual usage when the request ends; an
estimate that was too low leaves the bucket in debt. A request of more tokens than the whole bucket
is admitted when the bucket is full, and its debt is paid off before the next request.

A request counts in flight and in the rate of requests from its head on, whatever becomes of it
(`begin`); its tokens count once its body is known (`reserve`).

A budget is a sum over a UTC period (an hour, a day, a month, or for ever). It is reserved by
estimate, too, so that many requests at once cannot exceed it together.

Several worker processes serve one key. Each keeps a row of plain numbers (`Usage`), cumulative for
the buckets, and is told the sum of the other workers' rows. What the others used since the last
time is debited here as if it had been used here. So limits hold for all workers together, apart
from the age of the rows.

Where several hosts serve one key, all this holds for the host's share (`core.keys.shares`). A
bucket that grows with its share has no more in it than before, and one that shrinks loses only what
it cannot hold. So no move of a share adds to what all hosts together may take.

The period of a budget is the latest that the clock, the counts or the head have said, as far as
they are to be believed (`core.keys.wall_clock`). So a clock that steps back over the end of a
period, and forth again, begins no budget anew.

There are two clocks, both arguments: `now` is monotonic seconds, for the buckets; `unix` is Unix
seconds, for the periods.
"""

import dataclasses
import datetime
import math
from collections.abc import Mapping
from typing import Final

from partitiond.core.dispatch.admission import Rejected, retry_after_seconds
from partitiond.core.dispatch.routing import BudgetPeriod, KeyRates, KeyShare, share_by_part
from partitiond.core.keys.wall_clock import STEADY_SECONDS

_SECONDS: Final = {BudgetPeriod.HOUR: 3600, BudgetPeriod.DAY: 86_400}
_PERIOD_WORDS: Final = {
    BudgetPeriod.HOUR: "this hour",
    BudgetPeriod.DAY: "today (UTC)",
    BudgetPeriod.MONTH: "this month (UTC)",
    BudgetPeriod.NEVER: "in all",
}


SHARE_SECONDS: Final = 5
"""Time in which the head sees that a share is too small, and gives the host more of what others do
not use: two looks of 2 s (`controller.demand.traffic`), and the tables.
"""
_LEAST_PART: Final = 1e-6
"""Smallest size of a bucket, as a part of the limit: a bucket of no size would be no limit. A host
that has no share yet may send one request."""


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


def present_period(period: BudgetPeriod, unix: float, latest: float, *known: float) -> float:
    """Return the start of the period that counts now: by the clock, or a later known one of at most
    `latest`.
    """
    return max([period_start(unix, period), *[start for start in known if start <= latest]])


def _month_start(unix: float, later: int) -> float:
    moment = datetime.datetime.fromtimestamp(unix, datetime.UTC)
    months = moment.year * 12 + moment.month - 1 + later
    year, month = divmod(months, 12)
    return datetime.datetime(year, month + 1, 1, tzinfo=datetime.UTC).timestamp()


@dataclasses.dataclass(init=False, slots=True)
class Usage:
    """One worker's counts for one key; a row of five numbers.

    Attributes:
        requests: admitted since the worker's start.
        tokens: debited since the worker's start, corrections included.
        in_flight: requests running or waiting now.
        budget_start: start of the budget's period, Unix seconds.
        budget_tokens: tokens of the budget that are used or reserved in that period.
    """

    requests: Final[float]
    tokens: Final[float]
    in_flight: Final[float]
    budget_start: Final[float]
    budget_tokens: Final[float]

    def __init__(
        self,
        requests: float = 0.0,
        tokens: float = 0.0,
        in_flight: float = 0.0,
        budget_start: float = 0.0,
        budget_tokens: float = 0.0,
    ) -> None:
        self.requests = requests
        self.tokens = tokens
        self.in_flight = in_flight
        self.budget_start = budget_start
        self.budget_tokens = budget_tokens

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

    def until(self, latest: float) -> "Usage":
        """Return the counts without a budget whose period is later than that."""
        if self.budget_start <= latest:
            return self
        return Usage(self.requests, self.tokens, self.in_flight)

    def budget_in(self, start: float) -> float:
        """Return tokens of the budget in the period that began at `start`."""
        return self.budget_tokens if self.budget_start == start else 0.0

    def as_row(self) -> tuple[float, float, float, float, float]:
        """Return the counts as numbers, for a table that workers share."""
        return (
            self.requests, self.tokens, self.in_flight, self.budget_start, self.budget_tokens
        )  # fmt: skip


NO_USAGE: Final = Usage()


class Allowed:
    """The receipt of a request, for `KeyMeter.settle`.

    Attributes:
        tokens: that were debited.
        budget_start: start of the period in whose budget they were reserved.
    """

    __slots__ = ("budget_start", "tokens")

    def __init__(self, tokens: float, budget_start: float) -> None:
        self.tokens: Final = tokens
        self.budget_start: Final = budget_start


NOT_RESERVED: Final = Allowed(0.0, 0.0)
"""Of a request that has begun, and whose tokens are not known."""


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

    def move(self, per_minute: float) -> None:
        """Set the size of another share of the same limit; that adds nothing."""
        self.level = min(per_minute, self.level)
        self.per_minute = per_minute

    def resize(self, per_minute: float) -> None:
        """Set another limit; what was used of the old one stays used, unless there was none."""
        used = self.per_minute - self.level if self.per_minute > 0 else 0.0
        self.level = min(per_minute, per_minute - used)
        self.per_minute = per_minute


class KeyMeter:
    """One worker's account of one key. `usage` is its row."""

    def __init__(
        self,
        rates: KeyRates,
        now: float,
        share: KeyShare | None = None,
        part: float = 1.0,
        others: Usage = NO_USAGE,
    ) -> None:
        """Begin with full buckets, whatever others used before; else arguments as of `apply`."""
        self.rates = rates
        self.part = part
        self.share = share_by_part("", rates, part) if share is None else share
        requests, tokens = self._sizes()
        self._requests = Bucket(requests, requests, now)
        self._tokens = Bucket(tokens, tokens, now)
        self._seen = others
        self.usage = NO_USAGE

    def apply(
        self, rates: KeyRates, now: float, share: KeyShare | None = None, part: float = 1.0
    ) -> None:
        """Set other limits from now on; what was used stays used.

        Args:
            rates: limits of the key.
            now: monotonic seconds.
            share: of this host; None if it has a part of each limit.
            part: that it has else, and of a budget in any other period.
        """
        before, self.rates = self.rates, rates
        self.part = part
        self.share = share_by_part("", rates, part) if share is None else share
        requests, tokens = self._sizes()
        for bucket, size, was, limit in (
            (self._requests, requests, before.requests_per_minute, rates.requests_per_minute),
            (self._tokens, tokens, before.tokens_per_minute, rates.tokens_per_minute),
        ):
            bucket.fill(now)
            if was == limit:
                bucket.move(size)
                continue
            if was and limit:  # a share that moves in the same table is no new burst
                bucket.move(size * was / limit)
            bucket.resize(size)

    def begin(
        self, *, now: float, others: Usage = NO_USAGE, service_seconds: float = 1.0
    ) -> Rejected | None:
        """Count a request that begins, or return why the key may not send one now.

        Args:
            now: monotonic seconds.
            others: sum of the other workers' rows.
            service_seconds: mean time of a request, for Retry-After when too many are in flight.
        """
        self._learn(others, now)
        rejected = self._refuse_in_flight(others, service_seconds) or self._refuse_rate(1.0)
        if rejected is None:
            self._requests.debit(1)
            self.usage += Usage(requests=1.0, in_flight=1.0)
        return rejected

    def reserve(
        self, tokens: float, *, now: float, unix: float, latest: float, others: Usage = NO_USAGE
    ) -> Allowed | Rejected:
        """Debit the tokens of a request that has begun, or return why the key may not use them now.

        Args:
            tokens: estimated prompt and output tokens of all its sequences.
            now: monotonic seconds.
            unix: Unix seconds.
            latest: start of a period to believe (`core.keys.wall_clock`).
            others: sum of the other workers' rows.
        """
        self._learn(others, now)
        start = self._period(unix, latest, others.budget_start)
        rejected = self._refuse_budget(tokens, start, unix, others)
        rejected = rejected or self._refuse_rate(tokens, of_tokens=True)
        if rejected is not None:
            return rejected
        self._tokens.debit(tokens)
        used = self.usage
        budget = used.budget_in(start) + tokens
        self.usage = Usage(used.requests, used.tokens + tokens, used.in_flight, start, budget)
        return Allowed(tokens, start)

    def settle(
        self, allowed: Allowed, actual_tokens: float, *, now: float, unix: float, latest: float
    ) -> None:
        """Settle an ended request, however it ended: exactly once for each that began.

        The difference from the estimate is corrected in the period in which the request was
        admitted; if that period is over, nothing is left to correct.
        """
        more = actual_tokens - allowed.tokens
        self._tokens.fill(now)
        self._tokens.debit(more)
        used = self.usage
        start = self._period(unix, latest)
        budget = used.budget_in(start)
        if allowed.budget_start == start:
            budget += more
        self.usage = Usage(
            used.requests, used.tokens + more, max(0.0, used.in_flight - 1), start, budget
        )

    def restore(self, budget: "BudgetUse") -> None:
        """Restore what was used of the budget before a restart."""
        self.usage = dataclasses.replace(
            self.usage, budget_start=budget.start, budget_tokens=budget.tokens
        )

    def _sizes(self) -> tuple[float, float]:
        """Return the sizes of the buckets of requests and tokens; 0 without a limit."""
        share, rates = self.share, self.rates
        return (
            max(share.requests, _LEAST_PART) * rates.requests_per_minute,
            max(share.tokens, _LEAST_PART) * rates.tokens_per_minute,
        )

    def _period(self, unix: float, latest: float, others: float = 0.0) -> float:
        """Return the start of the budget's period, in Unix seconds (see the module)."""
        mine, heads = self.usage.budget_start, self.share.budget_start
        return present_period(self.rates.budget_period, unix, latest, mine, others, heads)

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
        if limit <= 0 or running < min(limit, self.share.in_flight):
            return None
        return Rejected(
            429,
            "too_many_in_flight",
            f"The key has {running:.0f} requests in flight{self._here(self.share.in_flight, limit)}"
            ", as many as it may.",
            retry_after_seconds(service_seconds / max(1.0, running)),
        )

    def _refuse_budget(
        self, tokens: float, start: float, unix: float, others: Usage
    ) -> Rejected | None:
        budget, period = self.rates.token_budget, self.rates.budget_period
        if budget <= 0:
            return None
        share = self.share
        mine = share.budget if start == share.budget_start else self.part * budget
        used = self.usage.budget_in(start) + others.budget_in(start)
        if used + tokens <= min(budget, mine):
            return None
        end = period_end(max(unix, start), period)
        # Not bounded as other waits are, because no earlier attempt can succeed.
        wait = None if end is None else max(1, math.ceil(end - unix))
        if start > unix + STEADY_SECONDS:  # of a clock that was wrong, or is
            wait = math.ceil(STEADY_SECONDS)
        is_spent = share.spent and start == share.budget_start
        if used + tokens <= budget and not is_spent:  # it is this host's share that is used up
            wait = SHARE_SECONDS if wait is None else min(SHARE_SECONDS, wait)
        return Rejected(
            429,
            "budget_exhausted",
            f"The key has used {used:.0f}{self._here(mine, budget)} of its {budget} tokens "
            f"{_PERIOD_WORDS[period]}; this request may need {tokens:.0f}.",
            wait,
        )

    def _refuse_rate(self, amount: float, *, of_tokens: bool = False) -> Rejected | None:
        share, rates = self.share, self.rates
        wait = (self._tokens if of_tokens else self._requests).wait_seconds(amount)
        if wait <= 0:
            return None
        code, part = "rate_limited", share.requests
        words = f"send {rates.requests_per_minute} requests"
        if of_tokens:
            code, part = "tokens_rate_limited", share.tokens
            words = f"use {rates.tokens_per_minute} tokens"
        if part < 1.0:  # with the whole limit it would be due earlier
            wait = min(wait, max(float(SHARE_SECONDS), wait * part))
        told = f"The key may {words} a minute{self._here(part, 1.0)}."
        return Rejected(429, code, told, retry_after_seconds(wait))

    @staticmethod
    def _here(share: float, limit: float) -> str:
        """Return words for a share of a limit; none for the whole limit."""
        return "" if share >= limit else f" (this host has {share / limit:.0%} of the limit now)"


@dataclasses.dataclass(frozen=True, slots=True)
class BudgetUse:
    """The used part of a key's budget, to be kept over a restart.

    Attributes:
        period: of the budget.
        start: start of the period, Unix seconds.
        tokens: used in the period, by all workers of this host.
    """

    period: BudgetPeriod
    start: float
    tokens: float


def budget_use(rates: KeyRates, total: Usage) -> BudgetUse | None:
    """Return the part of all workers' summed rows that is worth keeping; None without a budget."""
    if rates.token_budget <= 0 or total.budget_tokens <= 0:
        return None
    return BudgetUse(rates.budget_period, total.budget_start, total.budget_tokens)


def budgets_to_dict(budgets: Mapping[str, BudgetUse]) -> dict[str, dict[str, object]]:
    """Convert to plain data, by key id."""
    return {
        key: {"period": use.period.value, "start": use.start, "tokens": use.tokens}
        for key, use in budgets.items()
    }


def budgets_from_dict(data: object) -> dict[str, BudgetUse]:
    """Convert back. Entries that make no sense are left out: a bad file must not stop the proxy."""
    found: dict[str, BudgetUse] = {}
    if not isinstance(data, Mapping):
        return found
    for key, one in data.items():
        try:
            use = BudgetUse(BudgetPeriod(one["period"]), float(one["start"]), float(one["tokens"]))
        except (KeyError, OverflowError, TypeError, ValueError):
            continue
        if isinstance(key, str) and math.isfinite(use.start) and 0 <= use.tokens < math.inf:
            found[key] = use
    return found

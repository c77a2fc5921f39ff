"""Divides the limits of keys among the hosts that serve them: the decision of the head. Pure.

Each host admits requests by itself, within its *share* of each limit of a key: a part of the rates
and their bursts, a number of requests in flight, and of a budget the tokens that it may have used
by the end of the period. The head reads every few seconds what each host used and had to refuse,
and tells new shares in the routing table, which may lag the demand by seconds.

**Lower first.** A share grows only by what no host may be using any more: the head lowers a share
first, and gives the difference to others when the host has confirmed the lower share by a report.
Thus the shares in force add up to at most the limit, however late tables and reports come; only
each host has at least one place for a request in flight. A host that says nothing keeps its shares.
Once it is lost (no host of the table any more), the others divide its part of the rates and places;
what it holds of a budget stays counted until the period is over.

**Who gets how much.** Hosts get what they want, up to a level that is the same for all of them, and
share equally what nobody wants. Shares change only when a host is short, because each change is a
routing table. Until a key is used, each host holds of all its limits its part of `ALL_KEYS`, which
is divided by the same rule.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from partitiond.core.demand.traffic import KeyCount, TrafficSample
from partitiond.core.dispatch.routing import (
    NO_KEY_RATES,
    BudgetPeriod,
    HostShares,
    KeyRates,
    KeyRoute,
    KeyShare,
    share_by_part,
)
from partitiond.core.keys.rates_and_budgets import present_period
from partitiond.core.keys.wall_clock import WallClock

Share = tuple[float, ...]
"""Part of the requests a minute, part of the tokens a minute, places in flight, budget."""
NONE: Final[Share] = (0.0, 0.0, 0.0, 0.0)
IDLE: Final[Share] = (0.1, 0.1, 0.0, 0.5)
"""Part of its equal share that a host keeps to which nothing comes, so that it can begin at once.
Chosen: a bucket of any size takes one request, each host has a place, and of a budget the whole
request has to fit."""
MARGIN: Final = 1.5
"""How much more a host wants than came to it lately, lest it be short at once. Chosen."""
CHANGED: Final = 0.1
"""A host is short if it wants, and would get, more by this part of what it has. Chosen."""
LATELY_SECONDS: Final = 20.0
"""What came longer ago hardly counts (it decays exponentially). Chosen."""
BUDGET_SECONDS: Final = 30.0
"""A host wants of a budget what comes in this time. Chosen: two looks of the head, and a burst."""
SPENT: Final = 0.01
"""A budget of which less than this part is left is spent; so is one with less than two requests:
half of that may lie with hosts to which nothing comes. Chosen."""
ALL_KEYS: Final = "*"
"""Name of the part that holds for keys of which nothing else was told."""
ONE: Final = KeyRates(requests_per_minute=1, budget_period=BudgetPeriod.NEVER)
"""Limits of `ALL_KEYS`, of which each host wants the same."""


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """What one host holds of a key.

    Attributes:
        told: the share that it was told last.
        most: the largest that it may be using.
    """

    told: Share = NONE
    most: Share = NONE


@dataclasses.dataclass(frozen=True, slots=True)
class Division:
    """How a key is divided. The store keeps it.

    Attributes:
        start: of the budget's period, Unix seconds.
        held: by host; hosts that are lost or gone are there with their part of the budget until the
            period is over.
        spent: nothing worth dividing is left of the budget.
    """

    start: float = 0.0
    held: Mapping[str, Held] = dataclasses.field(default_factory=dict)
    spent: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class KeyDemand:
    """What came to one host with a key.

    Attributes:
        at: monotonic seconds of the last look.
        asked: requests and tokens that were admitted or refused by then, and refused requests.
        lately: sums of the same over some `LATELY_SECONDS`.
    """

    at: float
    asked: tuple[float, ...] = (0.0, 0.0, 0.0)
    lately: tuple[float, ...] = (0.0, 0.0, 0.0)

    def after(self, count: KeyCount, now: float) -> "KeyDemand":
        """Return the demand after another look; counts that fell are those of a new proxy."""
        kept = math.exp((self.at - now) / LATELY_SECONDS)
        new = (1.0 - kept) * LATELY_SECONDS / max(1e-9, now - self.at)
        requests, tokens = count.requests + count.refused, count.tokens + count.refused_tokens
        asked = (requests, tokens, float(count.refused))
        each = zip(self.lately, asked, self.asked, strict=True)
        return KeyDemand(
            now, asked, tuple(kept * one + new * max(0.0, a - b) for one, a, b in each)
        )

    def wants(self, rates: KeyRates, in_flight: float) -> Share:
        """Return what the host wants, beyond what cannot be taken from it."""
        requests, tokens, refused = self.lately
        part = MARGIN * 60 / LATELY_SECONDS
        return (
            part * requests / max(1, rates.requests_per_minute),
            part * tokens / max(1, rates.tokens_per_minute),
            in_flight + refused,
            tokens * BUDGET_SECONDS / LATELY_SECONDS,
        )


def share_out(
    limit: float,
    idle: float,
    held: Mapping[str, tuple[float, float]],
    kept: Mapping[str, float],
    wants: Mapping[str, float],
) -> dict[str, float]:
    """Return the shares to tell hosts; the same as before if none that was heard is short.

    Args:
        limit: of all hosts together; 0 is none.
        idle: part of its equal share that a host keeps to which nothing comes.
        held: of all hosts, as of `Held`.
        kept: what cannot be taken from the hosts that were heard.
        wants: beyond that.
    """
    told = {host: had for host, (had, _) in held.items()}
    free = limit - sum(most for _, most in held.values())
    left = max(0.0, limit - sum(kept.get(host, most) for host, (_, most) in held.items()))
    wants = {host: max(idle * left / len(wants), want) for host, want in wants.items()}
    targets = {host: kept[host] + more for host, more in fill(left, wants).items()}
    is_short = any(
        min(kept[host] + wants[host], target) - told[host]
        >= max(1e-3 * limit, CHANGED * (told[host] - kept[host]))
        for host, target in targets.items()
    )
    if limit <= 0.0 or not (is_short or free < -1e-9 * limit):
        return told
    growth = {host: max(0.0, target - told[host]) for host, target in targets.items()}
    scale = min(1.0, max(0.0, free) / max(1e-9, sum(growth.values())))
    return told | {
        host: min(told[host], target) + scale * growth[host] for host, target in targets.items()
    }


def fill(amount: float, wants: Mapping[str, float]) -> dict[str, float]:
    """Return what each host gets of an amount: what it wants, up to a level that is the same for
    all; and an equal part of what nobody wants.
    """
    found: dict[str, float] = {}
    left = amount
    for count, (host, want) in enumerate(sorted(wants.items(), key=lambda item: item[1])):
        found[host] = min(want, left / (len(wants) - count))
        left -= found[host]
    spare = max(0.0, left) / max(1, len(wants))
    return {host: amount + spare for host, amount in found.items()}


def divide(
    rates: KeyRates,
    before: Division,
    equal: Mapping[str, Held],
    *,
    start: float,
    counts: Mapping[str, KeyCount],
    wants: Mapping[str, Share],
) -> Division:
    """Return how a key is divided after a look at the hosts.

    Args:
        rates: limits of the key.
        before: how it was divided.
        equal: what each host of the table has that is not in `before`, and of a new budget.
        start: of the budget's period.
        counts: of the hosts that admit by the shares that they were told last.
        wants: of these hosts.
    """
    held = {host: before.held.get(host, one) for host, one in equal.items()}
    if start != before.start:
        for host, one in equal.items():
            known = held[host]
            held[host] = Held((*known.told[:3], one.told[3]), (*known.most[:3], one.most[3]))
    else:
        for host, one in before.held.items():
            if host not in equal and one.most[3] > 0.0:
                held[host] = Held((*NONE[:3], one.told[3]), (*NONE[:3], one.most[3]))
    # Who is in a later period already, by its clock, is as one that says nothing.
    used = {
        host: count.budget_tokens if count.budget_start == start else 0.0
        for host, count in counts.items()
        if not rates.token_budget or count.budget_start <= start
    }
    for host, tokens in used.items():
        told = held[host].told
        using = (0.0, 0.0, counts[host].in_flight, tokens)
        held[host] = Held(told, _larger(told, using))
    budget = float(rates.token_budget)
    limits = (
        float(rates.requests_per_minute > 0),
        float(rates.tokens_per_minute > 0),
        float(rates.max_in_flight),
        budget,
    )
    columns = [
        share_out(
            limit,
            IDLE[at],
            {host: (one.told[at], one.most[at]) for host, one in held.items()},
            {host: (0.0, 0.0, 1.0, tokens)[at] for host, tokens in used.items()},
            {host: wants[host][at] for host in used},
        )
        for at, limit in enumerate(limits)
    ]
    left = budget - sum(used.get(host, one.most[3]) for host, one in held.items())
    requests = max(1.0, sum(count.requests for count in counts.values()))
    request = sum(count.tokens for count in counts.values()) / requests
    found = {}
    for host, one in held.items():
        told = tuple(column[host] for column in columns)
        found[host] = Held(told, _larger(told, one.most))
    return Division(start, found, budget > 0.0 and left < max(SPENT * budget, 2 * request))


def _larger(one: Share, other: Share) -> Share:
    return tuple(max(pair) for pair in zip(one, other, strict=True))


def by_part(rates: KeyRates, part: Held) -> Held:
    """Return what a host holds of a key of which nothing else was told."""
    return Held(_of_part(rates, part.told[0]), _of_part(rates, part.most[0]))


def _of_part(rates: KeyRates, part: float) -> Share:
    places = share_by_part("", rates, part).in_flight
    return part, part, float(places), part * rates.token_budget


class KeyShares:
    """The shares of all hosts of all keys.

    Attributes:
        unsaved: divisions by key id that changed, for the store; None for one that is over.

    Args:
        kept: divisions of the store.
        number: greater than that of any head before.
    """

    def __init__(self, kept: Mapping[str, Division], number: int) -> None:
        self.unsaved: dict[str, Division | None] = {}
        self._divisions = dict(kept)
        self._number = number
        self._rates: dict[str, KeyRates] = {}
        self._hosts: tuple[str, ...] = ()
        self._told: dict[str, HostShares] = {}
        self._clock = WallClock()
        self._heard_at: dict[str, float] = {}
        self._demand: dict[tuple[str, str], KeyDemand] = {}
        self._calm: dict[str, tuple[float, Mapping[str, KeyCount]]] = {}
        """Period and counts of the last look, of keys for which it changed nothing."""

    def of(self, host: str) -> HostShares:
        """Return what to tell a host."""
        return self._told.get(host, HostShares()) if host in self._hosts else HostShares()

    @property
    def _parts(self) -> Mapping[str, Held]:
        return self._divisions.get(ALL_KEYS, Division()).held

    def apply(self, keys: Iterable[KeyRoute], hosts: Collection[str]) -> None:
        """Take over the keys and the hosts of a table.

        Hosts that a head finds share equally at once, the first time. One that joins gets what the
        others have left over.
        """
        rates = {key.id: key.rates for key in keys if key.rates != NO_KEY_RATES} | {ALL_KEYS: ONE}
        for key_id in self._divisions.keys() - rates.keys():
            del self._divisions[key_id]
            self.unsaved[key_id] = None
        if not self._parts and len(hosts) > 1:
            first = self._hosts or hosts
            part = (1.0 / len(first), 0.0, 0.0, 0.0)
            self._keep(ALL_KEYS, Division(0.0, {host: Held(part, part) for host in first}))
        if rates != self._rates or set(hosts) != set(self._hosts):
            self._rates, self._hosts = rates, tuple(sorted(hosts))
            self._calm.clear()
            self._demand = {at: one for at, one in self._demand.items() if at[1] in rates}
            self._note_told()

    def look(self, samples: Mapping[str, TrafficSample], now: float, unix: float) -> bool:
        """Divide anew after a look at the hosts; return whether there is something to tell.

        Args:
            samples: of the hosts that answered.
            now: monotonic seconds.
            unix: Unix seconds.
        """
        if not (self._parts and self._hosts):
            return False  # while no host is in the table, what all held goes on counting
        heard = {
            host: samples[host].keys
            for host in self._hosts
            if host in samples and samples[host].shares_number == self.of(host).number
        }
        ids = {key_id for keys in heard.values() for key_id in keys} & self._rates.keys()
        ids |= self._divisions.keys()
        if self._parts.keys() - set(self._hosts):  # what who left holds of budgets goes on counting
            ids |= {key_id for key_id, rates in self._rates.items() if rates.token_budget > 0}
        latest = self._clock.latest(now, unix)
        changed = False
        for key_id in (*(ids - {ALL_KEYS}), ALL_KEYS):  # who joined has none of the others' shares
            counts = {host: keys.get(key_id, KeyCount()) for host, keys in heard.items()}
            changed = self._divide(key_id, counts, now, unix, latest) or changed
        self._heard_at |= dict.fromkeys(heard, now)
        return changed and self._note_told()

    def _divide(
        self, key_id: str, counts: Mapping[str, KeyCount], now: float, unix: float, latest: float
    ) -> bool:
        rates, known = self._rates[key_id], self._divisions.get(key_id)
        start = present_period(rates.budget_period, unix, latest, known.start if known else 0.0)
        if self._calm.get(key_id) == (start, counts):
            return False
        parts: Mapping[str, Held] = {} if key_id == ALL_KEYS else self._parts
        before = known or Division(
            start, {host: by_part(rates, one) for host, one in parts.items()}
        )
        equal = {host: by_part(rates, parts.get(host, Held())) for host in self._hosts}
        wants = {host: self._wants(host, key_id, count, now) for host, count in counts.items()}
        found = divide(rates, before, equal, start=start, counts=counts, wants=wants)
        if found == known:
            self._calm[key_id] = (start, counts)
            return False
        self._calm.pop(key_id, None)
        self._keep(key_id, found)
        return True

    def _wants(self, host: str, key_id: str, count: KeyCount, now: float) -> Share:
        if key_id == ALL_KEYS:
            return (1.0, 0.0, 0.0, 0.0)
        # A host that was heard before, and did not tell of the key, had not used it.
        first = KeyDemand(self._heard_at.get(host, now))
        demand = self._demand.get((host, key_id), first).after(count, now)
        self._demand[host, key_id] = demand
        return demand.wants(self._rates[key_id], count.in_flight)

    def _keep(self, key_id: str, division: Division) -> None:
        self._divisions[key_id] = self.unsaved[key_id] = division

    def _note_told(self) -> bool:
        """Work out what each host is told; return whether that is something new."""
        if not self._parts:
            return False
        changed = False
        for host in self._hosts:
            part = self._parts.get(host, Held())
            rows = []
            for key_id, division in self._divisions.items():
                told = division.held.get(host, Held()).told
                equal = by_part(self._rates[key_id], part).told
                if key_id != ALL_KEYS and (told != equal or division.spent):
                    rows.append(_row(key_id, told, division))
            known = self.of(host)
            shares = HostShares(known.number, part.told[0], tuple(rows))
            if shares != known:
                self._number += 1
                self._told[host] = dataclasses.replace(shares, number=self._number)
                changed = True
        return changed


def _row(key_id: str, told: Share, division: Division) -> KeyShare:
    places = max(1, math.floor(told[2] + 1e-9))
    return KeyShare(
        key_id, told[0], told[1], places, division.start, told[3], division.spent
    )  # fmt: skip

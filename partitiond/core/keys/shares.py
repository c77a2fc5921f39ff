"""Divides the limits of keys among the hosts that serve them: the decision of the head. Pure.

Each host admits requests by itself, within its *share* of each limit of a key: a part of the rates
and their bursts, a number of requests in flight, and of a budget the tokens that it may have used
by the end of the period. The head reads every few seconds what each host used and had to refuse,
and tells new shares in the routing table.

**Lower first.** What a host holds may grow only by what no host may be using any more. So the head
counts of each host the largest share that may be in force there: of the last table that the host
has confirmed by a report, and of all that it was told since. It lowers a share first, and gives
the difference to others when a report by the lowered share has come. Of a budget, what was used
counts even beyond the share. Thus all shares that are in force add up to at most the limit, however
late tables and reports come; only each host has at least one place for a request in flight.

**Who gets how much.** Hosts get what they want, up to a level that is the same for all of them, and
share equally what nobody wants. A host wants what came to it lately and half as much again; one to
which nothing comes keeps a part of its equal share, so that it can begin at once. Shares change
only when a host is short, because each change is a routing table.

**A host that says nothing** keeps its shares, and the others go on with theirs. Once it is lost (no
host of the table any more), the others divide its part of the rates and places; what it holds of a
budget stays counted until the period is over, or until it is heard again.

Most keys are hardly used: until one is, each host holds of all its limits the part that is told for
all keys, which is divided by the same rule.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.demand.traffic import KeyCount, TrafficSample
from partitiond.core.dispatch.routing import (
    NO_KEY_RATES,
    HostShares,
    KeyRates,
    KeyRoute,
    KeyShare,
    share_by_part,
)
from partitiond.core.keys.rates_and_budgets import period_start, present_period
from partitiond.core.keys.wall_clock import WallClock

IDLE_RATE: Final = 0.1
"""Part of its equal share of rates and places that a host keeps to which nothing comes. Chosen: a
bucket of any size takes one request, so such a host can begin, and one busy host has nearly all."""
IDLE_BUDGET: Final = 0.5
"""The same for what is left of a budget, of which the whole request has to fit. Chosen."""
MARGIN: Final = 1.5
"""How much more a host wants than came to it lately, lest it be short at once. Chosen."""
CHANGED: Final = 0.1
"""A host is short if it wants, and would get, more by this part of what it has. Chosen."""
LATELY_SECONDS: Final = 20.0
"""What came longer ago hardly counts (it decays exponentially). Chosen."""
BUDGET_SECONDS: Final = 30.0
"""A host is short of a budget if it has less than what comes in this time. Chosen: two looks of the
head, and a burst."""
SPENT: Final = 0.01
"""A budget of which less than this part is left is spent; so is one with less than two requests:
half of that may lie with hosts to which nothing comes. Chosen."""
UNSPENT: Final = 5
"""A spent budget is none again only once so many times as much is left, because each change is a
routing table. Chosen."""
ALL_KEYS: Final = "*"
"""Name of the part that holds for keys of which nothing else was told."""

Four = tuple[float, float, float, float]
"""Part of the requests a minute, part of the tokens a minute, places in flight, budget."""


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """What one host holds of a key.

    Attributes:
        told: the share that it was told last.
        most: the largest that it may be using.
    """

    told: Four
    most: Four


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
    """What came to one host with a key lately: each a second.

    Attributes:
        requests, tokens: admitted or refused.
        refused: requests that the key's limits refused.
    """

    requests: float = 0.0
    tokens: float = 0.0
    refused: float = 0.0

    def after(self, old: KeyCount, new: KeyCount, seconds: float) -> "KeyDemand":
        """Return the demand after two counts of the host; counts of a new proxy begin at zero."""
        if new.requests < old.requests or new.refused < old.refused:
            old = KeyCount()
        kept = math.exp(-seconds / LATELY_SECONDS)
        refused = new.refused - old.refused
        tokens = max(0.0, new.tokens - old.tokens) + new.refused_tokens - old.refused_tokens

        def mean(before: float, more: float) -> float:
            return kept * before + (1.0 - kept) * max(0.0, more) / seconds

        return KeyDemand(
            mean(self.requests, new.requests - old.requests + refused),
            mean(self.tokens, tokens),
            mean(self.refused, refused),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """What one host that was heard has of one limit, and wants.

    Attributes:
        told, most: as of `Held`.
        used: what cannot be taken from it; of budgets alone.
        want: beyond `used`.
    """

    told: float
    most: float
    used: float
    want: float


@dataclasses.dataclass(frozen=True, slots=True)
class SharingRule:
    """How a limit is divided.

    Attributes:
        idle: part of its equal share that a host keeps to which nothing comes.
        least: smaller changes are none.
        whole: shares are whole numbers, and at least 1.
    """

    idle: float
    least: float
    whole: bool = False


RATE: Final = SharingRule(IDLE_RATE, 1e-3)
RULES: Final = (RATE, RATE, SharingRule(IDLE_RATE, 1.0, whole=True), SharingRule(IDLE_BUDGET, 1.0))
"""In the order of `Four`."""


def share_out(
    limit: float, claims: Mapping[str, Claim], elsewhere: float, rule: SharingRule
) -> dict[str, float]:
    """Return the shares to tell the hosts that were heard; the same as before if none is short.

    Args:
        limit: of all hosts together.
        claims: by host.
        elsewhere: what hosts may be using that were not heard.
    """
    room = max(0.0, limit - elsewhere)
    left = max(0.0, room - sum(claim.used for claim in claims.values()))
    floor = rule.idle * left / max(1, len(claims))
    wants = {host: max(floor, claim.want) for host, claim in claims.items()}
    targets = {host: claims[host].used + more for host, more in fill(left, wants).items()}
    free = room - sum(claim.most for claim in claims.values())

    def is_short(host: str, claim: Claim) -> bool:
        more = min(claim.used + wants[host], targets[host]) - claim.told
        return more >= max(rule.least, CHANGED * (claim.told - claim.used))

    is_over = free < -1e-9 * limit and any(c.told > targets[h] for h, c in claims.items())
    if not is_over and not any(is_short(host, claim) for host, claim in claims.items()):
        return {host: claim.told for host, claim in claims.items()}
    told = {}
    growth = {h: targets[h] - c.told for h, c in claims.items() if targets[h] > c.told}
    free = max(0.0, free)
    scale = min(1.0, free / sum(growth.values())) if growth else 0.0
    for host, claim in claims.items():
        if rule.whole:
            more = float(min(math.floor(free + 1e-9), math.ceil(growth.get(host, 0.0) - 1e-9)))
            free -= more
            lowered = max(1.0, float(math.floor(targets[host] + 1e-9)))
        else:
            more, lowered = growth.get(host, 0.0) * scale, targets[host]
        told[host] = claim.told + more if host in growth else min(claim.told, lowered)
    return told


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
    *,
    parts: Mapping[str, Held],
    counts: Mapping[str, KeyCount],
    demand: Mapping[str, KeyDemand],
    hosts: Sequence[str],
    unix: float,
    latest: float,
    at_once: float = math.inf,
) -> Division:
    """Return how a key is divided after a look at the hosts.

    Args:
        rates: limits of the key.
        before: how it was divided.
        parts: of all keys, which hosts hold that hold nothing else of this one.
        counts: of the hosts that were heard, and that count by what they were told last.
        demand: of the same hosts.
        hosts: of the table.
        unix: Unix seconds.
        latest: start of a period to believe (`core.keys.wall_clock`).
        at_once: tokens that all replicas can have at once (sequences x context).
    """
    start = present_period(rates.budget_period, unix, latest, before.start)
    limits = (1.0, 1.0, float(rates.max_in_flight), float(rates.token_budget))
    held = {}
    for host in hosts:
        equal = by_part(rates, parts.get(host, NOTHING))
        held[host] = known = before.held.get(host, equal)
        if start != before.start and host in before.held:
            held[host] = Held(
                (*known.told[:3], equal.told[3]), (*known.most[:3], equal.most[3])
            )  # fmt: skip
    away = {} if start != before.start else _of_budgets(before.held, hosts)
    counts = {host: _believed(count, held[host].most, at_once) for host, count in counts.items()}
    used = {
        host: count.budget_tokens if count.budget_start == start else 0.0
        for host, count in counts.items()
    }
    for host, count in counts.items():
        told = held[host].told
        most = (*told[:2], max(told[2], count.in_flight), max(told[3], used[host]))
        held[host] = Held(told, most)
    wants = {
        host: _wants(rates, counts[host], one) for host, one in demand.items() if host in counts
    }
    told_of = {host: list(one.told) for host, one in held.items()}
    for at, (limit, rule) in enumerate(zip(limits, RULES, strict=True)):
        if limit <= 0.0:
            continue
        claims = {
            host: Claim(
                held[host].told[at], held[host].most[at], used[host] if at == 3 else 0.0,
                wants[host][at],
            )
            for host in sorted(counts)
        }  # fmt: skip
        elsewhere = sum(one.most[at] for host, one in held.items() if host not in counts)
        elsewhere += sum(one.most[3] for one in away.values()) if at == 3 else 0.0
        for host, share in share_out(limit, claims, elsewhere, rule).items():
            told_of[host][at] = share
    found = {host: _held(told_of[host], one.most) for host, one in held.items()}
    left = limits[3] - sum(used.values()) - sum(one.most[3] for one in away.values())
    left -= sum(one.most[3] for host, one in held.items() if host not in counts)
    requests = sum(count.requests for count in counts.values())
    request = sum(count.tokens for count in counts.values()) / max(1.0, requests)
    little = max(SPENT * limits[3], 2 * request)
    if before.spent and start == before.start:
        little *= UNSPENT
    return Division(start, found | away, limits[3] > 0.0 and left < little)


def _believed(count: KeyCount, most: Four, at_once: float) -> KeyCount:
    """Return what a host may have counted: what it was allowed, and what answers that ran at once
    had beyond their estimates. So what one look believes of a wrong count takes no more from the
    others; a host that goes on so has a little more at each look.
    """
    return dataclasses.replace(
        count,
        in_flight=min(count.in_flight, max(1.0, most[2])),
        budget_tokens=min(count.budget_tokens, most[3] + at_once),
    )


def within(division: Division, rates: KeyRates) -> Division:
    """Return the division with shares that add up to no more than the limits, one of which may have
    been lowered: each host shrinks alike, at once, and what it may be using counts on.
    """
    held = dict(division.held)
    for at, limit in ((2, rates.max_in_flight), (3, rates.token_budget)):
        total = sum(one.told[at] for one in held.values())
        if 0 < limit < total * (1 - 1e-9):
            for host, one in held.items():
                told = list(one.told)
                told[at] *= limit / total
                told[2] = max(1.0, float(math.floor(told[2] + 1e-9)))
                held[host] = _held(told, one.most)
    return dataclasses.replace(division, held=held)


def by_part(rates: KeyRates, part: Held) -> Held:
    """Return what a host holds of a key of which nothing else was told."""
    return Held(_of_part(rates, part.told[0]), _of_part(rates, part.most[0]))


def _of_part(rates: KeyRates, part: float) -> Four:
    places = share_by_part("", rates, part).in_flight
    return part, part, float(places), part * rates.token_budget


def _of_budgets(held: Mapping[str, Held], hosts: Sequence[str]) -> dict[str, Held]:
    """Return what hosts hold of a budget that are no hosts of the table any more."""
    return {
        host: Held((0.0, 0.0, 1.0, one.told[3]), (0.0, 0.0, 0.0, one.most[3]))
        for host, one in held.items()
        if host not in hosts and one.most[3] > 0.0
    }


def _wants(rates: KeyRates, count: KeyCount, demand: KeyDemand) -> Four:
    return (
        MARGIN * demand.requests * 60 / max(1, rates.requests_per_minute),
        MARGIN * demand.tokens * 60 / max(1, rates.tokens_per_minute),
        count.in_flight + demand.refused * LATELY_SECONDS,
        demand.tokens * BUDGET_SECONDS,
    )


def _held(told: Sequence[float], most: Four) -> Held:
    first, second, third, fourth = told
    return Held(
        (first, second, third, fourth),
        (max(first, most[0]), max(second, most[1]), max(third, most[2]), max(fourth, most[3])),
    )


NOTHING: Final = Held((0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))


class KeyShares:
    """The shares of all hosts of all keys.

    Attributes:
        unsaved: divisions by key id that changed, for the store; None for one that is over. They
            are to be stored before hosts are told. `ALL_KEYS` is the part for all keys.

    Args:
        kept: divisions of the store.
        number: greater than that of any head before.
    """

    def __init__(self, kept: Mapping[str, Division], number: int) -> None:
        self.unsaved: dict[str, Division | None] = {}
        self._divisions = dict(kept)
        self._parts: Mapping[str, Held] = self._divisions.pop(ALL_KEYS, Division()).held
        self._number = number
        self._rates: dict[str, KeyRates] = {}
        self._hosts: tuple[str, ...] = ()
        self._told: dict[str, HostShares] = {}
        self._at_once = math.inf
        self._clock, self._latest = WallClock(), math.inf
        self._heard_at: dict[str, float] = {}
        self._demand: dict[tuple[str, str], tuple[float, KeyCount, KeyDemand]] = {}
        self._calm: set[str] = set()
        """Keys of which the last look changed nothing."""

    def of(self, host: str) -> HostShares:
        """Return what to tell a host."""
        return self._told.get(host, HostShares()) if host in self._hosts else HostShares()

    def apply(
        self, keys: Iterable[KeyRoute], hosts: Collection[str], at_once: float = math.inf
    ) -> None:
        """Take over the keys and the hosts of a table; `at_once` as of `divide`.

        Hosts that a head finds share equally at once, the first time. One that joins gets what the
        others have left over.
        """
        self._at_once = at_once
        rates = {key.id: key.rates for key in keys if key.rates != NO_KEY_RATES}
        for key_id in self._divisions.keys() - rates.keys():
            del self._divisions[key_id]
            self.unsaved[key_id] = None
        if not self._parts and len(hosts) > 1:
            first = self._hosts or hosts
            part = (1.0 / len(first), 0.0, 0.0, 0.0)
            self._set_parts({host: Held(part, part) for host in first})
        if rates != self._rates or set(hosts) != set(self._hosts):
            self._rates, self._hosts = rates, tuple(sorted(hosts))
            for key_id, division in self._divisions.items():
                lowered = within(division, rates[key_id])
                if lowered != division:
                    self._divisions[key_id] = self.unsaved[key_id] = lowered
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
        if self._parts.keys() - set(self._hosts):
            self._begin_budget_divisions(unix)
        self._latest = self._clock.latest(now, unix)
        used = {key_id for keys in heard.values() for key_id in keys} & self._rates.keys()
        changed = False
        for key_id in used | self._divisions.keys():
            counts = {host: keys.get(key_id, KeyCount()) for host, keys in heard.items()}
            if not self._is_calm(key_id, counts, unix):
                changed = self._divide(key_id, counts, now, unix) or changed
        changed = self._divide_parts(heard.keys()) or changed
        self._heard_at |= dict.fromkeys(heard, now)
        return changed and self._note_told()

    def _begin_budget_divisions(self, unix: float) -> None:
        """Divide each undivided budget as its hosts hold it now, those that have left included."""
        for key_id, rates in self._rates.items():
            if rates.token_budget > 0 and key_id not in self._divisions:
                start = period_start(unix, rates.budget_period)
                held = {host: by_part(rates, one) for host, one in self._parts.items()}
                self._divisions[key_id] = self.unsaved[key_id] = Division(start, held)

    def _is_calm(self, key_id: str, counts: Mapping[str, KeyCount], unix: float) -> bool:
        """Return whether a look would change nothing, as far as that is seen at once."""
        if key_id not in self._calm:
            return False
        period, start = self._rates[key_id].budget_period, self._divisions[key_id].start
        return present_period(period, unix, self._latest, start) == start and all(
            (known := self._demand.get((host, key_id))) is not None and known[1] == count
            for host, count in counts.items()
        )

    def _divide(self, key_id: str, counts: Mapping[str, KeyCount], now: float, unix: float) -> bool:
        before = self._divisions.get(key_id, Division())
        found = divide(
            self._rates[key_id],
            before,
            parts=self._parts,
            counts=counts,
            demand={
                host: self._demand_of(host, key_id, count, now) for host, count in counts.items()
            },
            hosts=self._hosts,
            unix=unix,
            latest=self._latest,
            at_once=self._at_once,
        )
        if found == before:
            self._calm.add(key_id)
            return False
        self._calm.discard(key_id)
        self._divisions[key_id] = self.unsaved[key_id] = found
        return True

    def _demand_of(self, host: str, key_id: str, count: KeyCount, now: float) -> KeyDemand:
        # A host that was heard before, and did not tell of the key, had not used it.
        first = self._heard_at.get(host, now), KeyCount(), KeyDemand()
        at, old, demand = self._demand.get((host, key_id), first)
        if now > at:
            demand = demand.after(old, count, now - at)
        self._demand[host, key_id] = now, count, demand
        return demand

    def _divide_parts(self, heard: Collection[str]) -> bool:
        """Let each host have an equal part of all keys of which nothing else is told."""
        held = {host: self._parts.get(host, NOTHING) for host in self._hosts}
        claims = {host: Claim(held[host].told[0], held[host].told[0], 0.0, 1.0) for host in heard}
        elsewhere = sum(one.most[0] for host, one in held.items() if host not in heard)
        parts = share_out(1.0, claims, elsewhere, RULES[0])
        found = {}
        for host, one in held.items():
            most = one.told if host in heard else one.most
            found[host] = _held((parts.get(host, one.told[0]), 0.0, 0.0, 0.0), most)
        if found == self._parts:
            return False
        self._set_parts(found)
        return True

    def _set_parts(self, parts: Mapping[str, Held]) -> None:
        self._parts = parts
        self.unsaved[ALL_KEYS] = Division(0.0, parts)

    def _note_told(self) -> bool:
        """Work out what each host is told; return whether that is something new."""
        if not self._parts:
            return False
        changed = False
        for host in self._hosts:
            part = self._parts.get(host, NOTHING)
            rows = []
            for key_id, division in self._divisions.items():
                equal = by_part(self._rates[key_id], part).told
                told = division.held.get(host, NOTHING).told
                if told != equal or division.spent:
                    rows.append(_share(key_id, told, division))
            known = self.of(host)
            shares = HostShares(known.number, part.told[0], tuple(rows))
            if shares != known:
                self._number += 1
                self._told[host] = dataclasses.replace(shares, number=self._number)
                changed = True
        return changed


def _share(key_id: str, told: Four, division: Division) -> KeyShare:
    return KeyShare(
        key_id, told[0], told[1], int(told[2]), division.start, told[3], division.spent
    )  # fmt: skip

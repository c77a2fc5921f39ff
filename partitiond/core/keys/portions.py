"""Divides what is left of a key's limits among hosts, each of which admits requests by itself.

No host lends to the others, because any host may be gone, and no request waits for the answer of
another host: only, for a moment, for the words that come anyway.
Each host tells its peers, some ten times a second, what it has used of the key and a *portion*: how
much more it may use before they have confirmed a newer word. Two rules follow.

1. A host keeps within use plus portion of every word that a peer may have heard last (all words
   from the last one on that the peer has confirmed), or sends one request beyond the least use.
2. A host admits a request only if the limit holds although each peer uses all of the portion that
   it told last. Portions no larger than the request are left out.

Of all hosts, take the one that admitted last: its peers are within their portions by rule 1, so the
sum is within the limit by rule 2, but for one request of each peer. This holds however the portions
are chosen, and however words are late, lost, doubled or out of order. That is why a portion may
follow demand: hosts that lately sent requests share what is left, and each other host keeps half of
an equal share, so that it can begin at once.

A peer that has confirmed nothing for `SILENT_SECONDS` is silent. Its portion counts as used until
it is heard again; of the rates, its equal share goes on being used. A host that reaches more than
half of the fleet (itself included) needs no confirmation from silent peers. Any other host stays
within what the silent ones know of it, plus its equal share of the rates; so both sides of a cut
together keep the limit. (Half is not enough: the other half would do the same.)

Counts begin anew when a host's proxy starts (another *incarnation*). Its peers tell it what it had
used of a budget before; until they have, it sends one request at a time. What silent and former
hosts used of a budget is told on, for hosts that join later. A host whose clock is ahead begins the
next period earlier: for the others, what it used of the former period stays used.

Words of a host that a peer does not reach are passed on to that peer, which counts them. They
confirm nothing: while two hosts reach a third one but not each other, a limit may be exceeded by
what is used until a word has gone round.

Words come over the network: numbers that make no sense are refused, and others only bound this key.

Nothing here reads a clock: `now` is monotonic seconds of this host, `unix` Unix seconds.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Final

from partitiond.core.dispatch.routing import KeyRates
from partitiond.core.keys.allowance import Allowance, Part, first_part
from partitiond.core.keys.rates import NO_USAGE, BudgetOfHost, BudgetUse, Usage, period_start

TELL_SECONDS: Final = 0.1
"""Interval of words about a key in use. Chosen."""
SILENT_SECONDS: Final = 3.0
"""Time without a confirmation after which a peer is silent: thirty words. Chosen."""
START_NANOSECONDS: Final = 5_000_000_000
"""What a peer used before it was first heard is in the levels of its buckets, below which this
host's are lowered. A peer that has started no longer than this before this host may not have heard
of others itself; all that it used is counted, too. Chosen.
"""
ACTIVE_SECONDS: Final = 10.0
"""Time after its last request for which a host takes part in the sharing. Chosen."""
EQUAL_SHARE: Final = 0.5
"""Part of its equal share that a host keeps that sends no requests. Chosen."""
CLOCK_SECONDS: Final = 1.0
"""A host that is cut off uses its share of the rates so much later than its peers count it."""
GIVEN: Final = 0.75
"""Part of what is left that all portions together are. KeyPeers count the portions that they heard,
which are larger than the present ones while a limit is being used up. Measured: with 1, most
requests on 32 hosts are refused (`bench.dispatch.key_limits`).
"""
CHANGED: Final = 0.1
"""A portion is told again when it has changed by this part. Chosen below what `GIVEN` leaves."""
MOST_ROWS: Final = 32
"""Words kept for peers that have not confirmed them; older ones are joined. Chosen."""
MOST_ABSENT: Final = 1024
"""Former hosts whose use of a budget is kept, of each key. Chosen."""
MOST: Final = float(1 << 53)
"""Bound of a told number: whole numbers are exact up to it."""

_Four = tuple[float, float, float, float]
"""Requests, tokens, in flight, budget."""


@dataclasses.dataclass(frozen=True, slots=True)
class RelayedWord:
    """What a host passes on of another host's last word, to a peer that does not reach that host.

    The fields are those of `KeyWord`.
    """

    host: str
    incarnation: int
    number: int
    usage: Usage
    portion: Usage
    active: bool


@dataclasses.dataclass(frozen=True, slots=True)
class KeyWord:
    """What a host tells one peer about one key.

    Attributes:
        incarnation: of the host's counts; another after each start of its proxy.
        number: of the word in its incarnation, from 1; 0 if the host does not know the key.
        usage: of this host in this incarnation, cumulative; the budget is that of the period.
        portion: how much more the host may use, before a later word is confirmed.
        levels: of the host's buckets, requests and tokens.
        active: the host sends requests with this key.
        heard_incarnation: of the receiver's last word that this host has heard.
        heard_number: of that word.
        asks: the receiver has not confirmed this word yet.
        absent: use of budgets by hosts that may be out of the receiver's reach, or by the receiver
            itself in an earlier incarnation.
        missing: hosts of the table that this host does not reach.
        relayed: words of hosts that the receiver does not reach.
    """

    incarnation: int
    number: int
    usage: Usage
    portion: Usage
    levels: tuple[float, float] = (MOST, MOST)
    active: bool = False
    heard_incarnation: int = -1
    heard_number: int = -1
    asks: bool = False
    absent: tuple[BudgetOfHost, ...] = ()
    missing: tuple[str, ...] = ()
    relayed: tuple[RelayedWord, ...] = ()


def word_of_unknown_key(word: KeyWord, incarnation: int) -> KeyWord:
    """Return the answer of a host that does not know the key: it confirms, and uses nothing."""
    return KeyWord(
        incarnation,
        0,
        NO_USAGE,
        NO_USAGE,
        heard_incarnation=word.incarnation,
        heard_number=word.number,
    )


class KeyPeers:
    """The other hosts of the fleet, as this host knows them: one object for all keys.

    Attributes:
        host: name of this host.
        incarnation: of this host's counts: its start in Unix nanoseconds, greater than any before.
        started: start of the incarnation, monotonic seconds.
        hosts: names of all other hosts in the table.
        answered: by host, when the last message was *sent* that the host has confirmed, monotonic
            seconds. Whoever owns the connections keeps it up to date, keys or no keys.
    """

    __slots__ = ("answered", "host", "hosts", "incarnation", "started")

    def __init__(self, host: str, incarnation: int, now: float) -> None:
        self.host = host
        self.incarnation = incarnation
        self.started = now
        self.hosts: frozenset[str] = frozenset()
        self.answered: dict[str, float] = {}

    def apply(self, hosts: Iterable[str]) -> None:
        """Take over the hosts of a table."""
        self.hosts = frozenset(hosts) - {self.host}

    def silent_since(self, host: str) -> float:
        """Return when the host becomes or became silent, if it confirms nothing more."""
        return self.answered.get(host, self.started) + SILENT_SECONDS

    def is_silent(self, host: str, now: float) -> bool:
        """Return whether the host has confirmed nothing for `SILENT_SECONDS`."""
        return now > self.silent_since(host)


class _Row:
    """A word that was told: use and portion, or the least of several words."""

    __slots__ = ("ceilings", "floors", "number", "start")

    def __init__(self, number: int, start: float, floors: _Four, ceilings: _Four) -> None:
        self.number = number
        self.start = start
        self.floors = floors
        self.ceilings = ceilings


class _Heard:
    """What was heard of one peer.

    Attributes:
        incarnation, number: of the last word; -1 before the first.
        usage, portion: of the last word.
        earlier: use of the budget in the period before, if words told of two.
        before: (incarnation, start, tokens) of a budget: use of an earlier incarnation, or use
            that other hosts have heard of.
        base: requests and tokens to add to the incarnation's, so that sums only grow.
        silent: requests and tokens that the peer may have used while silent.
        confirmed: number of this host's last word that the peer has confirmed.
        owes: this host owes a confirmation.
        missing: hosts that the peer does not reach.
        passed_on: incarnations and numbers of their words that the peer was told.
        relayed_at: when its last word came through another host, monotonic seconds.
    """

    __slots__ = (
        "active", "base", "before", "confirmed", "earlier", "incarnation", "missing", "number",
        "owes", "passed_on", "portion", "relayed_at", "silent", "usage",
    )  # fmt: skip

    def __init__(self) -> None:
        self.incarnation = -1
        self.number = -1
        self.usage = NO_USAGE
        self.portion = NO_USAGE
        self.earlier: tuple[float, float] = (0.0, 0.0)
        self.before: tuple[int, float, float] = (-1, 0.0, 0.0)
        self.base: tuple[float, float] = (0.0, 0.0)
        self.silent: tuple[float, float] = (0.0, 0.0)
        self.confirmed = 0
        self.owes = False
        self.active = False
        self.missing: tuple[str, ...] = ()
        self.passed_on: dict[str, tuple[int, int]] = {}
        self.relayed_at = -math.inf

    def requests(self) -> float:
        """Requests of the peer since this host knows it, of all incarnations."""
        return self.base[0] + self.usage.requests + self.silent[0]

    def tokens(self) -> float:
        """Tokens of the peer since this host knows it, of all incarnations."""
        return self.base[1] + self.usage.tokens + self.silent[1]

    def budget(self, start: float) -> float:
        """Tokens of the budget that the peer is known to have used in this period."""
        used = self.usage.budget_in(start)
        if self.earlier[0] == start:
            used = max(used, self.earlier[1])
        return max(used, self.before[2]) if self.before[1] == start else used

    def is_older(self, word: KeyWord | RelayedWord) -> bool:
        """Return whether the word was told before the last one, or contradicts it."""
        if word.incarnation != self.incarnation:
            return word.incarnation < self.incarnation
        return word.number < self.number or word.usage.requests < self.usage.requests

    def take_over(self, word: KeyWord | RelayedWord) -> None:
        """Replace the use by that of a newer word."""
        had = self.usage
        if word.incarnation != self.incarnation:
            if self.incarnation >= 0:
                self.base = (self.base[0] + had.requests, self.base[1] + had.tokens)
                self.remember(self.incarnation, had.budget_start, had.budget_tokens)
            self.earlier = (0.0, 0.0)
        elif word.usage.budget_start > had.budget_start:
            self.earlier = (had.budget_start, had.budget_tokens)
        if self.before[0] >= word.incarnation:
            self.before = (-1, 0.0, 0.0)  # the peer itself knows better
        # What the peer may have used while silent was debited; it stays so, because refunds of
        # that age would only fill buckets that are full again.
        self.base = (self.base[0] + self.silent[0], self.base[1] + self.silent[1])
        self.silent = (0.0, 0.0)
        self.incarnation, self.number = word.incarnation, word.number
        self.usage, self.portion, self.active = word.usage, word.portion, word.active

    def remember(self, incarnation: int, start: float, tokens: float) -> None:
        """Note a use of the budget; of the latest period, the greatest counts."""
        if (start, tokens) > self.before[1:]:
            self.before = (incarnation, start, tokens)


class Portions:
    """One key over the fleet, as this host knows it. The module describes the rules.

    Attributes:
        incarnation: of the words; a key that lost its limits and got new ones has another.
        heard: use by all other hosts; add it to `others` of `KeyMeter.admit`. Of the rates it is
            what they used since this host knows them, and it only grows.
        allowance: for `KeyMeter.admit`; None while the table has no other host.
    """

    def __init__(
        self,
        peers: KeyPeers,
        rates: KeyRates,
        now: float,
        began: Usage = NO_USAGE,
        heard: Usage = NO_USAGE,
    ) -> None:
        """Begin; call `tick` before the first request.

        Args:
            peers: the other hosts.
            rates: limits of the key.
            now: monotonic seconds.
            began: use by this host so far. Of it, only the budget concerns the peers.
            heard: what was known before of the peers' use of the rates, so that the sum grows on.
        """
        self.incarnation = peers.incarnation + int((now - peers.started) * 1e9)
        self._peers = peers
        self._rates = rates
        self._began = began
        self._heard: dict[str, _Heard] = {}
        self._rows: list[_Row] = []
        self._usage = NO_USAGE
        self._portion = NO_USAGE
        self._levels = (MOST, MOST)
        self._active = False
        self._active_until = -math.inf
        self._bound = (MOST, MOST)
        self._base = (heard.requests, heard.tokens)
        self._own_before: tuple[float, float] = (0.0, 0.0)
        self._restored: tuple[float, float] = (0.0, 0.0)
        self._reached: set[str] = set()
        self._counted: set[str] = set()
        self._missing: tuple[str, ...] = ()
        self._now = now
        self.heard = Usage(heard.requests, heard.tokens)
        self.allowance: Allowance | None = None

    def in_later_incarnation(self, peers: KeyPeers, now: float) -> "Portions":
        """Return the key in a later incarnation; all use of this one is told once more."""
        made = Portions(peers, self._rates, now, self._began, self.heard)
        made.remind(self.known())
        return made

    def apply(self, rates: KeyRates) -> None:
        """Take over other limits, from the next `tick` on."""
        self._rates = rates

    def want(self, now: float) -> None:
        """Note that a request was refused for lack of a portion: this host takes part now."""
        self._active_until = now + ACTIVE_SECONDS

    def hear(self, host: str, word: KeyWord) -> None:
        """Take over a word of a peer, in whatever order words come."""
        if host == self._peers.host or not _makes_sense(word):
            return
        known = self._heard.get(host)
        if known is None:
            known = self._heard[host] = _Heard()
        if word.heard_incarnation == self.incarnation and self._rows:
            # A peer that confirms more than was told harms no more than one that confirms all.
            confirmed = min(word.heard_number, self._rows[-1].number)
            known.confirmed = max(known.confirmed, confirmed)
        known.owes = known.owes or word.asks  # also to a host that does not know how old it is
        if known.is_older(word):
            return
        known.missing = word.missing[:MOST_ABSENT]
        for relayed in word.relayed[:MOST_ABSENT]:
            self._hear_relayed(relayed)
        for name, incarnation, start, tokens in word.absent[:MOST_ABSENT]:
            self._remember(name, incarnation, start, tokens)
        if word.incarnation == known.incarnation and word.number == known.number:
            return
        if known.incarnation < 0:
            self._bound = (
                min(self._bound[0], word.levels[0]), min(self._bound[1], word.levels[1])
            )  # fmt: skip
            if word.incarnation < self.incarnation - START_NANOSECONDS:
                known.base = (-word.usage.requests, -word.usage.tokens)
        known.take_over(word)

    def tick(self, used: Usage, levels: tuple[float, float], *, now: float, unix: float) -> None:
        """Work out `heard`, `allowance` and the next word. Call it every `TELL_SECONDS` while the
        key `is_busy`, and when the table or a peer's silence changes.

        Args:
            used: by this host: the sum of its workers' rows.
            levels: of the buckets, with `heard` learned as it is before this call
                (`KeyMeter.levels`).
            now: monotonic seconds.
            unix: Unix seconds.
        """
        peers, rates = self._peers, self._rates
        self._now = now
        start = period_start(unix, rates.budget_period)
        own = Usage(
            used.requests - self._began.requests,
            used.tokens - self._began.tokens,
            used.in_flight,
            start,
            used.budget_in(start),
        )
        if own.requests > self._usage.requests or (
            self.allowance is not None and self.allowance.wanted
        ):
            self.want(now)
        before = self.heard
        self.heard = self._sum(start, now)
        requests = levels[0] - (self.heard.requests - before.requests)
        tokens = levels[1] - (self.heard.tokens - before.tokens)
        lowered = (max(0.0, requests - self._bound[0]), max(0.0, tokens - self._bound[1]))
        self._levels = (
            requests - lowered[0] if rates.requests_per_minute > 0 else MOST,
            tokens - lowered[1] if rates.tokens_per_minute > 0 else MOST,
        )
        self._bound = (MOST, MOST)
        self._base = (self._base[0] + lowered[0], self._base[1] + lowered[1])
        self.heard = dataclasses.replace(
            self.heard,
            requests=self.heard.requests + lowered[0],
            tokens=self.heard.tokens + lowered[1],
        )
        left = self._left(own)
        active = now < self._active_until
        share = self._share(active=active)
        portion = Usage(left[0] * share, left[1] * share, left[2] * share, start, left[3] * share)
        missing = tuple(sorted(peers.hosts - self._reached))
        if not self._rows:
            self._restored = (start, own.budget_tokens)
            first = _four(own, start)
            self._rows.append(_Row(0, start, first, first))
        if (
            own != self._usage
            or active != self._active
            or missing != self._missing
            or _differ(portion, self._portion)
            or self._rows[-1].number == 0
        ):
            self._usage, self._portion, self._active = own, portion, active
            self._missing = missing
            ceilings = _plus(_four(own, start), _four(portion, start))
            self._rows.append(_Row(self._rows[-1].number + 1, start, _four(own, start), ceilings))
            self._forget_rows()
        self.allowance = self._allow(start, now) if peers.hosts else None

    def word(self, host: str) -> KeyWord | None:
        """Return what to tell a peer now; None if it knows everything. After `tick`."""
        if not self._rows or not (self._peers.hosts or self._heard):
            return None
        number = self._rows[-1].number
        known = self._heard.get(host)
        asks = known is None or known.confirmed < number
        if known is None:
            known = self._heard[host] = _Heard()
        relayed = self._relayed(known)
        if not asks and not known.owes and not relayed:
            return None
        known.owes = False
        return KeyWord(
            self.incarnation,
            number,
            self._usage,
            self._portion,
            self._levels,
            self._active,
            known.incarnation,
            known.number,
            asks,
            self._absent(host),
            self._missing,
            relayed,
        )

    def is_busy(self, now: float) -> bool:
        """Return whether a peer still has to hear or to confirm something."""
        if not self._rows or now < self._active_until:
            return True
        number = self._rows[-1].number
        return any(
            known.owes or known.confirmed < number
            for host, known in self._heard.items()
            if host in self._peers.hosts and not self._peers.is_silent(host, now)
        )

    def recalled(self, used: Usage) -> BudgetUse | None:
        """Return this host's own use of the budget if its peers remember more of it than the host
        itself does, after a restart: for `KeyMeter.restore`.
        """
        start, tokens = self._own_before
        before = self._restored[1] if self._restored[0] == start else 0.0
        if start != self._usage.budget_start or tokens <= before:
            return None
        self._restored = (start, tokens)
        return BudgetUse(self._rates.budget_period, start, tokens + used.budget_in(start) - before)

    def known(self) -> tuple[BudgetOfHost, ...]:
        """Return what other hosts have used of the budget, to be stored beside the own use."""
        start = self._usage.budget_start
        return tuple(
            [
                (host, known.incarnation, start, known.budget(start))
                for host, known in self._heard.items()
                if known.budget(start) > 0
            ]
        )

    def remind(self, known: Iterable[BudgetOfHost]) -> None:
        """Take over what was stored, after a start and before the first `tick`."""
        for host, incarnation, start, tokens in known:
            self._remember(host, incarnation, start, tokens)

    def _hear_relayed(self, word: RelayedWord) -> None:
        """Take over a word of a host that this host does not reach."""
        known = self._heard.get(word.host)
        if known is None or word.host in self._reached or known.is_older(word):
            return
        if known.incarnation < 0 and word.incarnation < self.incarnation - START_NANOSECONDS:
            known.base = (-word.usage.requests, -word.usage.tokens)
        known.relayed_at = self._now
        known.take_over(word)

    def _relayed(self, receiver: _Heard) -> tuple[RelayedWord, ...]:
        """Return the words that the receiver does not hear itself, if it was not told them."""
        found: list[RelayedWord] = []
        for host in receiver.missing:
            known = self._heard.get(host)
            if known is None or host not in self._reached:
                continue
            latest = (known.incarnation, known.number)
            if known.incarnation >= 0 and receiver.passed_on.get(host) != latest:
                receiver.passed_on[host] = latest
                found.append(RelayedWord(host, *latest, known.usage, known.portion, known.active))
        return tuple(found)

    def _remember(self, host: str, incarnation: int, start: float, tokens: float) -> None:
        """Note what a peer remembers of a host that may be out of reach."""
        if not (0.0 <= start <= MOST and 0.0 < tokens <= MOST):
            return
        if host == self._peers.host:
            if incarnation < self.incarnation and (start, tokens) > self._own_before:
                self._own_before = (start, min(tokens, float(self._rates.token_budget)))
            return
        known = self._heard.get(host)
        if known is None:
            if len(self._heard) >= MOST_ABSENT:
                return
            known = self._heard[host] = _Heard()
        if host not in self._reached and incarnation >= known.incarnation:
            known.remember(incarnation, start, tokens)

    def _absent(self, receiver: str) -> tuple[BudgetOfHost, ...]:
        """Return the use of budgets that the receiver may not hear from the host itself."""
        found: list[BudgetOfHost] = []
        start = self._usage.budget_start
        for host, known in self._heard.items():
            incarnation, before_start, before = known.before
            remembered = before_start == start and before > 0
            if host == receiver:
                # Told again and again, as its own count says nothing about whether it knows.
                if remembered:
                    found.append((host, incarnation, start, before))
            elif host not in self._reached and known.budget(start) > 0:
                latest = remembered and before >= known.usage.budget_in(start)
                found.append(
                    (host, incarnation if latest else known.incarnation, start, known.budget(start))
                )
        return tuple(found)

    def _limits(self) -> _Four:
        rates = self._rates
        return (
            float(rates.requests_per_minute),
            float(rates.tokens_per_minute),
            float(rates.max_in_flight),
            float(rates.token_budget),
        )

    def _may_use(self, known: _Heard, start: float) -> _Four:
        """Return the portion of a peer: by its last word, or before the first an equal one."""
        hosts = len(self._peers.hosts) + 1
        requests, tokens, running, budget = self._limits()
        told = known.portion
        if known.incarnation < 0:
            return requests / hosts, tokens / hosts, running / hosts, budget / hosts
        if told.budget_start > start:
            budget = 0.0  # its clock is ahead: it uses no more of this period
        elif told.budget_start == start or known.number == 0:
            budget = min(budget, told.budget_tokens)
        else:
            budget /= hosts
        return (
            min(requests, told.requests),
            min(tokens, told.tokens),
            min(running, told.in_flight),
            budget,
        )

    def _sum(self, start: float, now: float) -> Usage:
        """Return the use of all other hosts, and set which are reached."""
        peers = self._peers
        for host in peers.hosts:
            if host not in self._heard:
                self._heard[host] = _Heard()
        self._reached = {
            host
            for host, known in self._heard.items()
            if not peers.is_silent(host, now) and (known.incarnation >= 0 or host in peers.hosts)
        }
        self._counted = {
            host
            for host, known in self._heard.items()
            if host in self._reached or now < known.relayed_at + SILENT_SECONDS
        }
        running = budget = 0.0
        gone: list[str] = []
        for host, known in self._heard.items():
            used = known.budget(start)
            if host in self._counted:
                running += known.usage.in_flight
            elif host in peers.hosts:
                may = self._may_use(known, start)
                running += known.usage.in_flight + may[2]
                # What others remember may be later than the last word, and is no less certain.
                last = used if known.incarnation < 0 else known.usage.budget_in(start)
                used = max(used, last + may[3])
                silent_since = max(peers.silent_since(host), known.relayed_at + SILENT_SECONDS)
                since = (now - silent_since) / 60 / (len(peers.hosts) + 1)
                known.silent = (
                    max(known.silent[0], may[0] + since * self._rates.requests_per_minute),
                    max(known.silent[1], may[1] + since * self._rates.tokens_per_minute),
                )
            elif used <= 0:
                gone.append(host)
            budget += used
        for host in gone:
            known = self._heard.pop(host)
            self._base = (self._base[0] + known.requests(), self._base[1] + known.tokens())
        requests = sum([known.requests() for known in self._heard.values()])
        tokens = sum([known.tokens() for known in self._heard.values()])
        return Usage(self._base[0] + requests, self._base[1] + tokens, running, start, budget)

    def _left(self, own: Usage) -> _Four:
        """Return what is left, as far as this host knows."""
        limits, heard = self._limits(), self.heard
        return (
            max(0.0, self._levels[0]) if limits[0] > 0 else 0.0,
            max(0.0, self._levels[1]) if limits[1] > 0 else 0.0,
            max(0.0, limits[2] - own.in_flight - heard.in_flight),
            max(0.0, limits[3] - own.budget_tokens - heard.budget_tokens),
        )

    def _share(self, *, active: bool) -> float:
        """Return the part of what is left that is this host's portion."""
        hosts = len(self._counted) + 1
        equal = EQUAL_SHARE / hosts
        if not active:
            return GIVEN * equal
        sharing = 1 + sum([self._heard[host].active for host in self._counted])
        return GIVEN * (1.0 - equal * (hosts - sharing)) / sharing

    def _allow(self, start: float, now: float) -> Allowance:
        """Work out what this host may use until the next call."""
        peers, limits = self._peers, self._limits()
        hosts = len(peers.hosts) + 1
        sums, most = [0.0] * 4, [0.0] * 4
        for host in self._counted:
            for at, amount in enumerate(self._may_use(self._heard[host], start)):
                sums[at] += amount
                most[at] = max(most[at], amount)
        reached = peers.hosts & self._reached
        silent = peers.hosts - reached
        floors, ceilings = self._promised(reached, start, hosts)
        if silent and 2 * (len(reached) + 1) <= hosts:
            since = max([peers.silent_since(host) for host in silent]) + CLOCK_SECONDS
            grown = max(0.0, now - since) / 60 / hosts
            more = (grown * limits[0], grown * limits[1], 0.0, 0.0)
            least, bound = self._promised(silent, start, hosts, alone=True)
            floors = _least(floors, least)
            ceilings = _least(ceilings, _plus(bound, more))
        began = (self._began.requests, self._began.tokens, 0.0, 0.0)
        floors, ceilings = _plus(floors, began), _plus(ceilings, began)
        parts = [Part(floors[at], ceilings[at], sums[at], most[at]) for at in range(4)]
        return Allowance(hosts, parts[0], parts[1], parts[2], start, parts[3])

    def _promised(
        self, hosts: Iterable[str], start: float, count: int, *, alone: bool = False
    ) -> tuple[_Four, _Four]:
        """Return the least use and the least bound that one of the hosts may have heard last.

        A host that has confirmed nothing has heard at least nothing: `alone`, if it is silent, each
        host has an equal part.
        """
        number = self._rows[-1].number
        for host in hosts:
            number = min(number, self._heard[host].confirmed)
        floors = ceilings = (math.inf, math.inf, math.inf, math.inf)
        each = first_part(self._limits()[3], count).ceiling
        for row in reversed(self._rows):
            at, bounds = _in_period(row, start, each)
            if row.number == 0 and alone:
                requests, tokens, running, budget = self._limits()
                first = (requests / count, tokens / count, running / count, 0.0)
                left = max(0.0, budget - at[3]) / count
                bounds = _plus(at, _plus(first, (0.0, 0.0, 0.0, left)))
            floors, ceilings = _least(floors, at), _least(ceilings, bounds)
            if row.number <= number:
                break
        return floors, ceilings

    def _forget_rows(self) -> None:
        """Drop the words that all peers have confirmed to be past, and join what is too much."""
        rows = self._rows
        number = rows[-1].number
        for host in self._peers.hosts:
            number = min(number, self._heard[host].confirmed)
        while len(rows) > 1 and rows[1].number <= number:
            del rows[0]
        if len(rows) > MOST_ROWS:
            rows[0:2] = [self._join(rows[0], rows[1])]

    def _join(self, older: _Row, newer: _Row) -> _Row:
        """Return one word that promises what both promise."""
        start = max(older.start, newer.start)
        each = first_part(self._limits()[3], len(self._peers.hosts) + 1).ceiling
        floors, ceilings = _in_period(older, start, each)
        more_floors, more_ceilings = _in_period(newer, start, each)
        return _Row(
            older.number, start, _least(floors, more_floors), _least(ceilings, more_ceilings)
        )


def _in_period(row: _Row, start: float, each: float) -> tuple[_Four, _Four]:
    """Return use and bounds of a row; in a later period no use, and an equal part."""
    if row.start == start:
        return row.floors, row.ceilings
    floors, ceilings = row.floors, row.ceilings
    return (
        (floors[0], floors[1], floors[2], 0.0),
        (ceilings[0], ceilings[1], ceilings[2], each),
    )


def _four(usage: Usage, start: float) -> _Four:
    return usage.requests, usage.tokens, usage.in_flight, usage.budget_in(start)


def _plus(one: _Four, other: _Four) -> _Four:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3]


def _least(one: _Four, other: _Four) -> _Four:
    return (
        min(one[0], other[0]),
        min(one[1], other[1]),
        min(one[2], other[2]),
        min(one[3], other[3]),
    )


def _differ(one: Usage, other: Usage) -> bool:
    """Return whether a portion has changed enough to be told."""
    return any(
        abs(new - old) > CHANGED * max(new, old) and abs(new - old) > 1e-3
        for new, old in zip(one.as_row(), other.as_row(), strict=True)
    )


def _makes_sense(word: KeyWord) -> bool:
    """Return whether all numbers are within bounds; a word that has others is not taken."""
    levels = all(-MOST <= level <= MOST for level in word.levels)
    return levels and _is_bounded(word) and all(_is_bounded(one) for one in word.relayed)


def _is_bounded(word: KeyWord | RelayedWord) -> bool:
    usage, portion = word.usage, word.portion
    return (
        0 <= word.incarnation <= MOST * 1024
        and 0 <= word.number <= MOST
        and -MOST <= usage.tokens <= MOST
        and all(
            0.0 <= number <= MOST
            for number in (
                usage.requests, usage.in_flight, usage.budget_start, usage.budget_tokens,
                *portion.as_row(),
            )
        )
    )  # fmt: skip

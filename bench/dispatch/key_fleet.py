"""Runs one key on several hosts in simulated time, with messages that may be late or lost.

A host here is what a host's proxy is for a key: its meter, its portions, a clock of its own, and
messages to each peer. `bench.dispatch.key_limits` measures with it, and tests try to break it.
"""

import dataclasses
import heapq
import itertools
from collections.abc import Callable
from typing import Final

from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.routing import KeyRates
from partitiond.core.keys.portions import KeyPeers, KeyWord, Portions
from partitiond.core.keys.rates import Allowed, BudgetOfHost, BudgetUse, KeyMeter, budget_use

UNIX: Final = 1_700_000_000.0
"""Unix seconds of the simulation's begin."""


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """What goes over a connection.

    Attributes:
        sender: host.
        incarnation: of the sender.
        sent: by the sender's clock, seconds.
        heard_incarnation, heard_sent: of the receiver's last message that the sender has heard.
        word: about the key; None if there is nothing to tell.
    """

    sender: str
    incarnation: int
    sent: float
    heard_incarnation: int
    heard_sent: float
    word: KeyWord | None


@dataclasses.dataclass(frozen=True, slots=True)
class Receipt:
    """A request in flight: on which start of which host it was admitted."""

    host: "KeyHost"
    life: int
    allowed: Allowed


class KeyHost:
    """One host.

    Attributes:
        ahead: seconds that its Unix clock is ahead of the simulation's.
        disk, known: its own use of the budget, and the others', that it saved last.
        up: it runs.
        life: starts so far.
    """

    def __init__(self, name: str, ahead: float = 0.0) -> None:
        self.name = name
        self.ahead = ahead
        self.disk: BudgetUse | None = None
        self.known: tuple[BudgetOfHost, ...] = ()
        self.up = False
        self.life = 0

    def start(self, rates: KeyRates, hosts: set[str], now: float, *, with_disk: bool) -> None:
        """Start the proxy anew."""
        self.life += 1
        self.up = True
        self.peers = KeyPeers(self.name, int((UNIX + now) * 1e9) + self.life, now)
        self.peers.apply(hosts)
        self.meter = KeyMeter(rates, now)
        if with_disk and self.disk is not None:
            self.meter.restore(self.disk)
        self.portions = Portions(self.peers, rates, now)
        if with_disk:
            self.portions.remind(self.known)
        self._last: dict[str, tuple[int, float]] = {}
        self.tick(now)

    def unix(self, now: float) -> float:
        """This host's clock."""
        return UNIX + now + self.ahead

    def apply(self, rates: KeyRates, hosts: set[str], now: float) -> None:
        """Take over a table."""
        self.peers.apply(hosts)
        self.meter.apply(rates, now)
        self.portions.apply(rates)
        self.tick(now)

    def admit(self, tokens: float, now: float) -> Receipt | Rejected:
        """Admit a request, or not."""
        found = self.meter.admit(
            tokens,
            now=now,
            unix=self.unix(now),
            others=self.portions.heard,
            allowance=self.portions.allowance,
        )
        return found if isinstance(found, Rejected) else Receipt(self, self.life, found)

    def settle(self, receipt: Receipt, tokens: float, now: float) -> None:
        """End a request, unless the host was started anew meanwhile."""
        if self.up and receipt.life == self.life:
            self.meter.settle(receipt.allowed, tokens, now=now, unix=self.unix(now))

    def save(self) -> None:
        """Save the use of the budget."""
        self.disk = budget_use(self.meter.rates, self.meter.usage)
        self.known = self.portions.known()

    def tick(self, now: float) -> None:
        """Work out the allowance and the next word."""
        recalled = self.portions.recalled(self.meter.usage)
        if recalled is not None:
            self.meter.restore(recalled)
        levels = self.meter.levels(now=now, others=self.portions.heard)
        self.portions.tick(self.meter.usage, levels, now=now, unix=self.unix(now))

    def message(self, receiver: str, now: float) -> Message:
        """Return the next message to a peer."""
        incarnation, sent = self._last.get(receiver, (-1, -1.0))
        word = self.portions.word(receiver)
        return Message(self.name, self.peers.incarnation, now, incarnation, sent, word)

    def hear(self, message: Message) -> None:
        """Take over a message."""
        last = (message.incarnation, message.sent)
        self._last[message.sender] = max(last, self._last.get(message.sender, last))
        if message.heard_incarnation == self.peers.incarnation:
            answered = self.peers.answered
            answered[message.sender] = max(
                message.heard_sent, answered.get(message.sender, message.heard_sent)
            )
        if message.word is not None:
            self.portions.hear(message.sender, message.word)


class KeyFleet:
    """Hosts and the network between them.

    Attributes:
        rates: of the key.
        hosts: by name, also those that are down or have left the table.
        table: names in the table.
        now: monotonic seconds, the same for all.
        words: words told so far.
        path: returns the delays of a message from one host to another; none if it is lost, several
            if it is doubled.
    """

    def __init__(
        self,
        rates: KeyRates,
        count: int,
        path: Callable[[str, str], tuple[float, ...]],
        *,
        ahead: Callable[[int], float] = lambda _: 0.0,
        tick_seconds: float = 0.1,
    ) -> None:
        self.rates = rates
        self.path = path
        self.tick_seconds = tick_seconds
        self.now = 0.0
        self.words = 0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self.hosts = {f"h{n}": KeyHost(f"h{n}", ahead(n)) for n in range(count)}
        self.table = set(self.hosts)
        for n, host in enumerate(self.hosts.values()):
            host.start(rates, self.table, 0.0, with_disk=False)
            self._tick_later(host, tick_seconds * n / count)

    def join(self, name: str, ahead: float = 0.0) -> None:
        """Let a host join, and tell all at once."""
        new = name not in self.hosts
        host = self.hosts.setdefault(name, KeyHost(name, ahead))
        self.table.add(name)
        self.apply(self.rates)
        if not host.up:
            host.start(self.rates, self.table, self.now, with_disk=True)
        if new:
            self._tick_later(host, 0.0)

    def set_clocks(self, seconds: float) -> None:
        """Set all hosts' clocks to so many seconds after the begin of an hour (UTC)."""
        for host in self.hosts.values():
            host.ahead += seconds - UNIX % 3600 - self.now

    def leave(self, name: str) -> None:
        """Take a host out of the table."""
        self.table.discard(name)
        self.apply(self.rates)

    def apply(self, rates: KeyRates) -> None:
        """Give all hosts that run a table."""
        self.rates = rates
        for host in self.hosts.values():
            if host.up:
                host.apply(rates, self.table, self.now)

    def restart(self, name: str, *, with_disk: bool = True) -> None:
        """Start a host's proxy anew."""
        self.hosts[name].start(self.rates, self.table, self.now, with_disk=with_disk)

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call something at a moment."""
        heapq.heappush(self._events, (when, next(self._order), call))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._events and self._events[0][0] <= until:
            self.now, _, call = heapq.heappop(self._events)
            call()
        self.now = until

    def _tick_later(self, host: KeyHost, seconds: float) -> None:
        self.at(self.now + seconds, lambda: self._tick(host))

    def _tick(self, host: KeyHost) -> None:
        if host.up:
            host.tick(self.now)
            for name in self.hosts:
                if name != host.name:
                    self._send(host, name)
        self._tick_later(host, self.tick_seconds)

    def _send(self, host: KeyHost, receiver: str) -> None:
        message = host.message(receiver, self.now)
        self.words += message.word is not None
        for delay in self.path(host.name, receiver):
            self.at(self.now + delay, lambda: self._arrive(receiver, message))

    def _arrive(self, receiver: str, message: Message) -> None:
        if self.hosts[receiver].up:
            self.hosts[receiver].hear(message)

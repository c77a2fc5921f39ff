"""Keeps keys' limits together with the proxies of other hosts.

`core.keys.portions` decides; this module has its objects, a timer, and the messages. A host tells a
peer on the connection that it keeps to that peer itself (the entry's), and hears the peer's words
and confirmations on the one that the peer keeps. So a host that is reached but does not reach back
confirms nothing: it is silent for its peer.

Only what is in use costs anything: a key that nobody uses, and of which all is confirmed, is told
of no more. Without words, a host says twice a second what it has heard.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from partitiond.core.keys.portions import (
    MOST_ABSENT,
    TELL_SECONDS,
    KeyPeers,
    KeyWord,
    Portions,
    word_of_unknown_key,
)
from partitiond.core.keys.rates import NO_USAGE, BudgetOfHost, KeyMeter, Usage
from partitiond.proxy.keys.rows import KeyRows
from partitiond.proxy.keys.words import KeyWords, messages

QUIET_SECONDS: Final = 0.5
"""Interval of messages while there are no words: a sixth of the time after which a host is silent.
Chosen."""
_LATEST_NANOSECONDS: Final = 100 * 366 * 86_400 * 1_000_000_000
"""An incarnation that is later than the clock by more is a lie: the numbers must not run out."""

_logger = logging.getLogger("partitiond.proxy")


class KeysOverHosts:
    """The keys with limits of this process, and what other hosts' proxies told of them.

    Attributes:
        send: sends a message to a host; returns False if there is no connection that takes it.
    """

    def __init__(self, rows: KeyRows | None = None) -> None:
        """With rows, work for all workers of this host, which read them."""
        self._rows = rows
        self.send: Callable[[str, bytes], bool] = _to_nobody
        self._peers: KeyPeers | None = None
        self._meters: Mapping[str, KeyMeter] = {}
        self._portions: dict[str, Portions] = {}
        self._in_use: set[str] = set()
        self._silent: frozenset[str] = frozenset()
        self._heard: dict[str, tuple[int, float]] = {}
        self._unknown: dict[str, dict[str, KeyWord]] = {}
        self._sent_at: dict[str, float] = {}
        self._worked_at = 0.0
        self._due_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def apply(
        self,
        host: str,
        hosts: Iterable[str],
        meters: Mapping[str, KeyMeter],
        kept: Mapping[str, tuple[BudgetOfHost, ...]],
    ) -> None:
        """Take over a table.

        Args:
            host: the own one.
            hosts: all whose endpoints serve the keys.
            meters: of the keys with limits.
            kept: what was stored of other hosts' use of budgets, of keys that are new.
        """
        now = time.monotonic()
        others = frozenset(hosts) - {host}
        if self._peers is None:
            if not others and not any(kept.values()):
                return  # where there never was another host, nothing is worked out or kept
            self._peers = KeyPeers(host, time.time_ns(), now)
        self._peers.host = host
        self._peers.apply(others)
        self._meters = meters
        former, self._portions = self._portions, {}
        for key_id, meter in meters.items():
            portions = former.get(key_id)
            if portions is None:
                began, heard = meter.usage, NO_USAGE
                if self._rows is not None:
                    began, heard = self._rows.left_behind(key_id, meter)
                portions = Portions(self._peers, meter.rates, now, began, heard)
                portions.remind(kept.get(key_id, ()))
            else:
                portions.apply(meter.rates)
            self._portions[key_id] = portions
        for known in (self._heard, self._unknown, self._sent_at):
            for gone in [name for name in known if name not in others]:
                del known[gone]
        self._in_use = set(self._portions)
        for key_id in self._portions:
            self._work_out(key_id)

    def start(self) -> None:
        """Begin to tell; called after each table, once an event loop runs."""
        if self._peers is not None and self._peers.hosts:
            self._wake()

    def close(self) -> None:
        """Tell no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def of(self, key_id: str) -> Portions | None:
        """Return what is known of a key; None without limits, or if there is one host alone."""
        return self._portions.get(key_id)

    @property
    def lock(self) -> None:
        """One process needs no lock; several workers have one."""

    def of_other_workers(self, _key_id: str) -> Usage:
        """Return the use by other workers of this host: there are none, or they do not ask here."""
        return NO_USAGE

    def used(self, key_id: str, *, wanted: bool = False) -> None:
        """Note that a key was used, or refused for lack of a portion: peers are told soon.

        Args:
            key_id: of the key.
            wanted: it was refused.
        """
        portions = self._portions.get(key_id) if wanted else None
        if portions is not None:
            portions.want(time.monotonic())
        if self._timer is not None:
            self._in_use.add(key_id)
            self._wake()

    def hear(self, host: str, told: KeyWords) -> None:
        """Take over a message of a peer."""
        peers = self._peers
        if peers is None or host not in peers.hosts:
            return
        now = time.monotonic()
        self._outlive(peers, told, now)
        peers = self._peers or peers
        last = (told.incarnation, told.sent)
        self._heard[host] = max(last, self._heard.get(host, last))
        # Nobody has heard what was not sent yet.
        if told.heard_incarnation == peers.incarnation and 0.0 <= told.heard_sent <= now:
            peers.answered[host] = max(told.heard_sent, peers.answered.get(host, 0.0))
        for key_id, word in told.by_key():
            portions = self._portions.get(key_id)
            if portions is not None:
                portions.hear(host, word)
                self._in_use.add(key_id)
            elif word.asks:
                answers = self._unknown.setdefault(host, {})
                if len(answers) < MOST_ABSENT:
                    # It is of a later incarnation than those of a key that was removed here.
                    age = int((now - peers.started) * 1e9)
                    answers[key_id] = word_of_unknown_key(word, peers.incarnation + age)
        if told.words:
            self._wake()

    def _outlive(self, peers: KeyPeers, told: KeyWords, now: float) -> None:
        """Begin a later incarnation if a peer has heard of a later one: then this host's clock was
        set back since, and the peer takes all words of this one for old.
        """
        latest = peers.incarnation + int((now - peers.started) * 1e9)
        heard = told.heard_incarnation
        later = heard if heard > peers.incarnation else -1
        for key_id, word in told.by_key():
            portions = self._portions.get(key_id)
            if word.heard_incarnation > (latest if portions is None else portions.incarnation):
                later = max(later, word.heard_incarnation)
        if not 0 <= later <= time.time_ns() + _LATEST_NANOSECONDS:
            return
        self._peers = KeyPeers(peers.host, later + 1, now)
        self._peers.apply(peers.hosts)
        self._portions = {
            key_id: portions.in_later_incarnation(self._peers, now)
            for key_id, portions in self._portions.items()
        }
        self._in_use = set(self._portions)
        for key_id in self._portions:
            self._work_out(key_id)

    # The timer

    def _wake(self) -> None:
        """Let the next look be `TELL_SECONDS` after the last one, not later."""
        now = time.monotonic()
        due = max(now, self._worked_at + TELL_SECONDS)
        if self._timer is None or due < self._due_at:
            self._look_at(due, now)

    def _look_at(self, due: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_at = due
        self._timer = asyncio.get_running_loop().call_later(due - now, self._look)

    def _look(self) -> None:
        self._timer = None
        try:
            self._tell()
        except Exception:
            _logger.exception("peers could not be told of the use of keys")
        if self._peers is not None and self._peers.hosts:
            now = self._worked_at = time.monotonic()
            pause = TELL_SECONDS if self._in_use else QUIET_SECONDS
            self._look_at(now + pause, now)

    def _tell(self) -> None:
        """Work out all keys in use, and tell each host that is reached."""
        peers = self._peers
        assert peers is not None
        now = time.monotonic()
        if self._rows is not None and not self._rows.keep(now):
            return  # another worker keeps them now
        silent = frozenset([host for host in peers.hosts if peers.is_silent(host, now)])
        if silent or silent != self._silent:
            # What a silent host may be using grows with time, whether or not a key is in use here.
            self._in_use = set(self._portions)
        self._silent = silent
        for key_id in self._in_use:
            self._work_out(key_id)
        for host in peers.hosts:
            self._tell_host(peers, host, now)
        self._in_use = {key_id for key_id in self._in_use if self._portions[key_id].is_busy(now)}

    def _work_out(self, key_id: str) -> None:
        portions, meter = self._portions[key_id], self._meters[key_id]
        if self._rows is not None:
            self._rows.work_out(key_id, portions, meter)
            return
        recalled = portions.recalled(meter.usage)
        if recalled is not None:
            meter.restore(recalled)
        now = time.monotonic()
        levels = meter.levels(now=now, others=portions.heard)
        portions.tick(meter.usage, levels, now=now, unix=time.time())

    def _tell_host(self, peers: KeyPeers, host: str, now: float) -> None:
        empty = KeyWords(peers.incarnation, now, *self._heard.get(host, (-1, -1.0)))
        # Words are made only for a connection that takes them, as each says what it says once.
        if not self.send(host, b""):
            return
        words = self._unknown.pop(host, {})
        for key_id in self._in_use:
            word = self._portions[key_id].word(host)
            if word is not None:
                words[key_id] = word
        if words or now >= self._sent_at.get(host, 0.0) + QUIET_SECONDS - TELL_SECONDS / 2:
            self._sent_at[host] = now
            for message in messages(empty, words):
                self.send(host, message)


def _to_nobody(_host: str, _message: bytes) -> bool:
    return False

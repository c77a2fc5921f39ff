"""Orders waiting requests by API key and priority. `core.dispatch.fair_queue` gives the reasons.

Each key has a tag, the virtual time at which its next request is due. Starting a request of c
tokens advances the tag by c / weight, and the key with the least tag is next. Virtual time is the
tag of the last started request. All orders are sorted lists, kept by bisection.
"""

import bisect
import itertools
import math
from typing import Final, Generic, TypeVar

from partitiond.core.dispatch.admission import ItemT, RequestOwner, Waiting

CREDIT_SHARE: Final = 1 / 4
"""Largest lead of a key that used less than its share, as a share of the tokens in the model's
slots. Without this credit, after one long request a modest key would wait behind a flood. Measured
with headroom: docs/dispatch.md."""
AGEING_SHARE: Final = 1 / 16
"""Share of the tokens started by higher priorities that a waiting lower one earns: under a flood
from above it keeps 1/17 of the service, and the flood hardly notices. Chosen, not measured."""
RECENT_STARTS: Final = 256
"""Last starts that count: a key with one of them is active; their mean is a request's size."""
MANY_ACCOUNTS: Final = 4096
"""Number of keys from which on settled keys (no credit, no debt) are forgotten. Chosen."""
LEAST_WEIGHT: Final = 1e-3
"""A key of weight 0 is served, if seldom: no key starves. Chosen, not measured."""

_Record = tuple[float, int, Waiting[ItemT]]
"""(deadline, number, entry): the order within a key."""
ThingT = TypeVar("ThingT")


class _Account(Generic[ItemT]):
    """One key: its waiting requests, and the virtual time at which the next one is due."""

    __slots__ = ("group", "key", "number", "sequences", "tag", "tokens", "waiting", "weight")

    def __init__(self, key: str, number: int, weight: float, group: "_Group[ItemT]") -> None:
        self.key = key
        self.number = number
        self.weight = weight
        self.group = group
        self.tag = -math.inf  # lifted when it first waits or pays
        self.waiting: list[_Record[ItemT]] = []
        self.sequences = 0
        self.tokens = 0.0

    def places(self, more: int = 0) -> float:
        """Return places that the key takes in the queue, per weight."""
        return (len(self.waiting) + more) / self.weight


_Ranked = tuple[float, int, _Account[ItemT]]


class _Group(Generic[ItemT]):
    """The keys of one priority.

    Attributes:
        due: keys with waiting requests, by tag.
        crowd: the same keys, by places per weight.
        earned: tokens that the group may start although a higher priority waits.
    """

    __slots__ = ("crowd", "due", "earned", "priority", "sequences", "virtual_time")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.virtual_time = 0.0
        self.earned = 0.0
        self.sequences = 0
        self.due: list[_Ranked[ItemT]] = []
        self.crowd: list[_Ranked[ItemT]] = []

    def leave(self, account: _Account[ItemT]) -> None:
        """Take a key out of the orders, before its tag or its waiting requests change."""
        if account.waiting:
            _remove(self.due, (account.tag, account.number, account))
            _remove(self.crowd, (account.places(), account.number, account))
            self.sequences -= account.sequences

    def enter(self, account: _Account[ItemT]) -> None:
        """Put a key back into the orders, with its present values."""
        if account.waiting:
            bisect.insort(self.due, (account.tag, account.number, account))
            bisect.insort(self.crowd, (account.places(), account.number, account))
            self.sequences += account.sequences
        elif not self.due:
            self.earned = 0.0

    def head(self) -> Waiting[ItemT]:
        """Return the group's next request."""
        return self.due[0][2].waiting[0][2]


class FairKeys(Generic[ItemT]):
    """Requests that wait for their turn.

    Attributes:
        slots: number of the model's slots, as far as known; sets the credit.
    """

    def __init__(self, credit_share: float = CREDIT_SHARE) -> None:
        self.slots = 0
        self._credit_share = credit_share
        self._records: dict[Waiting[ItemT], _Record[ItemT]] = {}
        self._accounts: dict[str, _Account[ItemT]] = {}
        self._groups: list[_Group[ItemT]] = []  # highest priority first
        self._numbers = itertools.count()
        self._many = MANY_ACCOUNTS
        self._mean_charge = 0.0
        self._starts = 0
        # The key that started last, and when the last one of another key started.
        self._last_key: str | None = None
        self._last_other = -RECENT_STARTS

    def __contains__(self, entry: Waiting[ItemT]) -> bool:
        return entry in self._records

    def add(self, entry: Waiting[ItemT]) -> None:
        """Add a request that waits for its key's turn."""
        account = self._account(entry.share)
        record = (entry.deadline, next(self._numbers), entry)
        account.group.leave(account)
        if not account.waiting:
            account.tag = self._lifted(account)
        bisect.insort(account.waiting, record)
        account.sequences += entry.cost.sequences
        account.tokens += entry.charge
        account.group.enter(account)
        self._records[entry] = record

    def remove(self, entry: Waiting[ItemT]) -> None:
        """Remove a request that waits no longer; its key pays nothing."""
        account = self._accounts[entry.key]
        account.group.leave(account)
        _remove(account.waiting, self._records.pop(entry))
        account.sequences -= entry.cost.sequences
        account.tokens = account.tokens - entry.charge if account.waiting else 0.0
        account.group.enter(account)

    def next(self) -> Waiting[ItemT] | None:
        """Return the next request: of the highest priority, or of a lower one that earned it."""
        first = None
        for group in self._groups:
            if group.due:
                if first is None:
                    first = group
                elif group.earned >= group.head().charge:
                    return group.head()
        return None if first is None else first.head()

    def start(self, entry: Waiting[ItemT]) -> None:
        """Take a request whose turn has come out of the queue, and charge its key."""
        account = self._accounts[entry.key]
        served = account.group
        waiting = [group for group in self._groups if group.due]
        if waiting[0] is not served:
            served.earned -= entry.charge
        for group in waiting:
            if group.priority < served.priority:
                group.earned += AGEING_SHARE * entry.charge
        self._pay(account, entry.charge)
        self.remove(entry)

    def charge(self, share: RequestOwner, tokens: float) -> None:
        """Charge the key for a request that never waited here."""
        self._pay(self._account(share), tokens)

    def settle(self, key: str, charged: float, actual: float) -> None:
        """Correct an earlier charge."""
        account = self._accounts.get(key)
        if account is not None and charged != actual:
            self._move(account, account.tag + (actual - charged) / account.weight)

    def is_over_share(self, key: str) -> bool:
        """Return whether the key has used more than its share lately."""
        account = self._accounts.get(key)
        return account is not None and account.tag > account.group.virtual_time

    def others_wait(self, key: str) -> bool:
        """Return whether requests of other keys wait."""
        return any(one[2].key != key for group in self._groups for one in group.due[:2])

    def others_active(self, key: str) -> bool:
        """Return whether another key started a request lately."""
        last = self._starts if self._last_key != key else self._last_other
        return self._starts - last < RECENT_STARTS

    def crowding_out(self, entry: Waiting[ItemT]) -> Waiting[ItemT] | None:
        """Return the request that a newcomer displaces from a full queue, or None."""
        for group in reversed(self._groups):
            if not group.crowd or group.priority > entry.share.priority:
                continue
            most = group.crowd[-1][2]
            if group.priority < entry.share.priority:
                if len(most.waiting) > 1:
                    return most.waiting[-1][2]
                continue
            mine = self._accounts.get(entry.key)
            places = 1 / _usable(entry.share.weight) if mine is None else mine.places(1)
            if most is not mine and places <= most.places(-1):
                return most.waiting[-1][2]
        return None

    def ahead(self, share: RequestOwner, deadline: float) -> float:
        """Return sequences that would start before a newcomer; an entry counts as its key's
        mean.
        """
        ahead, below = 0.0, 0
        for group in self._groups:
            if group.priority > share.priority:
                ahead += group.sequences
            elif group.priority == share.priority:
                ahead += self._ahead_of_equals(group, share.key, _usable(share.weight), deadline)
            else:
                below += group.sequences
        return ahead + min(below, AGEING_SHARE * ahead)

    def _ahead_of_equals(
        self, group: _Group[ItemT], key: str, weight: float, deadline: float
    ) -> float:
        mine = self._accounts.get(key)
        start, ahead = group.virtual_time - self._credit(weight), 0.0
        if mine is not None and mine.group is group:
            start = mine.tag if mine.waiting else self._lifted(mine)
            if mine.waiting:
                before = bisect.bisect_right(mine.waiting, deadline, key=_deadline)
                share = before / len(mine.waiting)
                start += share * mine.tokens / weight
                ahead = share * mine.sequences
        for tag, _, other in group.due:
            if tag >= start:
                break
            if other is not mine:
                each = other.tokens / len(other.waiting)
                count = math.ceil((start - tag) * other.weight / each - 1e-9)
                ahead += min(1.0, count / len(other.waiting)) * other.sequences
        return ahead

    def _account(self, share: RequestOwner) -> _Account[ItemT]:
        """Return the key's account, updated to its present weight and priority."""
        key, weight, priority = share.key, _usable(share.weight), share.priority
        account = self._accounts.get(key)
        if account is None:
            if len(self._accounts) >= self._many:
                self._forget_settled()
            account = _Account(key, next(self._numbers), weight, self._group(priority))
            self._accounts[key] = account
        elif account.weight != weight or account.group.priority != priority:
            before, after = account.group, self._group(priority)
            before.leave(account)
            account.tag += after.virtual_time - before.virtual_time
            account.weight, account.group = weight, after
            after.enter(account)
        return account

    def _group(self, priority: int) -> _Group[ItemT]:
        at = bisect.bisect_left(self._groups, -priority, key=lambda group: -group.priority)
        if at == len(self._groups) or self._groups[at].priority != priority:
            self._groups.insert(at, _Group(priority))
        return self._groups[at]

    def _pay(self, account: _Account[ItemT], tokens: float) -> None:
        self._starts += 1
        if self._last_key != account.key:
            if self._last_key is not None:
                self._last_other = self._starts - 1
            self._last_key = account.key
        self._mean_charge += (tokens - self._mean_charge) / min(self._starts, RECENT_STARTS)
        group = account.group
        start = account.tag if account.waiting else self._lifted(account)
        group.virtual_time = max(group.virtual_time, start)
        self._move(account, start + tokens / account.weight)

    def _lifted(self, account: _Account[ItemT]) -> float:
        """Return the tag of a key that returns: idleness earns no more than some credit."""
        return max(account.tag, account.group.virtual_time - self._credit(account.weight))

    def _credit(self, weight: float) -> float:
        return self._credit_share * self.slots * self._mean_charge / weight

    def _move(self, account: _Account[ItemT], tag: float) -> None:
        account.group.leave(account)
        account.tag = tag
        account.group.enter(account)

    def _forget_settled(self) -> None:
        """Forget idle keys that would be lifted to about the virtual time when they return."""
        for key, account in list(self._accounts.items()):
            if not account.waiting and account.tag <= account.group.virtual_time:
                del self._accounts[key]
        self._many = max(MANY_ACCOUNTS, 2 * len(self._accounts))


def _usable(weight: float) -> float:
    return max(weight, LEAST_WEIGHT)


def _deadline(record: _Record[ItemT]) -> float:
    return record[0]


def _remove(ordered: list[tuple[float, int, ThingT]], record: tuple[float, int, ThingT]) -> None:
    """Remove from a sorted list; numbers make records unique: the third part is never compared."""
    del ordered[bisect.bisect_left(ordered, record)]

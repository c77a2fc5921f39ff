"""Whose turn it is: requests that wait, by API key and priority. `core.fair_queue` says why.

Each key has a tag, the virtual time at which its next request is due. Starting a request of c
tokens moves it on by c / weight, and the least tag is next. Virtual time is the tag of what
started last. All orders are sorted lists, kept by bisection.
"""

import bisect
import itertools
import math
from typing import Final, Generic, TypeVar

from partitiond.core.admission import ItemT, Waiting

CREDIT_SHARE: Final = 1 / 4
"""Of the requests that the model's slots hold, in tokens: what a key that used less than its share
may be ahead of the others. Without it, one long request of a modest key would send its next one
behind a flood."""
AGEING_SHARE: Final = 1 / 16
"""Of the tokens that higher priorities start, what a waiting lower one earns: under a flood from
above it keeps 1/17 of the service, and the flood cannot feel it."""
RECENT_STARTS: Final = 256
"""A key is active that started one of so many requests; their mean is the size of a request."""
MANY_ACCOUNTS: Final = 4096
"""Keys remembered before those that are owed nothing and owe nothing are forgotten."""
LEAST_WEIGHT: Final = 1e-3
"""A key of weight 0 is served, if seldom: nobody starves."""

_Record = tuple[float, int, Waiting[ItemT]]
"""(deadline, number, entry): the order within a key."""
ThingT = TypeVar("ThingT")


class _Account(Generic[ItemT]):
    """One key: when its next request is due in virtual time, and what of it waits."""

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
        """Places it takes in the queue, per weight."""
        return (len(self.waiting) + more) / self.weight


_Ranked = tuple[float, int, _Account[ItemT]]


class _Group(Generic[ItemT]):
    """The keys of one priority.

    Attributes:
        due: keys that wait, by tag.
        crowd: the same by places per weight.
        earned: tokens it may start although a higher priority waits.
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
        """Take a key out of the orders, before its tag or what waits of it changes."""
        if account.waiting:
            _remove(self.due, (account.tag, account.number, account))
            _remove(self.crowd, (account.places(), account.number, account))
            self.sequences -= account.sequences

    def enter(self, account: _Account[ItemT]) -> None:
        """Put it back, with what it has now."""
        if account.waiting:
            bisect.insort(self.due, (account.tag, account.number, account))
            bisect.insort(self.crowd, (account.places(), account.number, account))
            self.sequences += account.sequences
        elif not self.due:
            self.earned = 0.0

    def head(self) -> Waiting[ItemT]:
        """What is next of it."""
        return self.due[0][2].waiting[0][2]


class FairKeys(Generic[ItemT]):
    """Requests that wait for their turn.

    Attributes:
        slots: of the model, as far as known; sets the credit.
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
        """It waits for its key's turn."""
        account = self._account(entry.key, entry.weight, entry.priority)
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
        """It waits no more, and has paid nothing."""
        account = self._accounts[entry.key]
        account.group.leave(account)
        _remove(account.waiting, self._records.pop(entry))
        account.sequences -= entry.cost.sequences
        account.tokens = account.tokens - entry.charge if account.waiting else 0.0
        account.group.enter(account)

    def next(self) -> Waiting[ItemT] | None:
        """Whose turn it is: the highest priority's, or a lower one's that has earned it."""
        first = None
        for group in self._groups:
            if group.due:
                if first is None:
                    first = group
                elif group.earned >= group.head().charge:
                    return group.head()
        return None if first is None else first.head()

    def start(self, entry: Waiting[ItemT]) -> None:
        """It has had its turn, and pays."""
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

    def charge(self, key: str, tokens: float, weight: float, priority: int) -> None:
        """The key pays for a request that never waited here."""
        self._pay(self._account(key, weight, priority), tokens)

    def settle(self, key: str, charged: float, actual: float) -> None:
        """Correct what was paid."""
        account = self._accounts.get(key)
        if account is not None and charged != actual:
            self._move(account, account.tag + (actual - charged) / account.weight)

    def is_over_share(self, entry: Waiting[ItemT]) -> bool:
        """Whether its key has had more than its share lately."""
        account = self._accounts[entry.key]
        return account.tag > account.group.virtual_time

    def others_active(self, key: str) -> bool:
        """Whether another key started a request lately."""
        last = self._starts if self._last_key != key else self._last_other
        return self._starts - last < RECENT_STARTS

    def crowding_out(self, entry: Waiting[ItemT]) -> Waiting[ItemT] | None:
        """Who has to give its place to a newcomer when there are no more; None: not for it."""
        for group in reversed(self._groups):
            if not group.crowd or group.priority > entry.priority:
                continue
            most = group.crowd[-1][2]
            if group.priority < entry.priority:
                if len(most.waiting) > 1:
                    return most.waiting[-1][2]
                continue
            mine = self._accounts.get(entry.key)
            places = 1 / _usable(entry.weight) if mine is None else mine.places(1)
            if most is not mine and places <= most.places(-1):
                return most.waiting[-1][2]
        return None

    def ahead(self, key: str, weight: float, priority: int, deadline: float) -> float:
        """Sequences that would start before a newcomer; entries count with their key's mean."""
        ahead, below = 0.0, 0
        for group in self._groups:
            if group.priority > priority:
                ahead += group.sequences
            elif group.priority == priority:
                ahead += self._ahead_of_equals(group, key, _usable(weight), deadline)
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

    def _account(self, key: str, weight: float, priority: int) -> _Account[ItemT]:
        """The key's, with the weight and priority it has now."""
        account = self._accounts.get(key)
        weight = _usable(weight)
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
        """Its tag when it comes back: idleness earns no more than some credit."""
        return max(account.tag, account.group.virtual_time - self._credit(account.weight))

    def _credit(self, weight: float) -> float:
        return self._credit_share * self.slots * self._mean_charge / weight

    def _move(self, account: _Account[ItemT], tag: float) -> None:
        account.group.leave(account)
        account.tag = tag
        account.group.enter(account)

    def _forget_settled(self) -> None:
        """Keys that would be lifted to about the virtual time anyway, when they come back."""
        for key, account in list(self._accounts.items()):
            if not account.waiting and account.tag <= account.group.virtual_time:
                del self._accounts[key]
        self._many = max(MANY_ACCOUNTS, 2 * len(self._accounts))
        used = {account.group.priority for account in self._accounts.values()}
        self._groups = [group for group in self._groups if group.priority in used]


def _usable(weight: float) -> float:
    return max(weight, LEAST_WEIGHT)


def _deadline(record: _Record[ItemT]) -> float:
    return record[0]


def _remove(ordered: list[tuple[float, int, ThingT]], record: tuple[float, int, ThingT]) -> None:
    """Out of a sorted list; numbers make records unique, so the third part is never compared."""
    del ordered[bisect.bisect_left(ordered, record)]

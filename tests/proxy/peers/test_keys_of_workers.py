"""A key's limits hold over three hosts, each of which has two workers.

What a host may use `tests/core/keys/test_portions.py` says; here, that workers tell the keeper.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from partitiond.core.dispatch.routing import BudgetPeriod, KeyRates, KeyRoute, RoutingTable
from partitiond.core.keys.rates import Usage
from partitiond.proxy.dispatch.shared import LEDGER_FILE, LedgerAccess, LedgerFile, Wakeups
from partitiond.proxy.keys.accounts import Accounts, Receipt
from partitiond.proxy.keys.meters import PeerMeters
from partitiond.proxy.keys.over_workers import KeyNotes, KeysOfWorker
from partitiond.proxy.keys.rows import STALE_SECONDS
from partitiond.proxy.keys.words import read_words
from tests.proxy.virtual import virtual_time

pytestmark = virtual_time

NAMES = ("a", "b", "c")
RATES = KeyRates(token_budget=400, budget_period=BudgetPeriod.NEVER)
TABLE = RoutingTable(1, (), (), keys=(KeyRoute("k1", "0" * 64, rates=RATES),))


class Host:
    """The accounts of one host's workers, and what its parent does for them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file, self.notes = LedgerFile(path), KeyNotes.made()
        self.file.ledger.begin()
        self.file.ledger.make_room([TABLE])
        self.workers = [self.worker(row) for row in range(2)]
        self.file.ledger.set_keeper(0)

    def worker(self, row: int) -> Accounts:
        access = LedgerAccess(LedgerFile(self.path), row, Wakeups({}))
        access.ledger.open_row(row)
        meters = PeerMeters(access.ledger, row)
        accounts = Accounts(None)
        accounts.others, accounts.tell = meters.others, meters.tell
        accounts.over_hosts = KeysOfWorker(access, meters, self.notes)
        assert not accounts.over_hosts.send("b", b""), "nobody is told before it is wired"
        return accounts

    def kill(self, worker: int, successor: int) -> None:
        """End a worker without a word, as the parent sees it."""
        self.workers[worker].over_hosts.close()
        with self.file.locked():
            self.file.ledger.clear(worker)
        self.file.ledger.set_keeper(successor)

    def admits(self, worker: int) -> bool:
        return isinstance(self.workers[worker].admit("k1", 10.0, 1.0), Receipt)

    def used(self) -> float:
        """Use of the key by all workers."""
        ledger = self.file.ledger
        key = next(key for key in ledger.meters.directory if key)
        return ledger.usage_of_others(-1, ledger.meters.find(key)).budget_tokens

    def heard(self, worker: int) -> Usage:
        """Use by the other hosts, as a worker reads it."""
        known = self.workers[worker].over_hosts.of("k1")
        assert known is not None
        return known.heard

    def has_portion(self) -> bool:
        """Whether the others have confirmed that the host may use something."""
        known = self.workers[1].over_hosts.of("k1")
        part = None if known is None or known.allowance is None else known.allowance.budget
        return part is not None and part.ceiling > part.floor


class Fleet:
    """Hosts whose words take a turn of the event loop and reach any worker."""

    def __init__(self, folder: Path) -> None:
        self.hosts = {name: Host(folder / f"{name}.{LEDGER_FILE}") for name in NAMES}
        self._turns = itertools.count()

    async def begin(self) -> None:
        for name, host in self.hosts.items():
            for accounts in host.workers:
                self.wire(name, accounts)
        await self.until(lambda: all(host.has_portion() for host in self.hosts.values()))

    def wire(self, name: str, accounts: Accounts) -> None:
        def send(receiver: str, message: bytes) -> bool:
            if message:
                to = self.hosts[receiver].workers
                keys = to[next(self._turns) % len(to)].over_hosts
                asyncio.get_running_loop().call_soon(keys.hear, name, read_words(message))
            return True

        accounts.over_hosts.send = send
        accounts.apply(TABLE.keys, name, NAMES)
        accounts.over_hosts.start()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not is_so():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
def fleet(folder: Path) -> Iterator[Fleet]:
    made = Fleet(folder)
    yield made
    for host in made.hosts.values():
        host.notes.close()


async def test_what_any_worker_used_is_told_and_outlives_its_keeper(fleet: Fleet) -> None:
    await fleet.begin()
    a, b = fleet.hosts["a"], fleet.hosts["b"]
    assert a.admits(0)
    assert a.admits(1)
    for worker in (0, 1):  # what others used reaches any
        await fleet.until(lambda worker=worker: b.heard(worker).budget_tokens == 20)  # type: ignore[misc]
    for name, host in fleet.hosts.items():
        new = host.worker(2)
        fleet.wire(name, new)
        host.kill(0, successor=2)
        host.workers[0] = new
    admitted, end = 2, time.monotonic() + 5
    while time.monotonic() < end:
        for host in fleet.hosts.values():
            admitted += host.admits(0) + host.admits(1)
        await asyncio.sleep(0.005)
    # Besides the requests of the other hosts, one of each that begins anew.
    assert 300 <= 10 * admitted <= 400 + (2 + 3) * 10
    assert sum(host.used() for host in fleet.hosts.values()) == 10 * admitted
    for host in fleet.hosts.values():
        for accounts in host.workers:
            accounts.over_hosts.close()


async def test_a_host_without_a_keeper_sends_no_more_than_one_request(fleet: Fleet) -> None:
    """Nor does the next parent believe a row of an earlier boot."""
    await fleet.begin()
    a = fleet.hosts["a"]
    ledger = a.file.ledger
    assert a.admits(1)
    a.kill(0, successor=-1)
    await fleet.until(lambda: time.monotonic() > ledger.kept_at + STALE_SECONDS)
    assert not a.admits(1)
    ledger.set_keeper(1)
    await fleet.until(lambda: a.admits(1))
    ledger.set_kept_at(time.monotonic() + 1e6)
    ledger.forget_keeper()
    assert not a.admits(1)
    for host in fleet.hosts.values():
        for accounts in host.workers:
            accounts.over_hosts.close()

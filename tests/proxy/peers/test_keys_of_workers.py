"""A key's limits hold over three hosts, each of which has one process or several workers."""

import asyncio
import contextlib
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.routing import BudgetPeriod, KeyRates, KeyRoute, RoutingTable
from partitiond.core.keys.portions import MOST
from partitiond.core.keys.rates import Usage
from partitiond.proxy.dispatch.shared import LEDGER_FILE, LedgerAccess, LedgerFile, Wakeups
from partitiond.proxy.keys.accounts import Accounts, Receipt
from partitiond.proxy.keys.meters import PeerMeters
from partitiond.proxy.keys.over_workers import KeyNotes, KeysOfWorker
from partitiond.proxy.keys.words import KeyWords, read_words
from tests.proxy.virtual import virtual_time

pytestmark = virtual_time

NAMES = ("a", "b", "c")
TOKENS = 10.0


@dataclasses.dataclass
class Workers:
    """The accounts of one host's processes, and what its parent does for them."""

    name: str
    accounts: list[Accounts]
    ledger: LedgerFile | None = None
    notes: KeyNotes | None = None

    def admit(self, worker: int, tokens: float = TOKENS) -> Receipt | Rejected:
        return self.accounts[worker].admit("k1", tokens, 1.0)

    def kill(self, worker: int, successor: int) -> None:
        """End a worker without a word, as the parent sees it."""
        assert self.ledger is not None
        self.accounts[worker].over_hosts.close()
        with self.ledger.locked():
            self.ledger.ledger.clear(worker)
        self.ledger.ledger.set_keeper(successor)

    def used(self) -> Usage:
        """Use of the key by all processes."""
        if self.ledger is None:
            return self.accounts[0]._meters["k1"].usage
        return self.ledger.ledger.usage_of_others(-1, self.ledger.ledger.meters.find(self._key()))

    def _key(self) -> int:
        assert self.ledger is not None
        return next(key for key in self.ledger.ledger.meters.directory if key)

    def heard(self, worker: int) -> Usage:
        """Use by the other hosts, as a worker reads it."""
        known = self.accounts[worker].over_hosts.of("k1")
        assert known is not None
        return known.heard

    def has_portion(self) -> bool:
        """Whether the others have confirmed that the host may use something."""
        known = self.accounts[-1].over_hosts.of("k1")
        allowed = None if known is None else known.allowance
        return allowed is not None and any(
            part.ceiling > part.floor
            for part in (allowed.requests, allowed.budget, allowed.in_flight)
        )


def _workers(folder: Path, name: str, count: int, table: RoutingTable) -> Workers:
    if count == 1:
        return Workers(name, [Accounts(None)])
    path = folder / f"{name}.{LEDGER_FILE}"
    parent = LedgerFile(path)
    parent.ledger.begin()
    parent.ledger.make_room([table])
    notes = KeyNotes.made()
    made = [_worker(path, row, notes) for row in range(count)]
    parent.ledger.set_keeper(0)
    return Workers(name, made, parent, notes)


def _worker(path: Path, row: int, notes: KeyNotes) -> Accounts:
    access = LedgerAccess(LedgerFile(path), row, Wakeups({}))
    access.ledger.open_row(row)
    meters = PeerMeters(access.ledger, row)
    accounts = Accounts(None)
    accounts.others, accounts.tell = meters.others, meters.tell
    accounts.over_hosts = KeysOfWorker(access, meters, notes)
    return accounts


class Fleet:
    """Three hosts, whose words take a turn of the event loop and reach any worker."""

    def __init__(self, folder: Path, rates: KeyRates, workers: int) -> None:
        self.table = RoutingTable(1, (), (), keys=(KeyRoute("k1", "0" * 64, rates=rates),))
        self.hosts = {name: _workers(folder, name, workers, self.table) for name in NAMES}
        self._turns = itertools.count()
        for name, host in self.hosts.items():
            for accounts in host.accounts:
                accounts.over_hosts.send = self.sender(name)

    def sender(self, sender: str) -> Callable[[str, bytes], bool]:
        def send(receiver: str, message: bytes) -> bool:
            if message:
                to = self.hosts[receiver].accounts
                keys = to[next(self._turns) % len(to)].over_hosts
                asyncio.get_running_loop().call_soon(keys.hear, sender, read_words(message))
            return True

        return send

    def tell(self) -> None:
        """Tell all processes the table."""
        for name, host in self.hosts.items():
            for accounts in host.accounts:
                accounts.apply(self.table.keys, name, NAMES)
                accounts.over_hosts.start()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not is_so():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def until_shared(self) -> None:
        await self.until(lambda: all(host.has_portion() for host in self.hosts.values()))

    async def drive(self, seconds: float, least: int = 0) -> list[Receipt]:
        """Ask all processes without pause, until at least so many requests are admitted."""
        admitted: list[Receipt] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end or (len(admitted) < least and time.monotonic() < end + 60):
            for host in self.hosts.values():
                for worker in range(len(host.accounts)):
                    found = host.admit(worker)
                    if isinstance(found, Receipt):
                        admitted.append(found)
            await asyncio.sleep(0.005)
        return admitted

    def used(self) -> Usage:
        """Use of the key by all hosts."""
        return sum([host.used() for host in self.hosts.values()], Usage())

    def close(self) -> None:
        for host in self.hosts.values():
            for accounts in host.accounts:
                accounts.over_hosts.close()
            if host.notes is not None:
                host.notes.close()


@contextlib.asynccontextmanager
async def fleet(folder: Path, rates: KeyRates, workers: int) -> AsyncIterator[Fleet]:
    made = Fleet(folder, rates, workers)
    made.tell()
    try:
        await made.until_shared()
        yield made
    finally:
        made.close()


async def test_requests_in_flight_hold_over_three_hosts(folder: Path) -> None:
    async with fleet(folder, KeyRates(max_in_flight=12), 2) as hosts:
        flying = await hosts.drive(0.7, 6)
        assert 6 <= len(flying) <= 12 + 2
        assert hosts.used().in_flight == len(flying)
        for host in hosts.hosts.values():
            for accounts in host.accounts:
                for receipt in flying:
                    if receipt.meter is accounts._meters["k1"]:
                        accounts.settle(receipt, TOKENS)
        assert hosts.used().in_flight == 0
        assert 6 <= len(await hosts.drive(0.7, 6)) <= 12 + 2


async def test_a_worker_that_takes_over_loses_no_use_and_fills_no_bucket(folder: Path) -> None:
    limit = 60
    began = time.monotonic()
    async with fleet(folder, KeyRates(requests_per_minute=limit), 2) as hosts:
        admitted = len(await hosts.drive(0.5, limit // 2))
        a = hosts.hosts["a"]
        assert a.notes is not None
        for row in (2, 3):  # each of its workers is replaced by a new one
            new = _worker(folder / f"a.{LEDGER_FILE}", row, a.notes)
            new.over_hosts.send = hosts.sender("a")
            new.apply(hosts.table.keys, "a", NAMES)
            new.over_hosts.start()
            a.kill(row - 2, successor=2)
            a.accounts[row - 2] = new
        admitted += len(await hosts.drive(1.0))
        assert admitted <= limit + 2 + 1 + (time.monotonic() - began) * limit / 60
        assert a.used().requests  # also of the workers that are gone


async def test_what_any_worker_used_is_told_and_what_others_used_reaches_any(folder: Path) -> None:
    rates = KeyRates(token_budget=4000, budget_period=BudgetPeriod.NEVER)
    async with fleet(folder, rates, 2) as hosts:
        a, b = hosts.hosts["a"], hosts.hosts["b"]
        assert isinstance(a.admit(0, 20), Receipt)
        assert isinstance(a.admit(1, 30), Receipt)
        for worker in (0, 1):
            await hosts.until(lambda worker=worker: b.heard(worker).budget_tokens == 50)  # type: ignore[misc]
        # This is where another keeper would begin.
        keys = a.accounts[1].over_hosts
        assert isinstance(keys, KeysOfWorker)
        told, _ = keys._rows.left_behind("k1", a.accounts[1]._meters["k1"])
        assert (told.requests, told.tokens, told.budget_tokens) == (2, 50, 50)
        keys = b.accounts[1].over_hosts
        assert isinstance(keys, KeysOfWorker)
        _, heard = keys._rows.left_behind("k1", b.accounts[1]._meters["k1"])
        assert (heard.requests, heard.tokens) == (2, 50)


async def test_another_worker_takes_over_and_loses_nothing(folder: Path) -> None:
    rates = KeyRates(token_budget=400, budget_period=BudgetPeriod.NEVER)
    async with fleet(folder, rates, 2) as hosts:
        admitted = len(await hosts.drive(0.5))
        for host in hosts.hosts.values():
            host.kill(0, successor=1)
            del host.accounts[0]
        admitted += len(await hosts.drive(1.2, 30 - admitted))
        # Besides the requests of the other hosts, one of each that begins anew.
        assert 300 <= TOKENS * admitted <= 400 + (2 + 3) * TOKENS
        assert hosts.used().budget_tokens == TOKENS * admitted


async def test_a_host_without_a_keeper_sends_no_more_than_one_request(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partitiond.proxy.keys.rows.STALE_SECONDS", 0.7)
    async with fleet(folder, KeyRates(requests_per_minute=600), 2) as hosts:
        a = hosts.hosts["a"]
        assert a.ledger is not None
        assert a.notes is not None
        ledger = a.ledger.ledger
        await hosts.until(lambda: isinstance(a.admit(1), Receipt))
        a.kill(0, successor=-1)
        await hosts.until(lambda: time.monotonic() > ledger.kept_at + 0.7)
        assert isinstance(a.admit(1), Rejected)
        new = _worker(folder / f"a.{LEDGER_FILE}", 2, a.notes)
        new.apply(hosts.table.keys, "a", NAMES)
        new.over_hosts.start()
        assert isinstance(new.admit("k1", TOKENS, 1.0), Rejected)  # its host has sent one
        new.over_hosts.close()
        ledger.set_keeper(1)
        await hosts.until(lambda: isinstance(a.admit(1), Receipt))


async def test_a_clock_that_was_set_back_makes_no_host_unheard(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = KeyRates(token_budget=4000, budget_period=BudgetPeriod.NEVER)
    async with fleet(folder, rates, 1) as hosts:
        a, b = hosts.hosts["a"], hosts.hosts["b"]
        assert isinstance(a.admit(0, 20), Receipt)
        await hosts.until(lambda: b.heard(0).budget_tokens == 20)
        a.accounts[0].over_hosts.close()
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
        a.accounts[0] = Accounts(None)  # the proxy of the host is started again
        a.accounts[0].over_hosts.send = hosts.sender("a")
        a.accounts[0].apply(hosts.table.keys, "a", NAMES)
        a.accounts[0].over_hosts.start()
        await hosts.until(lambda: a.used().budget_tokens == 20)  # as the others remember
        await hosts.until(a.has_portion)
        for _ in range(3):
            assert isinstance(a.admit(0, 30), Receipt)
        await hosts.until(lambda: b.heard(0).budget_tokens == 110)


async def test_a_peer_cannot_use_up_the_numbers_of_incarnations(folder: Path) -> None:
    async with fleet(folder, KeyRates(max_in_flight=60), 1) as hosts:
        keys = hosts.hosts["a"].accounts[0].over_hosts
        last = 1024 * int(MOST) - 1
        keys.hear("b", KeyWords(5, 1.0, last, 1.0))
        hosts.hosts["a"].admit(0)
        b = hosts.hosts["b"]
        await hosts.until(lambda: b.heard(0).in_flight == 1)
        assert keys._peers.incarnation < last  # type: ignore[union-attr]


async def test_the_next_parent_believes_no_row_of_an_earlier_boot(folder: Path) -> None:
    async with fleet(folder, KeyRates(max_in_flight=60), 2) as hosts:
        a = hosts.hosts["a"]
        assert a.ledger is not None
        assert isinstance(a.admit(1), Receipt)
        a.ledger.ledger.set_kept_at(time.monotonic() + 1e6)
        a.ledger.ledger.forget_keeper()
        assert isinstance(a.admit(1), Rejected)
        a.ledger.ledger.set_keeper(1)
        await hosts.until(lambda: isinstance(a.admit(1), Receipt))

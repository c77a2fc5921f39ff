"""Usage is booked by the hour, survives restarts, and appears in reports."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from partitiond.controller.keys.usage import BOOK_SECONDS, UsageUseCases
from partitiond.core.demand.traffic import TrafficSample, UsageCount
from partitiond.core.errors import InputError, StoreError
from partitiond.core.keys.record import KeyRecord
from partitiond.core.views.usage import UsageBy, UsageLine, UsageReport
from partitiond.store import Store, open_store
from tests.controller.samples import NOW

BY_BOTH = (UsageBy.KEY, UsageBy.MODEL)


class Wall:
    """A clock whose hour is set."""

    def __init__(self, iso: str = "2030-01-31T17:20:00Z") -> None:
        self.iso = iso
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def utc_iso(self) -> str:
        return self.iso


class Books:
    """A desk over a store that outlives it, and a proxy that counts."""

    def __init__(self, store: Store, keep_days: int = 0) -> None:
        self.store = store
        self.wall = Wall()
        self.keep_days = keep_days
        self.sample: TrafficSample | None = None
        self.left: TrafficSample | None = None
        self.restart()

    def restart(self) -> None:
        """Another daemon, without a word from the one before."""
        self.desk = UsageUseCases(
            store=self.store,
            clock=self.wall,
            latest=lambda: self.sample,
            left=lambda _host: self.left,
            keep_days=self.keep_days,
        )

    def count(
        self, requests: int, epoch: str = "e", key: str = "k1", model: str = "m", later: float = 60
    ) -> None:
        use = UsageCount(requests, 0, 3 * requests, 2 * requests)
        old = self.sample.usage if self.sample is not None and self.sample.epoch == epoch else {}
        usage = {**old, key: {**old.get(key, {}), model: use}}
        self.sample = TrafficSample(0.0, epoch, usage=usage)
        self.wall.now += later
        self.desk.collect()

    def report(
        self, since: str | None = None, until: str | None = None, by: Sequence[UsageBy] = BY_BOTH
    ) -> UsageReport:
        return asyncio.run(self.desk.report(since, until, by))

    def requests(self, *by: UsageBy) -> list[tuple[str, ...]]:
        lines = self.report("2030-01-01", "2032-01-01", by=by or (UsageBy.KEY,)).lines
        return [(line.period, line.key_id, line.model, str(line.requests)) for line in lines]


@pytest.fixture
def books(tmp_path: Path) -> Books:
    return Books(open_store(tmp_path / "store.db"))


def test_hours_are_kept_apart(books: Books) -> None:
    books.count(1)
    books.count(2, later=BOOK_SECONDS / 5)  # not due to be booked when the hour ends
    books.wall.iso = "2030-01-31T18:01:00Z"
    books.count(5)
    assert books.requests(UsageBy.HOUR) == [
        ("2030-01-31T17", "", "", "2"),
        ("2030-01-31T18", "", "", "3"),
    ]
    assert books.requests(UsageBy.DAY, UsageBy.KEY) == [("2030-01-31", "k1", "", "5")]
    assert books.requests(UsageBy.MODEL) == [("", "", "m", "5")]


async def test_a_report_is_added_up_beside_the_loop(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sum of months takes seconds, in which engines are supervised and the store is used."""
    threads, usage = [], books.store.usage

    def seen(first: str, last: str, *given: int, **by: bool) -> Sequence[UsageLine]:
        threads.append(threading.current_thread())
        return usage(first, last, *given, **by)

    monkeypatch.setattr(books.store, "usage", seen)
    books.count(2)
    with books.store._lock:  # as the loop holds it while it books
        report = await books.desk.report("2030-01-01", by=())
    assert [line.requests for line in report.lines] == [2]
    assert threading.current_thread() not in threads


def test_a_store_that_refuses_keeps_the_usage_for_later(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("the disk is full.", hint="Make room.")

    with monkeypatch.context() as patch:
        patch.setattr(books.store, "add_usage", full)
        books.count(2)
        books.wall.iso = "2030-01-31T18:01:00Z"
        books.count(4)
    books.count(5)
    books.count(5)
    assert sum(int(line[3]) for line in books.requests()) == 5


def test_tokens_and_the_label_of_the_key_are_reported(books: Books) -> None:
    books.store.add_key(KeyRecord(id="k1", sha256="ab" * 32, created_at=NOW, label="batch"))
    books.count(5)
    books.count(7)
    assert books.report("2030-01-01").lines == (UsageLine("", "k1", "batch", "m", 7, 0, 21, 14),)


def test_a_day_that_a_report_ends_with_is_a_whole_one(books: Books) -> None:
    """A month's bill holds its last day: 2030-01-31 is not the first hour of it."""
    books.count(2)  # at 17:20 of that day
    report = books.report("2030-01-01", "2030-01-31")
    assert (report.first_hour, report.last_hour) == ("2030-01-01T00", "2030-01-31T23")
    assert [line.requests for line in report.lines] == [2]
    assert books.report("2030-01-01", "2030-01-31T16:59").lines == ()
    with pytest.raises(InputError, match="until is no time"):
        books.report("2030-01-01", "2030-02-31")
    for since in ("yesterday", "2030-13-01", "9999-99"):
        with pytest.raises(InputError, match="no time"):
            books.report(since)
    with pytest.raises(InputError, match="ends before"):
        books.report("2030-02-01", "2030-01-01")
    with pytest.raises(InputError, match="one of hour, day"):
        books.report(by=(UsageBy.HOUR, UsageBy.DAY))


def test_old_hours_are_forgotten_and_what_cannot_be_dropped_is_not_booked_again(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(before: str) -> None:
        raise StoreError("the disk is full.", hint="Free some space.")

    books.keep_days = 1
    books.restart()
    with monkeypatch.context() as patch:
        patch.setattr(books.store, "drop_usage", full)
        books.count(2)
        books.count(5)
        assert books.desk.book()
    assert books.requests() == [("", "k1", "", "5")]
    books.wall.iso = "2031-02-02T17:20:00Z"  # a clock that is ahead for a while
    books.count(6)
    books.wall.iso = "2030-02-02T17:20:00Z"
    books.count(7)
    assert len(books.requests(UsageBy.HOUR)) == 3
    hours = [f"2030-02-{day:02}T{hour:02}" for day in (4, 5) for hour in range(12)]
    for count, hour in enumerate(hours):
        books.wall.iso = f"{hour}:20:00Z"
        books.count(8 + count)
    kept = [line[0] for line in books.requests(UsageBy.HOUR)]
    assert kept == [*hours, "2031-02-02T17"]

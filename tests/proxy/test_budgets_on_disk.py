"""Budgets that cannot be written are reported once, and written as soon as that works again."""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.routing import BudgetPeriod, KeyRates, KeyRoute
from partitiond.core.keys.wall_clock import STEADY_SECONDS
from partitiond.proxy.keys.accounts import Accounts, Receipt
from partitiond.proxy.keys.budgets_file import BudgetsFile
from tests.proxy.conftest import begun
from tests.proxy.virtual import VirtualLoop

RATES = KeyRates(token_budget=1000, budget_period=BudgetPeriod.NEVER)
LIMITED, FREE = KeyRoute("k1", "ab" * 32, rates=RATES), KeyRoute("k1", "ab" * 32)
KNOWN = {"period": "never", "start": 0.0, "tokens": 30.0}


def use_ten(accounts: Accounts) -> None:
    accounts.apply((LIMITED,))
    begun(accounts, "k1", 10)
    accounts.save()


def test_a_disk_that_is_full_is_said_once_and_nothing_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once each time: budgets that could be written in between begin anew."""
    path = tmp_path / "none" / "budgets.json"
    accounts = Accounts(path)
    path.parent.write_text("in the way")
    for _ in range(3):
        use_ten(accounts)
    assert caplog.text.count("could not be written") == 1
    path.parent.unlink()
    accounts.save()
    assert BudgetsFile(path).load()["k1"].tokens == 30
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("in the way again")
    for _ in range(3):
        use_ten(accounts)
    assert caplog.text.count("could not be written") == 2


@pytest.mark.parametrize(
    ("content", "left"),
    [
        *[(nothing, 0) for nothing in (b"", b"{", b"[]", b"5", b"\xff")],
        (json.dumps({"k1": KNOWN, "k2": {**KNOWN, "period": "eon"}}).encode(), 30),
        (json.dumps({"k1": KNOWN, "k2": {**KNOWN, "tokens": -1}}).encode(), 30),
        (json.dumps({"k1": KNOWN}).encode(), 30),  # it can be read
    ],
)
def test_what_cannot_be_read_is_said_and_kept_beside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, left: float
) -> None:
    path = tmp_path / "budgets.json"
    path.write_bytes(content)
    accounts = Accounts(path)
    kept = list(tmp_path.glob("budgets.json.unreadable-*"))
    assert len(kept) == (json.dumps({"k1": KNOWN}).encode() != content)
    assert all(str(aside) in caplog.text for aside in kept)
    use_ten(accounts)
    assert BudgetsFile(path).load()["k1"].tokens == left + 10
    assert [aside.read_bytes() for aside in kept] == [content] * len(kept)


def test_what_can_neither_be_read_nor_moved_is_not_written_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "budgets.json"
    path.write_bytes(b"{")

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "rename", refuse)
    use_ten(Accounts(path))
    assert path.read_bytes() == b"{"
    assert "left as it is" in caplog.text


def test_a_key_gets_nothing_back_from_limits_that_never_debited_it() -> None:
    """It lost its limits and got them again while a request ran."""
    accounts = Accounts(None)
    accounts.apply((LIMITED,))
    before = begun(accounts, "k1", 300)
    assert isinstance(before, Receipt)
    accounts.apply((FREE,))
    accounts.apply((LIMITED,))
    after = begun(accounts, "k1", 100)
    assert isinstance(after, Receipt)
    accounts.settle(before, 5)
    assert accounts.uses()["k1"]["budget_used"] == 100
    accounts.settle(after, 7)
    assert accounts.uses()["k1"]["budget_used"] == 7
    assert accounts.for_the_head()["k1"]["in_flight"] == 0


async def test_a_clock_that_was_ahead_before_a_restart_closes_no_budget_for_longer(
    tmp_path: Path,
) -> None:
    clock, path = asyncio.get_running_loop(), tmp_path / "budgets.json"
    assert isinstance(clock, VirtualLoop)
    daily = dataclasses.replace(RATES, budget_period=BudgetPeriod.DAY)

    def asks(accounts: Accounts) -> int | None:
        accounts.apply((dataclasses.replace(LIMITED, rates=daily),))
        found = begun(accounts, "k1", 1000)
        accounts.save()
        return found.retry_after_seconds if isinstance(found, Rejected) else 0

    clock.set_ahead(365 * 86_400.0)
    assert asks(Accounts(path)) == 0
    clock.set_ahead(0.0)
    accounts = Accounts(path)
    assert asks(accounts) == STEADY_SECONDS
    await asyncio.sleep(STEADY_SECONDS)
    assert asks(accounts) == 0
    assert asks(Accounts(path)) == pytest.approx(43_200, abs=1 + STEADY_SECONDS), "until midnight"


def test_other_limits_of_a_key_forget_nothing_that_it_used() -> None:
    """Else whoever changes a key's limits in the middle of a flood opens them all anew."""
    accounts = Accounts(None)
    rates = dataclasses.replace(RATES, tokens_per_minute=1000)

    def asks(tokens: float, **limits: Any) -> Receipt | str:
        other = dataclasses.replace(LIMITED, rates=dataclasses.replace(rates, **limits))
        accounts.apply((other,))
        found = begun(accounts, "k1", tokens)
        return found if isinstance(found, Receipt) else found.code

    runs = asks(900)
    assert isinstance(runs, Receipt)
    assert asks(1, max_in_flight=1, tokens_per_minute=5000) == "too_many_in_flight"
    assert asks(1900, token_budget=5000, tokens_per_minute=2000) == "tokens_rate_limited"
    assert asks(200, token_budget=1001) == "budget_exhausted"
    accounts.settle(runs, 400.0)
    assert accounts.uses()["k1"] == {
        "requests": 1, "tokens": 400, "budget_used": 400, "in_flight": 0,
    }  # fmt: skip
    assert isinstance(asks(100), Receipt)

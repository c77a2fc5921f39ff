"""Budgets that cannot be written are reported once, and written as soon as that works again."""

import json
import logging
from pathlib import Path

import pytest

from partitiond.core.dispatch.routing import BudgetPeriod, KeyRates, KeyRoute
from partitiond.proxy.keys.accounts import Accounts, Receipt


def test_a_disk_that_is_full_is_said_once_and_nothing_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "none" / "budgets.json"
    accounts = Accounts(path)
    path.parent.write_text("in the way")
    rates = KeyRates(token_budget=1000, budget_period=BudgetPeriod.NEVER)
    accounts.apply((KeyRoute("k1", "ab" * 32, rates=rates),))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            accounts.admit("k1", 10, 1.0)
            accounts.save()
    assert len([r for r in caplog.records if "could not be written" in r.message]) == 1
    path.parent.unlink()
    accounts.save()
    assert Accounts(path).budgets()["k1"].tokens == 30


RATES = KeyRates(token_budget=1000, budget_period=BudgetPeriod.NEVER)
KNOWN = {"period": "never", "start": 0.0, "tokens": 30.0}


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (b"", 0),
        (b"{", 0),
        (b"[]", 0),
        (b"5", 0),
        (b"\xff", 0),
        (json.dumps({"k1": KNOWN, "k2": {**KNOWN, "period": "eon"}}).encode(), 30),
        (json.dumps({"k1": KNOWN, "k2": {**KNOWN, "tokens": -1}}).encode(), 30),
    ],
)
def test_what_cannot_be_read_is_said_and_kept_beside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, left: float
) -> None:
    path = tmp_path / "budgets.json"
    path.write_bytes(content)
    with caplog.at_level(logging.ERROR):
        accounts = Accounts(path)
    (aside,) = tmp_path.glob("budgets.json.unreadable-*")
    assert aside.read_bytes() == content
    assert any(str(aside) in record.getMessage() for record in caplog.records)
    accounts.apply((KeyRoute("k1", "ab" * 32, rates=RATES),))
    accounts.admit("k1", 10, 1.0)
    accounts.save()
    assert Accounts(path).budgets()["k1"].tokens == left + 10
    assert aside.read_bytes() == content


def test_what_can_neither_be_read_nor_moved_is_not_written_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "budgets.json"
    path.write_bytes(b"{")

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "rename", refuse)
    with caplog.at_level(logging.ERROR):
        accounts = Accounts(path)
    accounts.apply((KeyRoute("k1", "ab" * 32, rates=RATES),))
    accounts.admit("k1", 10, 1.0)
    accounts.save()
    assert path.read_bytes() == b"{"
    assert any("left as it is" in record.getMessage() for record in caplog.records)


def test_what_can_be_read_is_not_moved(tmp_path: Path) -> None:
    path = tmp_path / "budgets.json"
    path.write_text(json.dumps({"k1": KNOWN}))
    assert Accounts(path).budgets()["k1"].tokens == 30
    assert [one.name for one in tmp_path.iterdir()] == ["budgets.json"]


def test_a_key_gets_nothing_back_from_limits_that_never_debited_it() -> None:
    """It lost its limits and got them again while a request ran."""
    accounts = Accounts(None)
    limited, free = KeyRoute("k1", "ab" * 32, rates=RATES), KeyRoute("k1", "ab" * 32)
    accounts.apply((limited,))
    before = accounts.admit("k1", 300, 1.0)
    assert isinstance(before, Receipt)
    accounts.apply((free,))
    accounts.apply((limited,))
    after = accounts.admit("k1", 100, 1.0)
    assert isinstance(after, Receipt)
    accounts.settle(before, 5)
    assert accounts.uses()["k1"]["budget_used"] == 100
    accounts.settle(after, 7)
    assert accounts.uses()["k1"]["budget_used"] == 7
    assert accounts._meters["k1"].usage.in_flight == 0

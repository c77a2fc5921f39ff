"""Budgets that cannot be written: said once, and written as soon as it works again."""

import logging
from pathlib import Path

import pytest

from partitiond.core.routing import BudgetPeriod, KeyRates, KeyRoute
from partitiond.proxy.accounts import Accounts


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

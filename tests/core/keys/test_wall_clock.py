"""A wall clock that was wrong closes no budget for longer, and opens none."""

import datetime
import math

import pytest

from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.routing import BudgetPeriod, KeyRates, KeyShare
from partitiond.core.keys.rates_and_budgets import BudgetUse, KeyMeter, Usage, period_start
from partitiond.core.keys.wall_clock import STEADY_SECONDS, WallClock
from tests.core.keys.share_fleet import ask

DAY = 86_400.0
NOON = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC).timestamp()
MIDNIGHT = period_start(NOON, BudgetPeriod.DAY) + DAY
RATES = KeyRates(token_budget=100, budget_period=BudgetPeriod.DAY)
TODAY = BudgetUse(BudgetPeriod.DAY, MIDNIGHT - DAY, 100.0)


class Host:
    """A process that admits requests of 100 tokens, by a clock that is so much ahead."""

    def __init__(self, known: BudgetUse | None = None, share: KeyShare | None = None) -> None:
        self.meter, self.clock = KeyMeter(RATES, 0.0, share), WallClock()
        self.others = Usage()
        if known is not None:
            self.meter.restore(known)

    def asks(self, now: float, ahead: float = 0.0, since: float = NOON) -> int | None:
        """Return the time after which to come again; 0 if it is admitted."""
        unix = since + now + ahead
        latest = self.clock.latest(now, unix)
        found = ask(
            self.meter, 100, now=now, unix=unix, others=self.others.until(latest), latest=latest
        )
        if isinstance(found, Rejected):
            return found.retry_after_seconds
        self.meter.settle(found, 100, now=now, unix=unix, latest=latest)
        return 0


@pytest.mark.parametrize("told_by", ["its clock", "its file", "another worker", "the head"])
@pytest.mark.parametrize("ahead", [DAY, 365 * DAY])
def test_what_was_used_while_it_was_ahead_closes_no_budget_for_longer(
    ahead: float, told_by: str
) -> None:
    future = MIDNIGHT - DAY + ahead
    host = Host()
    if told_by == "its clock":
        assert [host.asks(0.0, ahead), host.asks(1.0, ahead)] == [0, DAY / 2 - 1]
    elif told_by == "its file":
        host = Host(BudgetUse(BudgetPeriod.DAY, future, 100.0))
    elif told_by == "another worker":
        host.others = Usage(budget_start=future, budget_tokens=100.0)
    else:
        host = Host(share=KeyShare("k", 1.0, 1.0, 1, future, 0.0))
    assert host.asks(10.0) in {STEADY_SECONDS, 5}, "the head may give more"
    assert host.asks(9.0 + STEADY_SECONDS) != 0
    assert host.asks(10.0 + STEADY_SECONDS) == 0
    assert host.asks(20.0 + STEADY_SECONDS) == DAY / 2 - 20 - STEADY_SECONDS
    assert host.asks(2 * DAY) == 0


@pytest.mark.parametrize("steps_back", [1.0, STEADY_SECONDS - 10])
def test_a_clock_that_steps_back_a_bit_opens_no_budget_again(steps_back: float) -> None:
    """However long it is before midnight then."""
    host = Host()
    asked = [host.asks(now, since=MIDNIGHT - 1000.0) for now in (0.0, 1001.0)]
    again = [host.asks(now, -steps_back, MIDNIGHT - 1000.0) for now in (1002.0, 1600.0, 2500.0)]
    assert asked == [0, 0]
    assert 0 not in again


@pytest.mark.parametrize("behind", [DAY, 40 * 365 * DAY])
def test_a_clock_that_is_set_some_minutes_after_the_start_opens_no_budget_again(
    behind: float,
) -> None:
    host = Host(TODAY)
    asked = [host.asks(now, -behind) for now in (0.0, 100.0, STEADY_SECONDS - 1)]
    asked += [host.asks(now) for now in (STEADY_SECONDS, 3 * STEADY_SECONDS)]
    assert 0 not in asked
    assert host.asks(DAY) == 0


@pytest.mark.parametrize(
    ("step", "is_seen"), [(599, False), (-599, False), (601, True), (-601, True)]
)
def test_a_larger_step_is_seen_and_time_begins_anew(step: float, is_seen: bool) -> None:
    clock = WallClock()
    believed = [clock.latest(now, NOON + now) for now in (5000.0, 5599.0, 5600.0)]
    assert believed == [math.inf, math.inf, NOON + 5600 + STEADY_SECONDS]
    believed = [clock.latest(now, NOON + now + step) for now in (5601.0, 6200.0, 6201.0)]
    assert [one == math.inf for one in believed] == [is_seen, is_seen, False]

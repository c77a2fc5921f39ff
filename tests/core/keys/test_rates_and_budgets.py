"""Rates, limits and budgets of keys are enforced."""

import datetime
import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.routing import BudgetPeriod, KeyRates, KeyShare
from partitiond.core.keys import rates_and_budgets as limits
from partitiond.core.keys.rates_and_budgets import NO_USAGE, Allowed, KeyMeter, Usage
from partitiond.core.keys.wall_clock import STEADY_SECONDS
from tests.core.keys.share_fleet import ask

NOON = datetime.datetime(2024, 2, 29, 12, 34, 56, tzinfo=datetime.UTC).timestamp()
TO_THE_HOUR = 3600 - (34 * 60 + 56)
NEVER = BudgetPeriod.NEVER


def meter_of(**rates: int) -> KeyMeter:
    return KeyMeter(KeyRates(**rates), 0.0)  # type: ignore[arg-type]


def a_budget(tokens: int, period: BudgetPeriod = BudgetPeriod.HOUR) -> KeyMeter:
    return KeyMeter(KeyRates(token_budget=tokens, budget_period=period), 0.0)


def admit(meter: KeyMeter, tokens: float, now: float = 0.0, others: Usage = NO_USAGE) -> str:
    """The code of the refusal, or "ok"."""
    found = ask(meter, tokens, now=now, unix=NOON + now, others=others)
    return found.code if isinstance(found, Rejected) else "ok"


def allowed(meter: KeyMeter, tokens: float) -> Allowed:
    found = ask(meter, tokens, now=0.0, unix=NOON)
    assert isinstance(found, Allowed)
    return found


@pytest.mark.parametrize(
    ("meter", "tokens", "admitted", "code", "seconds"),
    [
        (meter_of(requests_per_minute=6), 1, 6, "rate_limited", 10),
        (meter_of(tokens_per_minute=600), 300, 2, "tokens_rate_limited", 30),
        (meter_of(max_in_flight=2), 5, 2, "too_many_in_flight", 1),
        (a_budget(100), 50, 2, "budget_exhausted", TO_THE_HOUR),
        (a_budget(100, NEVER), 50, 2, "budget_exhausted", None),
    ],
)
def test_so_much_may_come_at_once_and_then_it_is_told_when(
    meter: KeyMeter, tokens: int, admitted: int, code: str, seconds: int | None
) -> None:
    assert [admit(meter, tokens) for _ in range(admitted)] == ["ok"] * admitted
    refused = ask(meter, tokens, now=0.0, unix=NOON)
    assert isinstance(refused, Rejected)
    assert (refused.status, refused.code) == (429, code)
    assert refused.retry_after_seconds == seconds
    if code == "budget_exhausted" and seconds is not None:
        assert admit(meter, tokens, seconds - 0.1) == code
        assert admit(meter, tokens, float(seconds)) == "ok", "the next hour"


@given(st.integers(0, 2**32), st.integers(2, 4))
def test_workers_together_keep_the_limits_of_one(seed: int, workers: int) -> None:
    dice = random.Random(seed)
    meters = [
        meter_of(requests_per_minute=30, tokens_per_minute=600, max_in_flight=5, token_budget=2000)
        for _ in range(workers)
    ]
    flying: list[tuple[int, Allowed]] = []
    now, sent, tokens_sent = 0.0, 0, 0.0
    for _ in range(150):
        now += dice.expovariate(1.0)
        if flying and dice.random() < 0.5:
            which, receipt = flying.pop(dice.randrange(len(flying)))
            meters[which].settle(receipt, receipt.tokens, now=now, latest=math.inf, unix=NOON + now)
        which, tokens = dice.randrange(workers), dice.choice([10, 50, 100])
        others = sum((m.usage for n, m in enumerate(meters) if n != which), NO_USAGE)
        found = ask(meters[which], tokens, now=now, unix=NOON + now, others=others)
        if isinstance(found, Allowed):
            flying.append((which, found))
            sent, tokens_sent = sent + 1, tokens_sent + tokens
        assert len(flying) <= 5
        assert sent <= 30 + 30 * now / 60 + 1e-6
        assert tokens_sent <= min(600 + 600 * now / 60 + 1e-6, 2000)


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0, 100))
def test_retry_after_is_when_it_is_admitted_and_not_earlier(
    first: int, second: int, pause: float
) -> None:
    meter, fresh = meter_of(tokens_per_minute=600), meter_of(tokens_per_minute=600)
    assert admit(meter, first) == admit(fresh, first) == "ok", "a full bucket takes any request"
    rejected = ask(meter, second, now=pause, unix=NOON)
    if isinstance(rejected, Rejected):
        wait = rejected.retry_after_seconds
        assert wait is not None
        assert wait >= 600 or admit(meter, second, pause + wait) == "ok"
        assert wait <= 1 or admit(fresh, second, pause + wait - 1.01) == "tokens_rate_limited"


def test_an_estimate_is_corrected_by_what_was_used() -> None:
    meter = meter_of(tokens_per_minute=1000)
    receipt = allowed(meter, 900)
    assert admit(meter, 200) == "tokens_rate_limited"
    meter.settle(receipt, 100, now=0.0, latest=math.inf, unix=NOON)
    assert admit(meter, 900) == "ok"
    meter.settle(Allowed(900, 0.0), 2100, now=0.0, latest=math.inf, unix=NOON)
    assert admit(meter, 1, 70.0) == "tokens_rate_limited", "1200 more than there was: 72 s of debt"
    assert admit(meter, 1, 73.0) == "ok"


def test_ends_give_requests_in_flight_back_and_others_take_them() -> None:
    meter = meter_of(max_in_flight=2)
    receipt = allowed(meter, 5)
    assert [admit(meter, 5), admit(meter, 5)] == ["ok", "too_many_in_flight"]
    meter.settle(receipt, 5, now=0.0, latest=math.inf, unix=NOON)
    assert admit(meter, 5) == "ok"
    assert admit(meter_of(max_in_flight=2), 5, 0.0, Usage(in_flight=2)) == "too_many_in_flight"


def test_a_correction_of_the_last_period_does_not_touch_this_one() -> None:
    meter, later = a_budget(100), NOON + 3600
    receipt = allowed(meter, 90)
    assert isinstance(ask(meter, 50, now=1.0, unix=later), Allowed)
    meter.settle(receipt, 10, now=2.0, latest=math.inf, unix=later)
    assert meter.usage.budget_tokens == 50
    late = a_budget(100)  # in the period that the counts are in, whatever the clock says
    late.settle(allowed(late, 60), 20, now=0.0, latest=math.inf, unix=NOON - 3600)
    assert late.usage.budget_tokens == 20


@given(st.floats(0, 4e9), st.sampled_from(BudgetPeriod))
def test_every_moment_is_in_its_period(unix: float, period: BudgetPeriod) -> None:
    start, end = limits.period_start(unix, period), limits.period_end(unix, period)
    assert start <= unix
    assert (end is None) == (period is NEVER)
    if end is not None:
        assert unix < end
        assert limits.period_start(end, period) == end
        assert limits.period_start(start, period) == start


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        (BudgetPeriod.HOUR, "2024-02-29T12:00", "2024-02-29T13:00"),
        (BudgetPeriod.DAY, "2024-02-29T00:00", "2024-03-01T00:00"),
        (BudgetPeriod.MONTH, "2024-02-01T00:00", "2024-03-01T00:00"),
    ],
)
def test_periods_are_the_calendars_in_utc(period: BudgetPeriod, start: str, end: str) -> None:
    found = limits.period_start(NOON, period), limits.period_end(NOON, period)
    assert found == tuple(
        datetime.datetime.fromisoformat(text + "+00:00").timestamp() for text in (start, end)
    )


def test_new_limits_keep_what_was_used() -> None:
    meter = meter_of(requests_per_minute=10)
    for _ in range(8):
        admit(meter, 1)
    meter.apply(KeyRates(requests_per_minute=9), 0.0)
    assert [admit(meter, 1) for _ in range(2)] == ["ok", "rate_limited"]
    meter.apply(KeyRates(), 0.0)
    assert [admit(meter, 1) for _ in range(50)] == ["ok"] * 50
    meter.apply(KeyRates(requests_per_minute=5), 60.0)
    assert admit(meter, 1, 60.0) == "ok"


def test_what_filled_before_a_new_limit_filled_at_the_old_rate() -> None:
    meter = meter_of(requests_per_minute=60)
    assert [admit(meter, 1) for _ in range(60)] == ["ok"] * 60
    meter.apply(KeyRates(requests_per_minute=120), 30.0)
    assert [admit(meter, 1, 30.0) for _ in range(91)] == ["ok"] * 90 + ["rate_limited"]


def test_a_request_counts_from_its_head_on_and_its_tokens_once_they_are_known() -> None:
    meter = meter_of(requests_per_minute=3, tokens_per_minute=100, max_in_flight=2)
    assert [meter.begin(now=0.0) is None for _ in range(3)] == [True, True, False]
    assert isinstance(meter.reserve(101, now=0.0, latest=math.inf, unix=NOON), Allowed), (
        "of a full bucket"
    )
    assert isinstance(meter.reserve(1, now=0.0, latest=math.inf, unix=NOON), Rejected)
    for _ in range(2):
        meter.settle(limits.NOT_RESERVED, 0.0, now=0.0, latest=math.inf, unix=NOON)
    assert (meter.usage.requests, meter.usage.tokens, meter.usage.in_flight) == (2, 101, 0)
    refused = [meter.begin(now=0.0) for _ in range(2)]
    assert [None if one is None else one.code for one in refused] == [None, "rate_limited"]


def test_what_another_worker_used_is_debited_once() -> None:
    meter, others = meter_of(tokens_per_minute=100), Usage(requests=3, tokens=30)
    assert [admit(meter, 35, 0.0, others) for _ in range(3)] == ["ok", "ok", "tokens_rate_limited"]
    meter = meter_of(tokens_per_minute=100)  # one that starts again earns nobody anything
    assert admit(meter, 50, 0.0, Usage(requests=5, tokens=50)) == "ok"
    assert admit(meter, 10, 0.0, Usage(requests=0, tokens=0)) == "tokens_rate_limited"
    meter = KeyMeter(meter.rates, 0.0, others=Usage(requests=5, tokens=50))
    assert admit(meter, 100, 0.0, Usage(requests=5, tokens=50)) == "ok", "before it began"


def test_budgets_survive_a_restart() -> None:
    rates = KeyRates(token_budget=100, budget_period=BudgetPeriod.DAY)
    meter, again = KeyMeter(rates, 0.0), KeyMeter(rates, 1000.0)
    admit(meter, 80)
    use = limits.budget_use(rates, meter.usage + Usage())
    assert use is not None
    written = limits.budgets_to_dict({"k": use})
    assert written["k"].keys() == {"period", "start", "tokens"}
    again.restore(limits.budgets_from_dict(json.loads(json.dumps(written)))["k"])
    assert admit(again, 30, 10.0) == "budget_exhausted"
    assert admit(again, 30, 86_400.0) == "ok"
    assert limits.budget_use(KeyRates(), meter.usage) is None


@pytest.mark.parametrize(
    "data",
    [
        None, [], "x", {"k": 1}, {"k": {}}, {"k": {"period": "week", "start": 0, "tokens": 1}},
        {"k": {"period": "day", "start": "nan", "tokens": 1}},
        {"k": {"period": "day", "start": 0, "tokens": -1}},
    ],
)  # fmt: skip
def test_a_damaged_file_of_budgets_is_no_budget(data: object) -> None:
    assert limits.budgets_from_dict(data) == {}


def test_rows_are_plain_numbers_and_only_the_current_period_is_added() -> None:
    one, two = Usage(1, 2, 3, 0.0, 40), Usage(10, 20, 30, 3600.0, 50)
    assert Usage(*one.as_row()) == one
    assert one + two == Usage(11, 22, 33, 3600.0, 50)


@pytest.mark.parametrize("period", [BudgetPeriod.HOUR, BudgetPeriod.DAY, BudgetPeriod.MONTH])
def test_a_clock_that_steps_over_the_end_of_a_period_and_back_begins_no_budget_anew(
    period: BudgetPeriod,
) -> None:
    """Also of a worker whose siblings are in the later period, or that a head told of it."""
    end = limits.period_end(NOON, period)
    assert end is not None
    meter, sibling = a_budget(100, period), a_budget(100, period)
    used = []
    for unix in (NOON, end + 1, NOON, end + 1, NOON - 2 * 86_400):
        found = ask(meter, 60, now=0.0, unix=unix)
        used.append(isinstance(found, Allowed))
    assert used == [True, True, False, False, False]
    refused = ask(sibling, 60, now=0.0, unix=NOON, others=meter.usage)
    assert isinstance(refused, Rejected)
    later = limits.period_end(end, period)
    assert later is not None
    assert refused.retry_after_seconds == STEADY_SECONDS, "then it is clear which clock is right"
    refused = ask(sibling, 60, now=0.0, unix=end - 9, others=meter.usage)
    assert isinstance(refused, Rejected)
    assert refused.retry_after_seconds == math.ceil(later - end + 9)
    assert isinstance(ask(meter, 60, now=0.0, unix=later), Allowed)
    told = KeyMeter(meter.rates, 0.0, KeyShare("k", 0.5, 0.5, 1, end, 50), 0.5)
    assert isinstance(ask(told, 50, now=0.0, unix=NOON), Allowed)
    assert isinstance(ask(told, 1, now=0.0, unix=end), Rejected)


def test_a_limit_that_changes_with_the_share_of_it_is_no_new_burst() -> None:
    former, rates = KeyRates(requests_per_minute=60), KeyRates(requests_per_minute=61)
    meter = KeyMeter(former, 0.0, KeyShare("k", 0.1, 0.1, 1))
    assert [admit(meter, 1) for _ in range(7)] == ["ok"] * 6 + ["rate_limited"]
    meter.apply(rates, 0.0, KeyShare("k", 0.9, 0.9, 1))
    assert [admit(meter, 1) for _ in range(2)].count("ok") <= 1


def test_a_host_without_a_share_may_send_one_request() -> None:
    meter = KeyMeter(
        KeyRates(requests_per_minute=60, tokens_per_minute=600, max_in_flight=9), 0.0, part=0.0
    )
    assert [admit(meter, 50), admit(meter, 50)] == ["ok", "too_many_in_flight"]
    meter.settle(Allowed(50, 0.0), 50, now=0.0, latest=math.inf, unix=NOON)
    refused = ask(meter, 50, now=0.0, unix=NOON)
    assert isinstance(refused, Rejected)
    assert refused.retry_after_seconds == limits.SHARE_SECONDS

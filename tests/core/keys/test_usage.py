"""Usage between two looks at the proxy's counts is booked exactly once."""

import pytest

from partitiond.core.demand.traffic import TrafficSample, UsageCount
from partitiond.core.keys.usage import UsagePosition, first_kept, usage_since

OLD = {"a": {"m": UsageCount(3, 1, 30, 60), "n": UsageCount(9, 9, 9, 9)}}
NEW = {"a": {"m": UsageCount(5, 4, 34, 65), "n": UsageCount(8, 8, 8, 8)}, "b": {"m": UsageCount(1)}}


def used(epoch: str, usage: dict[str, dict[str, UsageCount]]) -> dict[tuple[str, str], UsageCount]:
    return usage_since(UsagePosition("e", OLD), TrafficSample(0.0, epoch, usage=usage))


def test_what_was_added_is_used_and_another_proxy_counts_from_nothing() -> None:
    assert used("e", OLD) == {}
    assert used("e", NEW) == {("a", "m"): UsageCount(2, 3, 4, 5), ("b", "m"): UsageCount(1)}
    assert used("f", OLD) == {("a", model): use for model, use in OLD["a"].items()}
    assert UsageCount(1, 2, 3, 4) + UsageCount(5, 6, 7, 9) == UsageCount(6, 8, 10, 13)


HOURS = [f"2030-03-{day:02}T{hour:02}" for day in (2, 1) for hour in reversed(range(24))]


@pytest.mark.parametrize(
    ("now", "booked", "first"),
    [
        ("2030-03-02T23", HOURS[:24], "2030-02-28T00"),
        ("2030-03-02T23", HOURS[:23], ""),  # too few say so
        ("2031-03-02T23", ["2031-03-02T23", *HOURS[:23]], "2030-02-28T01"),  # one hour ahead
        ("2030-02-20T05", HOURS[:24], "2030-02-18T05"),  # and it is back, after a day ahead
    ],
)
def test_no_usage_is_old_by_the_word_of_a_clock_that_is_ahead_for_less_than_a_day(
    now: str, booked: list[str], first: str
) -> None:
    assert first_kept(now, booked, 2) == first

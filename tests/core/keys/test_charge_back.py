"""Usage between two looks at the proxy's counts is booked exactly once."""

import dataclasses

import pytest

from partitiond.core.demand.traffic import ReplicaCount, TrafficSample, UsageCount
from partitiond.core.keys.charge_back import (
    ReplicaShare,
    UsagePosition,
    Used,
    first_kept,
    usage_since,
)

SHARES = {"m-1": ReplicaShare(0.5, 100.0), "m-2": ReplicaShare(0.25, 40.0)}


def sample(epoch: str, busy: dict[str, float], uses: dict[str, UsageCount]) -> TrafficSample:
    return TrafficSample(
        at=0.0,
        epoch=epoch,
        replicas={name: ReplicaCount("m", "1", busy_seconds=s) for name, s in busy.items()},
        usage={key: {"m": use} for key, use in uses.items()},
    )


def test_another_engine_process_is_busy_from_nothing() -> None:
    """And what was booked is not booked again: `tests/controller/keys` has whole histories."""
    first = sample("e", {"m-1": 10.0}, {"a": UsageCount(3, 1, 30, 60, 10.0)})
    _, position = usage_since(UsagePosition(), first, SHARES)
    assert usage_since(position, first, SHARES) == ({}, position)
    second = dataclasses.replace(
        first,
        replicas={"m-1": ReplicaCount("m", "2", busy_seconds=4.0)},
        usage={"a": {"m": UsageCount(5, 4, 34, 65, 14.0)}},
    )
    used, _ = usage_since(position, second, SHARES)
    assert used["a", "m"] == Used(2, 3, 4, 5, 4.0, 2.0, 400.0)
    anew = dataclasses.replace(second, epoch="f")
    assert usage_since(position, anew, SHARES)[0]["a", "m"].requests == 5


def test_idle_time_and_unknown_replicas_cost_nothing() -> None:
    used, _ = usage_since(UsagePosition(), sample("e", {"m-1": 0.0, "x": 9.0}, {}), SHARES)
    assert used == {}


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

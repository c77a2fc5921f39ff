"""Usage between two looks at the proxy's counts is booked exactly once."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.demand.traffic import ReplicaCount, TrafficSample, UsageCount
from partitiond.core.keys.usage import (
    NOTHING_USED,
    ReplicaShare,
    UsagePosition,
    Used,
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


def test_busy_time_is_split_by_the_time_of_sequences() -> None:
    looked = sample(
        "e", {"m-1": 10.0, "m-2": 4.0},
        {"a": UsageCount(3, 1, 30, 60, 9.0), "b": UsageCount(1, 0, 10, 20, 3.0)},
    )  # fmt: skip
    used, _ = usage_since(UsagePosition(), looked, SHARES)
    assert used["a", "m"] == Used(3, 1, 30, 60, 9.0, 0.75 * 6.0, 0.75 * 1160.0)
    assert used["b", "m"] == Used(1, 0, 10, 20, 3.0, 0.25 * 6.0, 0.25 * 1160.0)


def test_the_same_look_twice_is_booked_once() -> None:
    looked = sample("e", {"m-1": 10.0}, {"a": UsageCount(3, 0, 30, 60, 9.0)})
    _, position = usage_since(UsagePosition(), looked, SHARES)
    used, again = usage_since(position, looked, SHARES)
    assert used == {}
    assert again == position


def test_another_proxy_counts_from_nothing() -> None:
    _, position = usage_since(
        UsagePosition(), sample("e", {"m-1": 10.0}, {"a": UsageCount(3, 0, 30, 60, 9.0)}), SHARES
    )
    used, _ = usage_since(
        position, sample("f", {"m-1": 2.0}, {"a": UsageCount(1, 0, 10, 20, 2.0)}), SHARES
    )
    assert used["a", "m"] == Used(1, 0, 10, 20, 2.0, 1.0, 200.0)


def test_another_engine_process_is_busy_from_nothing() -> None:
    first = sample("e", {"m-1": 10.0}, {"a": UsageCount(engine_seconds=10.0)})
    _, position = usage_since(UsagePosition(), first, SHARES)
    second = dataclasses.replace(
        first,
        replicas={"m-1": ReplicaCount("m", "2", busy_seconds=4.0)},
        usage={"a": {"m": UsageCount(engine_seconds=14.0)}},
    )
    used, _ = usage_since(position, second, SHARES)
    assert used["a", "m"].device_seconds == pytest.approx(2.0)


def test_idle_time_and_unknown_replicas_cost_nothing() -> None:
    used, _ = usage_since(UsagePosition(), sample("e", {"m-1": 0.0, "x": 9.0}, {}), SHARES)
    assert used == {}


counts = st.builds(
    UsageCount,
    *(st.integers(0, 50) for _ in range(4)),
    st.floats(0, 100, allow_nan=False),
)


@given(
    steps=st.lists(
        st.tuples(
            st.booleans(),
            st.dictionaries(st.sampled_from("ab"), counts, max_size=2),
            st.floats(0, 20, allow_nan=False),
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_restarts_all_that_was_looked_at_is_booked_once(
    steps: list[tuple[bool, dict[str, UsageCount], float, bool]],
) -> None:
    """The proxy may begin anew before a look; the daemon may forget what it did not book."""
    epoch, busy = 0, 0.0
    counted: dict[str, UsageCount] = {}
    booked: dict[tuple[str, str], Used] = {}
    kept: UsagePosition = UsagePosition()
    total = NOTHING_USED
    for anew, more, seconds, crashes in steps:
        if anew:
            epoch, busy, counted = epoch + 1, 0.0, {}
        busy += seconds
        for key, use in more.items():
            old = counted.get(key, UsageCount())
            counted[key] = UsageCount(
                *(
                    getattr(old, field.name) + getattr(use, field.name)
                    for field in dataclasses.fields(UsageCount)
                )
            )
            total += Used(use.requests, use.failed, use.prompt_tokens, use.output_tokens)
        looked = sample(str(epoch), {"m-1": busy}, counted)
        used, position = usage_since(kept, looked, SHARES)
        if crashes:  # before the books were written: the next daemon looks again
            used, position = usage_since(kept, looked, SHARES)
        for pair, delta in used.items():
            booked[pair] = booked.get(pair, NOTHING_USED) + delta
        kept = position
    found = sum(booked.values(), start=NOTHING_USED)
    assert (found.requests, found.failed, found.prompt_tokens, found.output_tokens) == (
        total.requests, total.failed, total.prompt_tokens, total.output_tokens,
    )  # fmt: skip

"""Usage between two looks at the proxy's counts is booked exactly once."""

import collections
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.demand.traffic import ReplicaCount, TrafficSample, UsageCount
from partitiond.core.keys.usage import ReplicaShare, UsagePosition, Used, usage_since

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


NUMBERS = ("requests", "failed", "prompt_tokens", "output_tokens")
COUNTS = st.builds(UsageCount, *[st.integers(0, 50)] * 4, st.floats(0, 100))
STEPS = st.lists(
    st.tuples(
        st.booleans(), st.dictionaries(st.sampled_from("ab"), COUNTS, max_size=2),
        st.floats(0, 20), st.booleans(),
    ),
    min_size=1,
    max_size=12,
)  # fmt: skip


@given(STEPS)
def test_whatever_restarts_all_that_was_looked_at_is_booked_once(
    steps: list[tuple[bool, dict[str, UsageCount], float, bool]],
) -> None:
    """The proxy may begin anew before a look; the daemon may forget what it did not book."""
    epoch, busy, kept = 0, 0.0, UsagePosition()
    counted: dict[str, UsageCount] = {}
    booked, total = collections.Counter[str](), collections.Counter[str]()
    for anew, more, seconds, crashes in steps:
        if anew:
            epoch, busy, counted = epoch + 1, 0.0, {}
        busy += seconds
        for key, use in more.items():
            old = dataclasses.asdict(counted.get(key, UsageCount()))
            counted[key] = UsageCount(
                **{name: had + getattr(use, name) for name, had in old.items()}
            )
            total.update({name: getattr(use, name) for name in NUMBERS})
        looked = sample(str(epoch), {"m-1": busy}, counted)
        used, position = usage_since(kept, looked, SHARES)
        if crashes:  # before the books were written: the next daemon looks again
            used, position = usage_since(kept, looked, SHARES)
        for delta in used.values():
            booked.update({name: getattr(delta, name) for name in NUMBERS})
        assert usage_since(position, looked, SHARES) == ({}, position), "the same look twice"
        kept = position
    assert booked == total

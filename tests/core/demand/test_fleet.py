"""Rates of a fleet are those of its proxies, whoever comes, goes, starts again or is silent."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.demand.fleet import HostCounts, add_reading, sum_hosts
from partitiond.core.demand.traffic import ModelCount, ReplicaCount, TrafficSample, TrafficWindow


def reading(
    arrived: int, *, epoch: str = "e", generation: str = "g", waiting: int = 0, name: str = "a-1"
) -> TrafficSample:
    buckets = (arrived, 2 * arrived)
    model = ModelCount(arrived=arrived, ok=arrived, ttft_buckets=buckets, waiting=waiting)
    replica = ReplicaCount("a", generation, ok=arrived, busy_seconds=arrived / 7, in_flight=waiting)
    return TrafficSample(0.0, epoch, {"a": model}, {name: replica})


def after(*readings: TrafficSample | None) -> HostCounts:
    found = HostCounts()
    for one in readings:
        found = add_reading(found, one)
    return found


def test_only_growth_between_two_readings_of_one_proxy_counts() -> None:
    assert after(reading(5)).models["a"].arrived == 0
    found = after(reading(5), reading(8), reading(12, waiting=3))
    assert (found.models["a"].arrived, found.models["a"].waiting) == (7, 3)
    assert found.models["a"].ttft_buckets == (7, 14)
    assert found.replicas["a-1"].busy_seconds == pytest.approx(1.0)
    again = add_reading(found, reading(2, epoch="f"))
    assert again.models["a"].arrived == 9
    fresh = add_reading(again, reading(6, epoch="f", generation="h"))
    assert fresh.models["a"].arrived == 13
    assert (fresh.replicas["a-1"].ok, fresh.replicas["a-1"].generation) == (6, "h")


def test_a_silent_host_stands_still_and_its_return_is_no_burst() -> None:
    silent = after(reading(0), reading(4, waiting=2), None)
    assert (silent.models["a"].arrived, silent.models["a"].waiting) == (4, 0)
    assert silent.last is None
    back = add_reading(silent, reading(1000))
    assert back.models["a"].arrived == 4
    assert back.replicas["a-1"].ok == 4
    assert add_reading(back, reading(1001)).models["a"].arrived == 5


HOSTS = ("one", "two")
STEP = st.tuples(st.sampled_from(HOSTS), st.integers(0, 9), st.booleans())


@given(st.lists(STEP, max_size=30))
def test_no_rate_is_ever_negative(history: list[tuple[str, int, bool]]) -> None:
    """Hosts are silent and come back, proxies start again, in any order."""
    counts: dict[str, HostCounts] = {}
    totals, epochs = dict.fromkeys(HOSTS, 0), dict.fromkeys(HOSTS, 0)
    heard: set[str] = set()
    expected, former = 0, sum_hosts(counts, "sum", 0.0)
    for step, (host, more, again) in enumerate(history, 1):
        if again:
            epochs[host], totals[host] = epochs[host] + 1, 0
        totals[host] += more
        epoch, last = f"{host}-{epochs[host]}", counts.get(host, HostCounts()).last
        heard.discard(host)
        sample = None
        if (more + step) % 3:
            heard.add(host)
            sample = reading(totals[host], epoch=epoch, name=f"a-{host}")
            if last is not None:
                expected += totals[host] - (last.models["a"].arrived if last.epoch == epoch else 0)
        counts[host] = add_reading(counts.get(host, HostCounts()), sample)
        found = sum_hosts(counts, "sum", float(step))
        assert (found.models["a"].arrived if found.models else 0) == expected
        assert found.hosts.keys() == heard
        window = TrafficWindow.between(former, found)
        assert all(model.req_per_s >= 0 for model in window.models.values())
        assert all(replica.req_per_s >= 0 for replica in window.replicas.values())
        former = found


def test_hosts_are_added_up() -> None:
    counts = {
        "one": after(reading(0), reading(3)),
        "two": after(reading(10), dataclasses.replace(reading(15, waiting=4), replicas={})),
    }
    found = sum_hosts(counts, "sum", 7.0)
    assert (found.models["a"].arrived, found.models["a"].waiting) == (8, 4)
    assert found.models["a"].ttft_buckets == (8, 16)
    assert (found.at, found.epoch) == (7.0, "sum")
    assert found.replicas.keys() == {"a-1"}

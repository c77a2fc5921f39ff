"""Looks at the proxy's counts are kept, with windows across a restart of the proxy."""

from partitiond.controller.demand.traffic import TrafficWatch
from partitiond.core.demand.traffic import ModelCount, TrafficSample, UsageCount
from tests.controller.fakes import FakeProxy


def sample(at: float, arrived: int, epoch: str = "one") -> TrafficSample:
    usage = {"key-1": {"a": UsageCount(requests=arrived)}}
    return TrafficSample(at, epoch, {"a": ModelCount(arrived=arrived)}, usage=usage)


async def looked_at(*samples: TrafficSample) -> TrafficWatch:
    proxy = FakeProxy()
    await proxy.ensure_running()
    watch = TrafficWatch(proxy, after_look=())
    for proxy.sampled in samples:
        await watch.take_sample()
    return watch


async def test_a_window_begins_with_the_proxy_that_runs_or_from_the_last_one() -> None:
    for looks, seconds, rate in (
        (
            (sample(0.0, 500), sample(2.0, 600), sample(100.0, 0, "two"), sample(102.0, 10, "two")),
            2.0,
            5.0,
        ),
        ((sample(0.0, 500), sample(2.0, 600), sample(4.0, 6, "two")), 2.0, 3.0),
    ):
        window = (await looked_at(*looks)).window(300.0)
        assert (window.seconds, window.models["a"].req_per_s) == (seconds, rate)


async def test_what_keys_used_is_there_for_the_books_and_not_kept_for_half_an_hour() -> None:
    watch = await looked_at(sample(0.0, 1), sample(2.0, 2))
    assert watch.latest is not None
    assert watch.latest.usage["key-1"]["a"].requests == 2
    assert [kept.usage for kept in watch._kept] == [{}, {}]

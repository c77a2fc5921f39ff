"""GET /traffic reports the proxy's counts by model, replica and key, over all its processes."""

import asyncio
import hashlib
import os
import signal
from typing import Any

import pytest

from partitiond.core.demand.traffic import TrafficSample
from partitiond.core.dispatch.routing import KeyRoute
from partitiond.proxy.telemetry.traffic import MergedTraffic
from partitiond.serde import from_jsonable
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.scripted import DONE, Received, Step, answer, completion, event, stream, text_event
from tests.proxy.workers.test_parent import (
    MakeProcess,
    all_up,
    clients,
    complete,
    make_process,
    replaced,
)

__all__ = ["make_process"]


def sampled(proxy: Proxy) -> TrafficSample:
    return from_jsonable(TrafficSample, {**proxy.state.traffic(), "epoch": "e"})


def slow_stream(_: Received) -> list[Step]:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    last = event({"id": "c", "object": "text_completion", "choices": [], "usage": usage})
    return stream(0.05, text_event("a"), text_event("b"), 0.04, text_event("c"), last, DONE)


async def test_an_answer_is_counted_once_everywhere(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(lambda _: [0.5, *answer(completion())])
    proxy = await make_proxy(table(replica(engine)))
    for _ in range(3):
        assert (await proxy.complete()).status_code == 200
    sample = sampled(proxy)
    model, worker, use = sample.models["m"], sample.replicas["m-1"], sample.usage[""]["m"]
    assert (model.arrived, model.ok, model.failed, model.refused) == (3, 3, 0, 0)
    assert (model.prompt_tokens, model.output_tokens) == (9, 6)
    assert sum(model.queue_buckets) == 3
    assert (model.waiting, model.in_flight) == (0, 0)
    assert (worker.model, worker.generation, worker.ok) == ("m", "1-1", 3)
    assert (worker.prompt_tokens, worker.output_tokens, worker.in_flight) == (9, 6, 0)
    assert worker.service_seconds == pytest.approx(1.5)
    assert model.e2e_seconds == pytest.approx(1.5)
    assert worker.busy_seconds == worker.sequence_seconds == pytest.approx(1.5)
    assert (use.requests, use.prompt_tokens, use.output_tokens) == (3, 9, 6)
    assert use.engine_seconds == pytest.approx(1.5)


async def test_a_stream_tells_its_first_token_and_the_rest(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(slow_stream)
    proxy = await make_proxy(table(replica(engine)))
    await proxy.stream_text()
    sample = sampled(proxy)
    model, worker = sample.models["m"], sample.replicas["m-1"]
    assert sum(model.ttft_buckets) == worker.first_count == 1
    assert worker.rest_tokens == 2
    assert worker.first_seconds == pytest.approx(0.05)
    assert worker.rest_seconds == pytest.approx(0.04)
    assert model.e2e_seconds == pytest.approx(0.09)


async def test_what_is_running_counts_up_to_now(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    engine = await make_engine(lambda _: [go_on, *answer(completion())])
    proxy = await make_proxy(table(replica(engine, max_sequences=2)))
    tasks = [proxy.ask(n=2) for _ in range(2)]
    await proxy.queued(1)
    first = sampled(proxy)
    await asyncio.sleep(3)
    second = sampled(proxy)
    passed = second.at - first.at
    assert passed == pytest.approx(3)
    old, new = first.replicas["m-1"], second.replicas["m-1"]
    assert (second.models["m"].waiting, second.models["m"].in_flight) == (1, 1)
    assert second.models["m"].arrived == 2
    assert new.in_flight == 2  # two sequences of one request
    assert new.busy_seconds - old.busy_seconds == pytest.approx(passed)
    assert new.sequence_seconds - old.sequence_seconds == pytest.approx(2 * passed)
    go_on.set()
    await asyncio.gather(*tasks)
    last = sampled(proxy).replicas["m-1"]
    assert last.sequence_seconds >= new.sequence_seconds
    assert last.busy_seconds >= new.busy_seconds


async def test_failures_refusals_and_clients_that_leave(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    broken = await make_engine(lambda _: ["close"], "broken")
    held = await make_engine(lambda _: [go_on, *answer(completion())], "held")
    routes = table(
        replica(broken, "a-1", "a"), replica(held, "b-1", "b", max_sequences=1),
        models=("a", "b"), served_name="x", max_queue=0,
    )  # fmt: skip
    proxy = await make_proxy(routes)
    assert (await proxy.complete(model="a")).status_code == 502
    leaving = proxy.ask(model="b")
    await proxy.until(lambda: proxy.state.in_flight()["b-1"] == 1)
    await asyncio.sleep(5)
    assert (await proxy.complete(model="b")).status_code == 429
    leaving.cancel()
    await proxy.until(proxy.idle)
    sample = sampled(proxy)
    a, b = sample.models["a"], sample.models["b"]
    assert (a.arrived, a.ok, a.failed, a.refused) == (1, 0, 1, 0)
    assert (b.arrived, b.ok, b.failed, b.refused) == (2, 0, 0, 1)
    assert sample.replicas["a-1"].failed >= 1
    assert sample.usage[""]["a"].failed == 1
    # Nobody got an answer, but an engine worked for it.
    assert sample.usage[""]["b"].requests == 0
    assert sample.usage[""]["b"].engine_seconds == pytest.approx(5, abs=0.1)


async def test_tokenizing_is_no_demand(make_proxy: MakeProxy, make_engine: MakeEngine) -> None:
    engine = await make_engine(lambda _: answer({"tokens": [1], "count": 1, "max_model_len": 9}))
    proxy = await make_proxy(table(replica(engine)))
    async with proxy.client as client:
        await client.post("/tokenize", json={"model": "m", "prompt": "hi"})
    sample = sampled(proxy)
    assert sample.models["m"].arrived == sample.models["m"].ok == 0
    assert not sample.usage


async def test_usage_is_told_by_key(make_proxy: MakeProxy, make_engine: MakeEngine) -> None:
    engine = await make_engine()
    keys = tuple(KeyRoute(name, hashlib.sha256(name.encode()).hexdigest()) for name in ("k1", "k2"))
    proxy = await make_proxy(table(replica(engine), keys=keys, keys_required=True))
    async with proxy.client as client:
        for name, count in (("k1", 2), ("k2", 1)):
            for _ in range(count):
                await client.post(
                    "/v1/completions", json={"model": "m", "prompt": "x"},
                    headers={"authorization": f"Bearer {name}"},
                )  # fmt: skip
    usage = sampled(proxy).usage
    assert {key: uses["m"].requests for key, uses in usage.items()} == {"k1": 2, "k2": 1}


async def test_counts_of_another_engine_process_begin_anew(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(table(replica(engine)))
    await proxy.complete()
    proxy.state.apply(table(replica(engine, generation="2-2"), version=2))
    sample = sampled(proxy)
    assert (sample.replicas["m-1"].generation, sample.replicas["m-1"].ok) == ("2-2", 0)
    assert sample.models["m"].ok == 1
    proxy.state.apply(table(version=3, models=()))
    sample = sampled(proxy)
    assert not sample.replicas
    assert sample.models["m"].ok == 1


@pytest.mark.full
async def test_workers_are_summed_and_one_that_is_killed_stays_counted(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    engine = await make_engine()
    process = make_process()
    await process.ensure_running()
    await process.publish(table(replica(engine)))
    before = await all_up(process)
    async with clients(process, 6) as client:
        await asyncio.gather(*(complete(client) for _ in range(24)))
    first = await process.sample()
    assert first is not None
    assert first.models["m"].ok == first.replicas["m-1"].ok == first.usage[""]["m"].requests == 24
    assert 0 < first.replicas["m-1"].busy_seconds <= first.replicas["m-1"].sequence_seconds
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await replaced(process, *before)
    async with clients(process, 2) as client:
        await complete(client)
    second = await process.sample()
    assert second is not None
    assert second.epoch == first.epoch
    assert second.models["m"].ok == second.replicas["m-1"].ok == 25
    await process.stop(0)
    last = process.last_sample()
    assert last is not None
    assert (last.epoch, last.models["m"].ok) == (second.epoch, 25)
    assert last.usage[""]["m"].requests == 25
    await process.ensure_running()
    third = await process.sample()
    assert third is not None
    assert third.epoch != first.epoch


def told(busy: float, generation: str = "1", ok: int = 0) -> dict[str, Any]:
    count = {"model": "m", "generation": generation, "ok": ok, "busy_seconds": busy, "in_flight": 0}
    return {"models": {}, "replicas": {"m-1": count}, "usage": {}}


def test_workers_that_are_busy_half_the_time_are_not_busy_twice() -> None:
    merged = MergedTraffic()
    merged.sample({0: told(0.0), 1: told(0.0)}, {"m-1": "1"}, 0.0)
    sample = merged.sample({0: told(5.0), 1: told(5.0)}, {"m-1": "1"}, 10.0)
    assert sample["replicas"]["m-1"]["busy_seconds"] == pytest.approx(7.5)
    sample = merged.sample({0: told(15.0), 1: told(15.0)}, {"m-1": "1"}, 20.0)
    assert sample["replicas"]["m-1"]["busy_seconds"] == pytest.approx(17.5)


def test_a_worker_that_has_not_seen_the_new_process_is_not_added_to_it() -> None:
    merged = MergedTraffic()
    sample = merged.sample({0: told(1.0, "1", 5), 1: told(0.0, "2", 1)}, {"m-1": "2"}, 1.0)
    assert sample["replicas"]["m-1"]["ok"] == 1
    merged.ended(0, told(1.0, "1", 5))
    merged.ended(1, told(0.0, "2", 1))
    sample = merged.sample({2: told(0.0, "2", 1)}, {"m-1": "2"}, 2.0)
    assert sample["replicas"]["m-1"]["ok"] == 2
    assert not merged.sample({}, {}, 3.0)["replicas"]


def test_nothing_counted_is_a_sample_too() -> None:
    assert from_jsonable(TrafficSample, MergedTraffic().sample({}, {}, 1.0)).models == {}


def test_a_host_is_reached_if_each_worker_reaches_it() -> None:
    nothing: dict[str, Any] = {"models": {}, "replicas": {}, "usage": {}}
    told = {
        1: {**nothing, "peers": {"a": True, "b": True, "c": False}},
        2: {**nothing, "peers": {"a": True, "b": False}},
        3: nothing,  # it has no table yet
    }
    assert MergedTraffic().sample(told, {}, 1.0)["peers"] == {"a": True, "b": False, "c": False}

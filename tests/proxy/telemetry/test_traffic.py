"""GET /traffic reports the proxy's counts by model, replica and key, over all its processes."""

import asyncio
from typing import Any

import pytest

from partitiond.core.demand.traffic import TrafficSample
from partitiond.proxy.telemetry.traffic import BOOKED_SECONDS, MergedTraffic
from partitiond.serde import from_jsonable
from tests.proxy.conftest import Make, Proxy, key, replica, table
from tests.proxy.scripted import DONE, Gate, answer, completion, event, plays, stream, text_event


def sampled(proxy: Proxy) -> TrafficSample:
    return from_jsonable(TrafficSample, {**proxy.state.traffic(), "epoch": "e"})


async def test_an_answer_is_counted_once_everywhere(make: Make) -> None:
    proxy, engine = await make.both(plays(0.5, *answer(completion())))
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
    seconds = model.e2e_seconds, worker.service_seconds, worker.busy_seconds
    assert (*seconds, worker.sequence_seconds) == pytest.approx((1.5,) * 4)
    assert (use.requests, use.prompt_tokens, use.output_tokens) == (3, 9, 6)
    # Counts of another engine process begin anew.
    proxy.state.apply(table(replica(engine, generation="2-2"), version=2))
    sample = sampled(proxy)
    assert (sample.replicas["m-1"].generation, sample.replicas["m-1"].ok) == ("2-2", 0)
    proxy.state.apply(table(version=3, models=()))
    sample = sampled(proxy)
    assert not sample.replicas
    assert sample.models["m"].ok == 3


async def test_counts_of_a_removed_key_go_once_the_daemon_has_booked_them(make: Make) -> None:
    """That is after it looked for so long without a pause, and they had ended."""
    go_on = asyncio.Event()
    engine = await make.engine(plays(go_on, *answer(completion())))
    keys = key("k1"), key("k2"), key("k3")
    proxy = await make.proxy(table(replica(engine), keys=keys))
    go_on.set()
    for name in ("k1", "k2", "", "k3"):
        assert (await proxy.complete(key=name)).status_code == 200
    go_on.clear()

    async def looks(seconds: float) -> set[str]:
        for _ in range(int(seconds / 20)):
            await asyncio.sleep(20)
            told = set(sampled(proxy).usage)
        return told

    proxy.state.apply(table(replica(engine), keys=keys[1:], version=2))
    await looks(40)
    await asyncio.sleep(BOOKED_SECONDS)
    assert await looks(BOOKED_SECONDS - 40) == {"", "k1", "k2", "k3"}, "the daemon was away"
    runs = proxy.ask(key="k3")
    await engine.got(5)
    proxy.state.apply(table(replica(engine), keys=keys[1:2], version=3))
    assert await looks(BOOKED_SECONDS + 100) == {"", "k2", "k3"}, "one runs"
    go_on.set()
    await runs
    assert await looks(BOOKED_SECONDS - 40) == {"", "k2", "k3"}
    assert await looks(100) == {"", "k2"}


def test_counts_of_removed_keys_go_with_their_workers() -> None:
    merged, use = MergedTraffic(), {"m": {"requests": 1}}
    told = {"models": {}, "replicas": {}, "usage": {"k1": use, "k2": use}}
    merged.ended(0, {**told, "keys": {"k1": {"in_flight": 1}, "k2": {"in_flight": 1}}})
    seen = [merged.sample({}, {}, at, {"k2"}) for at in range(0, int(BOOKED_SECONDS) + 40, 20)]
    assert [set(one["usage"]) for one in seen[:-1]] == [{"k1", "k2"}] * (len(seen) - 1)
    assert set(seen[-1]["usage"]) == set(seen[1]["keys"]) == {"k2"}


async def test_a_stream_tells_its_first_token_and_the_rest(make: Make) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    last = event({"id": "c", "object": "text_completion", "choices": [], "usage": usage})
    steps = 0.05, text_event("a"), text_event("b"), 0.04, text_event("c"), last, DONE
    proxy, _ = await make.both(plays(*stream(*steps)))
    await proxy.stream_text()
    sample = sampled(proxy)
    model, worker = sample.models["m"], sample.replicas["m-1"]
    assert sum(model.ttft_buckets) == worker.first_count == 1
    assert worker.rest_tokens == 2
    seconds = worker.first_seconds, worker.rest_seconds, model.e2e_seconds
    assert seconds == pytest.approx((0.05, 0.04, 0.09))


async def test_what_is_running_counts_up_to_now(make: Make) -> None:
    gate = Gate()
    proxy, _ = await make.both(gate, at={"max_sequences": 2})
    tasks = [proxy.ask(n=2) for _ in range(2)]
    await proxy.queued(1)
    old = sampled(proxy).replicas["m-1"]
    await asyncio.sleep(3)
    second = sampled(proxy)
    new = second.replicas["m-1"]
    assert (second.models["m"].waiting, second.models["m"].in_flight) == (1, 1)
    assert second.models["m"].arrived == 2
    assert new.in_flight == 2  # two sequences of one request
    assert new.busy_seconds - old.busy_seconds == pytest.approx(3)
    assert new.sequence_seconds - old.sequence_seconds == pytest.approx(2 * 3)
    gate.open()
    await tasks[0]
    last = sampled(proxy).replicas["m-1"]
    assert last.sequence_seconds >= new.sequence_seconds
    assert last.busy_seconds >= new.busy_seconds


async def test_failures_refusals_and_clients_that_leave(make: Make) -> None:
    broken, held = await make.engine(plays("close"), "broken"), await make.engine(Gate(), "held")
    routes = replica(broken, "a-1", "a"), replica(held, "b-1", "b", max_sequences=1)
    proxy = await make.proxy(table(*routes, models=("a", "b"), max_queue=0))
    assert (await proxy.complete(model="a")).status_code == 502
    leaving = proxy.ask(model="b")
    await held.got(1)
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
    # Nobody got an answer, but an engine worked for it, and it is charged.
    assert sample.usage[""]["b"].requests == 1


async def test_usage_is_told_by_key_and_tokenizing_is_no_demand(make: Make) -> None:
    proxy, _ = await make.both(
        plays(*answer(completion())), route={"keys": (key("k1"), key("k2")), "keys_required": True}
    )
    for name in ("k1", "k1", "k2"):
        assert (await proxy.complete(key=name)).status_code == 200
    assert (await proxy.complete("/tokenize", key="k2")).status_code == 200
    sample = sampled(proxy)
    requests = {name: uses["m"].requests for name, uses in sample.usage.items()}
    assert requests == {"k1": 2, "k2": 1}
    assert sample.models["m"].arrived == sample.models["m"].ok == 3


def told(busy: float, generation: str = "1", ok: int = 0, **more: Any) -> dict[str, Any]:
    count = {"model": "m", "generation": generation, "ok": ok, "busy_seconds": busy, "in_flight": 0}
    return {"models": {}, "replicas": {"m-1": count}, "usage": {}, **more}


def test_workers_that_are_busy_half_the_time_are_not_busy_twice() -> None:
    merged = MergedTraffic()
    for each, at, together in ((0.0, 0.0, 0.0), (5.0, 10.0, 7.5), (15.0, 20.0, 17.5)):
        sample = merged.sample({0: told(each), 1: told(each)}, {"m-1": "1"}, at)
        assert sample["replicas"]["m-1"]["busy_seconds"] == pytest.approx(together)


def test_a_worker_that_has_not_seen_the_new_process_is_not_added_to_it() -> None:
    merged = MergedTraffic()
    sample = merged.sample({0: told(1.0, "1", 5), 1: told(0.0, "2", 1)}, {"m-1": "2"}, 1.0)
    assert sample["replicas"]["m-1"]["ok"] == 1
    merged.ended(0, told(1.0, "1", 5))
    merged.ended(1, told(0.0, "2", 1))
    sample = merged.sample({2: told(0.0, "2", 1)}, {"m-1": "2"}, 2.0)
    assert sample["replicas"]["m-1"]["ok"] == 2
    nothing = merged.sample({}, {}, 3.0)
    assert not nothing["replicas"]
    assert from_jsonable(TrafficSample, nothing).models == {}


def test_a_host_is_reached_if_each_worker_reaches_it() -> None:
    workers = {
        1: told(0.0, peers={"a": True, "b": True, "c": False}),
        2: told(0.0, peers={"a": True, "b": False}),
        3: told(0.0),  # it has no table yet
    }
    peers = MergedTraffic().sample(workers, {}, 1.0)["peers"]
    assert peers == {"a": True, "b": False, "c": False}


def test_use_of_keys_is_added_up_and_counts_by_the_oldest_shares() -> None:
    """A worker that has the new shares does not speak for one that has not."""

    def counted(number: int, requests: float) -> dict[str, Any]:
        count = {"requests": requests, "refused": 1, "in_flight": 2.0}
        return told(0.0) | {"keys": {"k1": dict(count)}, "shares_number": number}

    merged = MergedTraffic()
    sample = merged.sample({0: counted(8, 3.0), 1: counted(7, 4.0)}, {"m-1": "1"}, 1.0)
    assert sample["shares_number"] == 7
    assert sample["keys"] == {"k1": {"requests": 7.0, "refused": 2, "in_flight": 4.0}}
    merged.ended(1, counted(8, 4.0))
    sample = merged.sample({0: counted(8, 3.0)}, {"m-1": "1"}, 2.0)
    assert sample["shares_number"] == 8
    assert sample["keys"] == {"k1": {"requests": 7.0, "refused": 2, "in_flight": 2.0}}
    assert merged.sample({}, {}, 3.0)["shares_number"] == 0

"""A replica that fails takes no requests from those that serve, and comes back by itself."""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from partitiond.core.dispatch.reputation import PAUSE_SECONDS, Reputation, Trust
from partitiond.core.dispatch.retry_budget import KEPT_FOR_FAILURES
from partitiond.proxy.dispatch.replicas import LiveReplica
from tests.proxy.conftest import Make, Proxy, error_of, key, post, replica, table
from tests.proxy.scripted import (
    DONE,
    Received,
    Script,
    Step,
    answer,
    completion,
    plays,
    stream,
    text_event,
)
from tests.proxy.virtual import RawClient, settled

SERVED = (200, "")
ERROR = (502, "upstream_engine_error")
CLIENTS = 8
LOAD_SECONDS = 6.0


def fails(status: int = 500) -> Script:
    return plays(*answer({"error": "x"}, status, "no"))


def fails_often() -> Script:
    """Fails at once, but each third request is answered: never three in a row."""
    turns = itertools.cycle([fails(), fails(), plays(0.1, *answer(completion()))])
    return lambda request: next(turns)(request)  # noqa: PLW0108 -- one script a request


def members(proxy: Proxy) -> dict[str, LiveReplica]:
    return proxy.state.models["m"].replicas


async def statuses(
    proxy: Proxy, prompt: Callable[[int], str], name: str = "none"
) -> list[tuple[float, int]]:
    """When each request of one client was sent, one after the other, and how it was answered."""
    client, found, number = await RawClient.to(proxy.port), list[tuple[float, int]](), 0
    began = time.monotonic()
    while (sent := time.monotonic() - began) < LOAD_SECONDS:
        client.send(post({"model": "m", "prompt": prompt(number)}, key=name))
        head = (await client.until(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await client.reader.readexactly(length)
        found.append((sent, int(head.split(b" ")[1])))
        number += 1
    client.leave()
    return found


async def behind(make: Make, good: int, *bad: Script, limit: int = 8, **options: Any) -> Proxy:
    """A proxy before engines that fail, and good ones that take 0.1 s."""
    scripts = [*bad, *[plays(0.1, *answer(completion()))] * good]
    routes = [
        replica(await make.engine(script, f"e{n}"), f"m-{n}", max_sequences=limit)
        for n, script in enumerate(scripts)
    ]
    return await make.proxy(table(*routes, keys=(key("k1"), key("k2")), max_queue=99), **options)


@pytest.mark.parametrize("limit", [8, 4], ids=["room for all", "some wait"])
@pytest.mark.parametrize("source", ["each its own", "one key"])
@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ([fails()] * 2, 1),
        ([plays("close")] * 2, 1),
        ([fails(403)], 2),
        ([fails(400)], 2),
        ([fails(422)] * 2, 1),
    ],
    ids=["2 of 3", "accept and close", "403", "refuses all", "2 of 3 refuse all"],
)
async def test_one_that_fails_at_once_does_not_swallow_what_others_could_serve(
    make: Make, bad: list[Script], good: int, source: str, limit: int
) -> None:
    proxy = await behind(make, good, *bad, limit=limit)
    name = "k1" if source == "one key" else "none"
    clients = [statuses(proxy, lambda n: f"{n}", name) for _ in range(CLIENTS)]
    answered = await asyncio.gather(*clients)
    later = Counter(status for found in answered for at, status in found if at > 1.0)
    assert later.total() > 100
    assert later[200] >= 0.95 * later.total(), later
    assert 403 not in later, "no client is told what an engine says of the proxy"
    lost = Counter(status for found in answered for _, status in found)
    assert lost[400] + lost[422] <= 16, lost
    verdicts = [one.reputation.proofs > 0 for one in members(proxy).values()]
    assert verdicts == [True] * len(bad) + [False] * good
    assert proxy.idle()


async def test_one_that_answers_each_third_request_costs_no_client_its_answer(make: Make) -> None:
    """It is never doubtful, and fails at once what is then answered elsewhere."""
    proxy = await behind(make, 2, fails_often(), limit=4)
    clients = [statuses(proxy, lambda n: f"{n}") for _ in range(CLIENTS)]
    answered = Counter(status for found in await asyncio.gather(*clients) for _, status in found)
    assert answered.total() > 100
    assert answered[200] >= 0.95 * answered.total(), answered


@pytest.mark.parametrize(("status", "told"), [(500, 502), (400, 400)])
async def test_failures_of_one_key_alone_take_no_replica_from_the_others(
    make: Make, status: int, told: int
) -> None:
    """40 requests a second that each engine fails, beside one client whose requests it answers."""

    credit = []

    def script(request: Received) -> list[Step]:
        if request.body["prompt"] == "poison":
            credit.append(proxy.state.models["m"].retries.credit)
            return [0.025, *answer({"error": "x"}, status, "no")]
        return [0.1, *answer(completion())]

    proxy = await behind(make, 0, script, script, retry_share=0.01)
    proxy.state.models["m"].retries.credit = KEPT_FOR_FAILURES + 1
    poison = asyncio.create_task(statuses(proxy, lambda _: "poison", "k1"))
    others = statuses(proxy, lambda n: f"well {n}", "k2")
    assert {status for _, status in await others} == {200}
    assert {status for _, status in await poison} == {told}
    await asyncio.sleep(PAUSE_SECONDS)  # in which none could be asked as well
    assert {one.doubt for one in members(proxy).values()} == {Trust.GOOD}
    assert not any(one.reputation.proofs for one in members(proxy).values())
    assert not any(one.ejected for one in members(proxy).values())
    assert status == 500 or KEPT_FOR_FAILURES <= min(credit) < KEPT_FOR_FAILURES + 1


@pytest.mark.parametrize("lot", range(8))  # who is asked first is drawn
async def test_a_refusal_is_answered_where_who_is_asked_as_well_has_no_answer(
    make: Make, lot: int
) -> None:
    refused: set[str] = set()

    def refuses(request: Received) -> list[Step]:
        refused.add(request.body["prompt"])
        return answer({"error": "x"}, 400, "no")

    def closes(request: Received) -> list[Step]:
        if request.body["prompt"].startswith("odd"):
            return [0.025, "close"]
        return [0.1, *answer(completion())]

    proxy = await behind(make, 0, refuses, closes, retry_share=1.0)
    others = asyncio.create_task(statuses(proxy, lambda n: f"well {n}", "k2"))
    found = await statuses(proxy, lambda n: f"odd {n}", "k1")
    met = {status for n, (_, status) in enumerate(found) if f"odd {n}" in refused}
    assert met == {400}
    await others


async def test_a_fault_common_to_all_leaves_none_out(make: Make) -> None:
    broken = True

    def script(_: Received) -> list[Step]:
        return answer({"error": "x"}, 500, "no") if broken else answer(completion())

    proxy = await behind(make, 0, script, script, script)
    for number in range(16):
        assert error_of(await proxy.complete(prompt=f"{number}")) == ERROR
    lost, *others = members(proxy).values()
    assert {one.doubt for one in (lost, *others)} == {Trust.REFUSED}
    lost.reputation = Reputation()
    lost.reputation.out = True
    assert [one.ejected for one in (lost, *others)] == [True, False, False]
    broken = False
    assert error_of(await proxy.complete()) == SERVED, "at once"


async def test_a_broken_one_is_tried_with_one_request_at_a_time_until_it_answers(
    make: Make,
) -> None:
    go, broken = asyncio.Event(), True

    def script(_: Received) -> list[Step]:
        return answer({"error": "x"}, 500, "no") if broken else [go, *answer(completion())]

    bad, good = await make.engine(script, "bad"), await make.engine(name="good")
    proxy = await make.proxy(table(replica(bad, "bad"), replica(good, "good")))
    live = members(proxy)["bad"]

    async def asked() -> int:
        before = len(bad.received)
        for number in range(40):
            assert error_of(await proxy.complete(prompt=f"{number}")) == SERVED
        return len(bad.received) - before

    assert await asked() <= 5
    assert proxy.metric("partitiond_proxy_ejected", model="m", replica="bad") == 1
    for _ in range(3):
        assert await asked() == 0
        await proxy.until(lambda: live.doubt is Trust.GOOD)
        assert await asked() == 1, "retried, so nobody is told"
    broken = False
    await proxy.until(lambda: live.doubt is Trust.GOOD)
    trial = [proxy.ask(prompt=f"trial {n}") for n in range(10)]
    await settled()
    before = len(bad.received)
    assert await asked() == 0, "the trial is on"
    go.set()
    assert {error_of(await one) for one in trial} == {SERVED}
    assert len(bad.received) == before
    assert live.doubt is Trust.GOOD
    assert await asked() > 1
    assert proxy.metric("partitiond_proxy_ejected", model="m", replica="bad") == 0


async def test_requests_wait_rather_than_go_to_a_refused_one_and_a_wrong_one_is_no_trial(
    make: Make,
) -> None:
    ends = plays(*answer({"error": {"message": "no", "code": 400}}, 400, "Bad Request"))
    proxy = await behind(make, 1, ends, limit=1)
    live = members(proxy)["m-0"]
    for source in "aab":
        live.failed(source)
    assert [error_of(one) for one in await asyncio.gather(*[proxy.ask() for _ in range(3)])] == [
        SERVED
    ] * 3
    await proxy.until(lambda: live.doubt is Trust.GOOD)
    for _ in range(2):
        while error_of(await proxy.complete()) == SERVED:
            pass  # by the good one, which is as empty
        assert live.reputation.proofs == 1
        assert live.doubt is Trust.GOOD, "the trial is still due"


async def test_a_request_that_failed_as_a_trial_waits_for_a_good_one(make: Make) -> None:
    """It is no trial of the next one, and shows whose the fault was."""
    proxy = await behind(make, 1, fails(), fails(), limit=1)
    bad = list(members(proxy).values())[:2]
    for live in bad:
        for _ in range(3):
            live.failed("a")
    running = proxy.ask()
    await settled()
    for live in bad:
        live.reputation.trial_at = time.monotonic()
    assert error_of(await proxy.complete()) == SERVED
    assert sorted(live.reputation.proofs for live in bad) == [0, 1]
    assert error_of(await running) == SERVED


# What an engine says of the request, and what of itself


@pytest.mark.parametrize(
    "status", [401, 403, 405, 407, 408, 409, 411, 421, 429, 500, 501, 503, 302]
)
async def test_what_an_engine_says_of_the_proxy_or_itself_is_a_failure_of_the_engine(
    make: Make, status: int
) -> None:
    proxy, engine = await make.both(fails(status))
    assert error_of(await proxy.complete()) == ERROR
    assert members(proxy)["m-1"].reputation.failures == 1
    engine.script = plays(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n",
        b'data: {"error": {"message": "x", "code": %d}}\n\n' % status,
        "close",
    )
    assert error_of(await proxy.complete(stream=True)) == ERROR


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_what_an_engine_says_of_the_request_is_passed_on_and_neither_good_nor_bad(
    make: Make, status: int
) -> None:
    error = {"error": {"message": "too long", "type": "invalid_request_error", "code": status}}
    proxy, _ = await make.both(plays(*answer(error, status, "no")))
    live = members(proxy)["m-1"]
    live.failed("a")
    for _ in range(3):
        got = await proxy.complete()
        assert (got.status_code, got.json()) == (status, error)
    assert live.reputation.failures == 1


async def test_a_connection_is_kept_for_less_time_than_an_engine_keeps_it(make: Make) -> None:
    proxy, _ = await make.both()
    assert error_of(await proxy.complete()) == SERVED
    pool, now = members(proxy)["m-1"].pool, time.monotonic()
    kept = pool.reuse(now + 3.9)
    assert kept is not None
    pool.release(kept, now)
    assert pool.reuse(now + 4.0) is None


@pytest.mark.parametrize(("limit", "served"), [(0, True), (1, False)])
@pytest.mark.parametrize("streams", [False, True])
async def test_an_answer_larger_than_the_limit_is_the_fault_of_its_request(
    make: Make, limit: int, *, served: bool, streams: bool
) -> None:
    """Or an event of a stream that is as large."""
    payload, large = completion("x" * 1000), text_event("x" * 20_000)
    size = len(large) if streams else len(json.dumps(payload))
    # The end of the event comes by itself: until then it is held.
    steps = stream(large[:-1], 0.1, large[-1:], DONE) if streams else answer(payload)
    engines = [await make.engine(plays(*steps), name) for name in ("e1", "e2")]
    routes = [replica(engine, f"m-{n}") for n, engine in enumerate(engines)]
    most = size - 1 - limit if streams else size - limit
    proxy = await make.proxy(table(*routes), max_response_bytes=most, retry_share=1.0)
    expected = SERVED if served else (400, "answer_too_large")
    assert error_of(await proxy.complete(stream=streams)) == expected
    assert sum(len(engine.received) for engine in engines) == 1
    assert not any(one.work.failed for one in members(proxy).values())
    assert proxy.state.metrics.model("m").uses[""].failed == 0

"""Each limit of a request at another host is judged by one side: who knows whom it is about."""

import asyncio
import dataclasses
import json
import time
from typing import Any

import pytest

from partitiond.core.dispatch.retry_budget import RetryBudget
from partitiond.proxy.dispatch.flights import HOP_SECONDS
from tests.proxy.charged_answers import OUTPUT_EVENTS, Api
from tests.proxy.conftest import replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host
from tests.proxy.peers.test_hops import until_idle
from tests.proxy.scripted import STREAM_HEAD, Received, Step, chunk, text_event, well_behaved
from tests.proxy.test_charges import (
    asking,
    begun,
    by_stream,
    key,
    report,
    until_third,
)

RESERVE = RetryBudget().reserve


def limits(host: Host, **changes: Any) -> None:
    state = host.proxy.state
    state.options = dataclasses.replace(state.options, **changes)


async def test_a_replica_that_the_owner_tries_next_has_its_own_time(make: Make) -> None:
    go = asyncio.Event()
    turns = iter((True, False))

    def script(request: Received) -> list[Step]:
        return ["hold"] if next(turns) else [go, *well_behaved(request)]

    engines = [await make.engine(script, f"e{n}") for n in range(2)]
    routes = table(replica(engines[0], "m-1"), replica(engines[1], "m-2"))
    a, b = await make.hosts(routes, {"a": [], "b": ["m-1", "m-2"]})
    limits(b, first_token_timeout_seconds=0.6)
    asked = asyncio.create_task(a.proxy.complete(stream=True))
    await b.proxy.until(lambda: all(engine.received for engine in engines))
    limits(b, first_token_timeout_seconds=60.0)
    limits(a, first_token_timeout_seconds=0.5 - HOP_SECONDS)
    await asyncio.sleep(0.15)  # several sweeps
    go.set()
    assert (await asked).status_code == 200
    assert a.proxy.state.metrics.upstream_failures == {}
    await until_idle([a, b])


@pytest.mark.parametrize("begins", [True, False])
async def test_the_owner_finds_out_that_its_engine_is_silent(make: Make, begins: bool) -> None:
    head: list[Step] = [STREAM_HEAD, chunk(text_event("a"))] if begins else []
    a, b, _ = await make.pair(lambda _: [*head, "hold"])
    name = "between_tokens_timeout" if begins else "first_token_timeout"
    limits(a, **{f"{name}_seconds": 0.1})
    limits(b, **{f"{name}_seconds": 0.2})
    answered = await a.proxy.complete(stream=True)
    assert f"upstream_{name}" in answered.text
    assert b.proxy.state.metrics.upstream_failures == {("m-1", name): 1}
    await until_idle([a, b])


async def test_the_entry_finds_out_that_its_client_does_not_read(make: Make) -> None:
    filler = chunk(text_event("x" * 60_000))
    a, b, _ = await make.pair(lambda _: [STREAM_HEAD, *[filler] * 1000])
    limits(a, client_timeout_seconds=0.4)
    limits(b, client_timeout_seconds=0.2)
    body = json.dumps({"model": "m", "prompt": "flood", "stream": True}).encode()
    _, client = await asyncio.open_connection("127.0.0.1", a.proxy.port, limit=1024)
    client.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )
    await a.proxy.until(lambda: bool(a.proxy.exchanges()))
    await until_idle([a, b])
    lines = "".join(a.proxy.log_lines)
    assert "client_stalled" in lines
    assert "internal_error" not in lines + "".join(b.proxy.log_lines)
    client.transport.abort()


@pytest.mark.parametrize("reached", [True, False])
async def test_what_an_owner_tries_again_counts_as_its_entry_s_retry(
    make: Make, reached: bool
) -> None:
    """Else the two together would retry twice the share. What was not reached is no retry."""
    engine = await make.engine(lambda _: ["reset"])
    other = await make.engine(name="e2")
    first = replica(engine if reached else engine.path.with_name("none"), "m-1", max_sequences=80)
    a, b = await make.hosts(table(first, replica(other, "m-2")), {"a": [], "b": ["m-1", "m-2"]})
    (model,) = a.proxy.state.models.values()
    while not b.proxy.state.metrics.upstream_failures:
        assert (await a.proxy.complete()).status_code == 200
    assert b.proxy.state.metrics.upstream_failures.total() == 1
    hops = a.proxy.state.metrics.hops["b", "placed"]
    assert model.retries.credit == pytest.approx(RESERVE + 0.2 * hops - reached)
    await until_idle([a, b])


async def test_where_all_hosts_of_a_model_are_gone_for_long_nobody_waits(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = table(replica(await make.engine()))
    a, b = await make.hosts(routes, {"a": [], "b": ["m-1"]})
    monkeypatch.setattr("partitiond.proxy.peers.known.LEARN_SECONDS", 60.0)
    monkeypatch.setattr("partitiond.proxy.peers.known.RETURN_SECONDS", 0.2)
    b.server.close()
    await a.proxy.until(lambda: not a.proxy.state.peers.heard())
    gone = time.monotonic()
    await a.proxy.until(lambda: time.monotonic() > gone + 0.3)
    answered = await a.proxy.complete()
    assert answered.status_code == 503
    assert answered.json()["error"]["code"] == "model_on_other_host"


@by_stream
async def test_who_loses_a_host_in_a_stream_pays_once_what_was_seen(make: Make, api: Api) -> None:
    engine = await make.engine(lambda _: begun(api, "hold"))
    routes = table(replica(engine, max_model_len=0), keys=(key(),))
    a, b = await make.hosts(routes, {"a": [], "b": ["m-1"]})
    async with asking(a.proxy, api, streams=True) as reader:
        await until_third(reader)
        for one in list(b.server.sockets):
            one.close("is ended by a test")
        await until_idle([a, b])
    assert sum(report(a.proxy)) == api.prompt_of_a_part() + OUTPUT_EVENTS
    # The owner counts only that its device worked for the key.
    use = b.proxy.state.traffic()["usage"]["k1"]["m"]
    assert [name for name, amount in use.items() if amount] == ["engine_seconds"]

"""Each limit of a request at another host is judged by one side: who knows whom it is about."""

import asyncio
import dataclasses
from typing import Any

import pytest

from partitiond.core.dispatch.speeds import FIRST_TOKENS_PER_S
from partitiond.proxy.peers.known import RETURN_SECONDS
from tests.proxy.charged_answers import COMPLETIONS, ESTIMATE, GENERATING, OUTPUT_EVENTS, Api
from tests.proxy.conftest import error_of, key, post, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host, parts
from tests.proxy.peers.test_hops import until_idle
from tests.proxy.scripted import (
    DONE,
    STREAM_HEAD,
    Received,
    Step,
    answer,
    chunk,
    completion,
    plays,
    text_event,
)
from tests.proxy.test_charges import asking, begun, report, until_third
from tests.proxy.virtual import RawClient, settled, virtual_time

pytestmark = virtual_time


def limits(host: Host, **changes: Any) -> None:
    state = host.proxy.state
    state.options = dataclasses.replace(state.options, **changes)


@pytest.mark.parametrize("begins", [True, False])
async def test_the_owner_finds_out_that_its_engine_is_silent(make: Make, begins: bool) -> None:
    head: list[Step] = [STREAM_HEAD, chunk(text_event("a"))] if begins else []
    a, b, _ = await make.pair(plays(*head, "hold"))
    name = "between_tokens_timeout" if begins else "first_token_timeout"
    limits(a, **{f"{name}_seconds": 10.0})
    limits(b, **{f"{name}_seconds": 10.1})
    answered = await a.proxy.complete(stream=True)
    assert f"upstream_{name}" in answered.text
    assert b.proxy.state.metrics.upstream_failures == {("m-1", name): 1}
    await until_idle([a, b])


async def test_an_engine_that_holds_its_output_back_is_not_silent(make: Make) -> None:
    hidden: list[Step] = [chunk(text_event("")), 6.0] * 4
    a, b, _ = await make.pair(plays(STREAM_HEAD, *hidden, chunk(text_event("a")), chunk(DONE)))
    for one in (a, b):
        limits(one, first_token_timeout_seconds=10.0)
    answered = await a.proxy.complete(stream=True)
    assert (answered.status_code, answered.text.count("data: {")) == (200, 5)
    await until_idle([a, b])


async def test_what_is_learned_of_one_host_says_nothing_of_another(make: Make) -> None:
    """And how long a context may be, the table says and no peer."""
    slow = await make.engine(plays(20.0, *answer(completion())), "slow")
    quick = await make.engine(plays(2.0, *answer(completion())), "quick")
    routes = [
        replica(slow, "m-1", max_sequences=1, max_model_len=2048),
        replica(quick, "m-2", max_sequences=1, max_model_len=4096),
    ]
    hosts = a, *_ = await make.hosts(table(*routes), {"a": [], "b": ["m-1"], "c": ["m-2"]})
    assert {(await one).status_code for one in [a.proxy.ask() for _ in range(2)]} == {200}
    model = a.proxy.state.models["m"]
    assert model.tokens_per_s("m-1", "b") < model.tokens_per_s("m-2", "c")
    assert model.max_model_len == 4096
    await until_idle(hosts)


async def test_the_entry_finds_out_that_its_client_does_not_read(make: Make) -> None:
    filler = chunk(text_event("x" * 60_000))
    a, b, _ = await make.pair(plays(STREAM_HEAD, *[filler] * 1000))
    limits(a, client_timeout_seconds=0.4)
    limits(b, client_timeout_seconds=0.2)
    client = await RawClient.to(a.proxy.port, limit=1024)
    client.send(post({"model": "m", "prompt": "flood", "stream": True}))
    await a.proxy.until(lambda: bool(a.proxy.exchanges()))
    await until_idle([a, b])
    lines = "".join([*a.proxy.log_lines, *b.proxy.log_lines])
    assert "client_stalled" in lines
    assert "internal_error" not in lines


async def test_where_all_hosts_of_a_model_are_gone_for_long_nobody_waits(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, _ = await make.pair()
    monkeypatch.setattr("partitiond.proxy.peers.known.LEARN_SECONDS", 600.0)
    b.server.close()
    await a.proxy.until(lambda: not a.heard())
    await asyncio.sleep(2 * RETURN_SECONDS)
    asked = a.proxy.ask()
    await settled()
    assert asked.done()
    assert error_of(asked.result()) == (503, "model_on_other_host")


@pytest.mark.parametrize("api", GENERATING)
async def test_who_loses_a_host_in_a_stream_pays_once_what_was_seen(make: Make, api: Api) -> None:
    a, b, _ = await make.pair(plays(*begun(api, "hold")), route={"keys": (key(),)}, max_model_len=0)
    async with asking(a.proxy, api, streams=True) as reader:
        await until_third(reader)
        b.reset()
        await until_idle([a, b])
    assert sum(report(a.proxy)) == api.prompt_of_a_part() + OUTPUT_EVENTS
    assert not b.proxy.state.traffic()["usage"], "the entry counts"


async def test_who_leaves_a_whole_answer_pays_for_what_the_engine_did(make: Make) -> None:
    """The budget at the entry, and the turn in the queue at the owner."""
    a, b, engine = await make.pair(plays("hold"), route={"keys": (key(),)}, max_model_len=0)
    asks = dataclasses.replace(COMPLETIONS, body={**COMPLETIONS.body, "max_tokens": 4000})
    async with asking(a.proxy, asks, streams=False) as reader:
        await engine.got(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 20)
    await until_idle([a, b])
    done = FIRST_TOKENS_PER_S * 20
    assert report(a.proxy) == pytest.approx((ESTIMATE, done), rel=0.01)
    turn = b.proxy.state.models["m"].slots.queue._keys._accounts["k1"].tag
    assert turn == pytest.approx(ESTIMATE + done, rel=0.01)


# A request that kills an engine of one host is carried to no engine of another


QUARANTINED = (422, "request_quarantined")


async def send(host: Host) -> tuple[int, str]:
    return error_of(await host.proxy.complete(prompt="the suspect"))


async def test_what_killed_an_engine_is_carried_to_no_other_host_by_any_that_heard_of_it(
    make: Make,
) -> None:
    def dies(_: Received) -> list[Step]:
        engine.path.unlink()
        return ["reset"]

    engine, second, third = [await make.engine(name=f"e{n}") for n in range(3)]
    engine.script = dies
    one, two, three = replica(engine), replica(second, "m-2"), replica(third, "m-3")
    owners = {"m-1": "b", "m-2": "b", "m-3": "c"}
    alone = table(one, replica(third, "m-3", draining=True))
    hosts = a, b, _, d = await make.hosts(alone, {"a": [], "b": ["m-1"], "c": ["m-3"], "d": []})
    killed = asyncio.create_task(send(a))
    await engine.got(1)
    parts(table(one, three, version=2), hosts, owners)
    assert await killed == QUARANTINED
    await a.proxy.until(lambda: a.serving("m") == {"c"})
    assert await send(a) == QUARANTINED  # by its entry: only c has a replica now
    parts(table(two, version=3), hosts, owners)
    await d.proxy.until(lambda: d.serving("m") == {"b"})
    assert await send(d) == QUARANTINED  # by b, which remembers
    parts(table(three, version=4), hosts, owners)
    await d.proxy.until(lambda: d.serving("m") == {"c"})
    assert await send(d) == QUARANTINED  # by d, which has heard it
    assert second.received == third.received == []
    assert (await d.proxy.complete()).status_code == 200  # others are served there
    await until_idle([a, b, d])

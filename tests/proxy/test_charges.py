"""Keys are charged over HTTP by route and by the request's end, in all token counts."""

import asyncio
import contextlib
import dataclasses
import hashlib
import math
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from partitiond.core.dispatch.routing import KeyRates, KeyRoute
from partitiond.proxy.config import ProxyOptions
from tests.proxy.charged_answers import (
    BATCH,
    CHATS,
    COMPLETIONS,
    ESTIMATE,
    FORGED,
    GENERATING,
    LIMIT,
    MESSAGES,
    OUTPUT_EVENTS,
    POOLING,
    RESPONSES,
    TOLD_OUTPUT,
    TOLD_PROMPT,
    Api,
    packed,
    response,
)
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.scripted import (
    DONE,
    STREAM_HEAD,
    Received,
    ScriptedEngine,
    Step,
    answer,
    chunk,
    stream,
    text_event,
)

PLENTY: Final = 1_000_000
RATES: Final = KeyRates(tokens_per_minute=PLENTY, token_budget=PLENTY)
WHOLE: Final = (*GENERATING, BATCH, *POOLING)
WAYS: Final = [(api, True) for api in GENERATING] + [(api, False) for api in WHOLE]
STREAMS: Final = [api for api in GENERATING if api.begin]
by_way = pytest.mark.parametrize(
    ("api", "streams"),
    WAYS,
    ids=[f"{api.path.strip('/')}-{'stream' if streams else 'whole'}" for api, streams in WAYS],
)
by_stream = pytest.mark.parametrize("api", STREAMS, ids=[api.path.strip("/") for api in STREAMS])


def key(name: str = "k1", rates: KeyRates = RATES) -> KeyRoute:
    return KeyRoute(name, hashlib.sha256(name.encode()).hexdigest(), rates=rates)


def freeze_bucket(proxy: Proxy, name: str = "k1") -> None:
    """The bucket of tokens a minute fills no more, so that its level tells exact tokens."""
    proxy.state.accounts._meters[name]._tokens.at = math.inf


async def started(
    make_proxy: MakeProxy,
    make_engine: MakeEngine,
    *steps: Step,
    **options: Any,
) -> tuple[Proxy, ScriptedEngine]:
    engine = await make_engine(lambda _: list(steps))
    proxy = await make_proxy(
        table(replica(engine, max_model_len=0), keys=(key(), key("k2")), **options),
        retry_share=1.0,
    )
    freeze_bucket(proxy)
    return proxy, engine


def set_options(proxy: Proxy, **changes: Any) -> None:
    """Later, so that a slow machine does not run into a limit before its time."""
    known: ProxyOptions = proxy.state.options
    proxy.state.options = dataclasses.replace(known, **changes)


def charged(proxy: Proxy, name: str = "k1") -> dict[str, float]:
    """What each book says that the key used."""
    meter = proxy.state.accounts._meters[name]
    uses = proxy.state.accounts.uses()[name]
    share = proxy.state.models["m"].slots.queue._keys._accounts.get(name)
    told = proxy.state.traffic()["usage"].get(name, {}).get("m", {})
    return {
        "budget": meter.usage.budget_tokens,
        "row": meter.usage.tokens,
        "bucket": PLENTY - meter._tokens.level,
        "counted": uses["tokens"],
        "queue": 0.0 if share is None else max(0.0, share.tag),
        "report": told.get("prompt_tokens", 0) + told.get("output_tokens", 0),
    }


def everywhere(tokens: float) -> dict[str, float]:
    books = ("budget", "row", "bucket", "counted", "queue", "report")
    return dict.fromkeys(books, tokens)


def report(proxy: Proxy, name: str = "k1") -> tuple[int, int]:
    told = proxy.state.traffic()["usage"][name]["m"]
    return told["prompt_tokens"], told["output_tokens"]


async def ask(proxy: Proxy, api: Api, *, streams: bool, name: str = "k1") -> int:
    """Its status, once all of the answer is there."""
    async with proxy.client as client:
        reply = await client.post(
            api.path,
            content=api.request(stream=streams),
            headers={"authorization": f"Bearer {name}", "content-type": "application/json"},
        )
    return reply.status_code


@contextlib.asynccontextmanager
async def asking(
    proxy: Proxy, api: Api, *, streams: bool, name: str = "k1"
) -> AsyncIterator[asyncio.StreamReader]:
    """A client that leaves without a word at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    body = api.request(stream=streams)
    head = (
        f"POST {api.path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {name}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    try:
        yield reader
    finally:
        writer.transport.abort()
    await proxy.until(lambda: all(one.record.key_id != name for one in proxy.exchanges()))


def begun(api: Api, *more: Step) -> list[Step]:
    """Three events with output, and what follows."""
    return [STREAM_HEAD, *map(chunk, api.begin), *more]


async def until_third(reader: asyncio.StreamReader) -> None:
    await reader.readuntil(b"three")


@by_way
async def test_an_answer_costs_what_its_engine_tells(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api, streams: bool
) -> None:
    whole = api.answered(told=True)
    steps = stream(*api.begin, *api.told, *api.end) if streams else whole
    proxy, _ = await started(make_proxy, make_engine, *steps)
    assert await ask(proxy, api, streams=streams) == 200
    output = TOLD_OUTPUT if api.generates else 0
    assert charged(proxy) == everywhere(TOLD_PROMPT + output)
    assert report(proxy) == (TOLD_PROMPT, output)
    assert proxy.state.metrics.model("m").untold == 0


@by_way
async def test_an_answer_without_usage_costs_its_limit(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api, streams: bool
) -> None:
    end = api.end or (api.told[0].replace(b'"usage":{', b'"not":{'),) if streams else ()
    steps = stream(*api.begin, *end) if streams else api.answered(told=False)
    proxy, _ = await started(make_proxy, make_engine, *steps)
    assert await ask(proxy, api, streams=streams) == 200
    assert charged(proxy) == everywhere(ESTIMATE + api.limit)
    assert report(proxy) == (ESTIMATE, api.limit)
    assert b'partitiond_proxy_untold_total{model="m"} 1.0' in proxy.state.metrics.text()


async def test_an_answer_without_usage_costs_what_was_seen_beyond_its_limit(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    steps = stream(*[text_event("x")] * (LIMIT + 5), DONE)
    proxy, _ = await started(make_proxy, make_engine, *steps)
    assert await ask(proxy, COMPLETIONS, streams=True) == 200
    assert charged(proxy) == everywhere(ESTIMATE + LIMIT + 5)


async def test_an_answer_without_usage_costs_the_limit_of_each_choice(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    proxy, _ = await started(make_proxy, make_engine, *COMPLETIONS.answered(told=False))
    twice = dataclasses.replace(COMPLETIONS, body={**COMPLETIONS.body, "n": 3})
    assert await ask(proxy, twice, streams=False) == 200
    assert charged(proxy) == everywhere(ESTIMATE + 3 * LIMIT)


@by_way
async def test_who_leaves_before_the_first_token_pays_the_prompt(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api, streams: bool
) -> None:
    proxy, engine = await started(make_proxy, make_engine, "hold")
    async with asking(proxy, api, streams=streams):
        await engine.until(lambda: len(engine.received) == 1)
    assert charged(proxy) == everywhere(ESTIMATE)


@by_stream
async def test_who_leaves_in_the_middle_pays_what_was_seen(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api
) -> None:
    """Only events with output count: neither roles nor the begin or end of a block."""
    proxy, _ = await started(make_proxy, make_engine, *begun(api, "hold"))
    async with asking(proxy, api, streams=True) as reader:
        await until_third(reader)
    prompt = api.prompt_of_a_part()
    assert charged(proxy) == everywhere(prompt + OUTPUT_EVENTS)
    assert report(proxy) == (prompt, OUTPUT_EVENTS)


@pytest.mark.parametrize("api", [COMPLETIONS, CHATS], ids=["completions", "chats"])
async def test_who_asks_for_larger_events_pays_for_what_they_hold(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api
) -> None:
    """The first one comes with the first token, whatever was asked."""
    proxy, _ = await started(make_proxy, make_engine, *begun(api, "hold"))
    large = dataclasses.replace(api, body={**api.body, "stream_interval": 7})
    async with asking(proxy, large, streams=True) as reader:
        await until_third(reader)
    assert charged(proxy) == everywhere(ESTIMATE + 1 + 2 * 7)


@by_stream
async def test_what_is_relayed_without_a_look_is_seen_too(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api
) -> None:
    """Plain output that comes by itself goes straight to the client's transport."""
    words = (b"one", b"two", b"three")
    first, second, third = (next(e for e in api.begin if word in e) for word in words)
    begin = map(chunk, api.begin[: api.begin.index(first) + 1])
    go_on = [asyncio.Event(), asyncio.Event()]
    steps: list[Step] = [
        STREAM_HEAD,
        *begin,
        go_on[0],
        chunk(second),
        go_on[1],
        chunk(third),
        "hold",
    ]
    proxy, _ = await started(make_proxy, make_engine, *steps)
    async with asking(proxy, api, streams=True) as reader:
        await reader.readuntil(words[0])
        for gate, word in zip(go_on, words[1:], strict=True):
            gate.set()
            await reader.readuntil(word)
        (exchange,) = proxy.exchanges()
        attempt = exchange._attempt
        assert attempt is not None
        assert attempt._connection is not None
        assert attempt._connection.fast_pieces == 2
    assert charged(proxy) == everywhere(api.prompt_of_a_part() + OUTPUT_EVENTS)


@pytest.mark.parametrize("api", [MESSAGES, RESPONSES])
async def test_the_end_of_a_block_costs_nothing_when_it_comes_alone(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api
) -> None:
    """Then nothing else makes the proxy look at it."""
    go_on = asyncio.Event()
    *output, end = map(chunk, api.begin)
    proxy, _ = await started(make_proxy, make_engine, STREAM_HEAD, *output, go_on, end, "hold")
    async with asking(proxy, api, streams=True) as reader:
        await until_third(reader)
        go_on.set()
        await reader.readuntil(end.partition(b"\n")[2])
    assert charged(proxy) == everywhere(api.prompt_of_a_part() + OUTPUT_EVENTS)


@by_way
async def test_who_leaves_the_queue_pays_nothing(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api, streams: bool
) -> None:
    proxy, engine = await started(make_proxy, make_engine, "hold")
    proxy.owner.models["m"].replicas["m-1"].max_sequences = 1
    async with asking(proxy, COMPLETIONS, streams=True, name="k2"):
        await engine.until(lambda: len(engine.received) == 1)
        async with asking(proxy, api, streams=streams):
            await proxy.until(lambda: proxy.owner.queues()["m"] == 1)
        assert charged(proxy) == everywhere(0)


@by_way
async def test_whose_time_in_the_queue_runs_out_pays_nothing(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api, streams: bool
) -> None:
    proxy, engine = await started(make_proxy, make_engine, "hold", max_wait_seconds=0.02)
    proxy.owner.models["m"].replicas["m-1"].max_sequences = 1
    slots = proxy.owner.models["m"].slots
    slots.service = dataclasses.replace(slots.service, seconds=1e-6)
    async with asking(proxy, COMPLETIONS, streams=True, name="k2"):
        await engine.until(lambda: len(engine.received) == 1)
        async with asking(proxy, api, streams=streams) as reader:
            assert b" 429 " in await reader.readline()
        assert b'reason="queue_timeout"' in proxy.state.metrics.text()
        assert charged(proxy) == everywhere(0)


@by_way
async def test_who_waits_too_long_for_an_engine_pays_the_prompt(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api, streams: bool
) -> None:
    proxy, engine = await started(make_proxy, make_engine, "hold")
    async with asking(proxy, api, streams=streams) as reader:
        await engine.until(lambda: len(engine.received) == 1)
        if streams:
            set_options(proxy, first_token_timeout_seconds=0.0)
        else:
            (exchange,) = proxy.exchanges()
            exchange._deadline = 0.0
        assert b" 504 " in await reader.readline()
    assert charged(proxy) == everywhere(ESTIMATE)


@by_stream
async def test_a_stream_that_stands_still_costs_what_was_seen(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api
) -> None:
    proxy, _ = await started(make_proxy, make_engine, *begun(api, "hold"))
    async with asking(proxy, api, streams=True) as reader:
        await until_third(reader)
        set_options(proxy, between_tokens_timeout_seconds=0.0)
        await reader.readuntil(b"upstream_between_tokens_timeout")
    assert charged(proxy) == everywhere(api.prompt_of_a_part() + OUTPUT_EVENTS)


async def test_a_client_that_takes_nothing_pays_what_was_sent_to_it(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    flood = [chunk(text_event("x" * 60_000))] * 400
    proxy, _ = await started(make_proxy, make_engine, STREAM_HEAD, *flood, "hold")
    async with asking(proxy, COMPLETIONS, streams=True):
        await proxy.until(lambda: any(flight.paused for flight in proxy.exchanges()))
        set_options(proxy, client_timeout_seconds=0.0)
        await proxy.until(lambda: not proxy.state.flights)
    books = charged(proxy)
    assert set(books.values()) == {books["report"]}
    assert ESTIMATE < books["report"] < ESTIMATE + 400


@by_way
@pytest.mark.parametrize("death", ["close", "reset"])
async def test_an_engine_that_dies_at_once_costs_nothing(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api, streams: bool, death: str
) -> None:
    proxy, _ = await started(make_proxy, make_engine, death)
    assert await ask(proxy, api, streams=streams) == 502
    assert charged(proxy) == everywhere(0)


@by_stream
@pytest.mark.parametrize("how", ["close", "error"])
async def test_a_stream_that_breaks_costs_what_was_seen(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api, how: str
) -> None:
    last: Step = "close" if how == "close" else chunk(api.error)
    proxy, _ = await started(make_proxy, make_engine, *begun(api, last))
    assert await ask(proxy, api, streams=True) == 200
    assert charged(proxy) == everywhere(api.prompt_of_a_part() + OUTPUT_EVENTS)


@by_way
async def test_a_bug_of_the_proxys_costs_nothing(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api, streams: bool
) -> None:
    proxy, engine = await started(make_proxy, make_engine, "hold")
    async with asking(proxy, api, streams=streams) as reader:
        await engine.until(lambda: len(engine.received) == 1)
        (exchange,) = proxy.exchanges()
        try:
            raise RuntimeError("a bug")
        except RuntimeError:
            exchange.crashed()
        assert b" 500 " in await reader.readline()
    assert charged(proxy) == everywhere(0)


@by_way
async def test_the_end_of_the_proxy_costs_what_was_seen(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api, streams: bool
) -> None:
    """A whole answer had not reached anybody; of a stream its beginning had."""
    proxy, engine = await started(
        make_proxy, make_engine, *begun(api, "hold") if streams else ["hold"]
    )
    async with asking(proxy, api, streams=streams) as reader:
        await engine.until(lambda: len(engine.received) == 1)
        if streams:
            await until_third(reader)
        await proxy.state.drain(0.0)
    paid = api.prompt_of_a_part() + OUTPUT_EVENTS if streams else 0
    assert charged(proxy) == everywhere(paid)


@by_way
async def test_what_the_engine_refuses_costs_nothing(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api, streams: bool
) -> None:
    error = {"error": {"message": "no", "type": "BadRequestError", "code": 400}}
    proxy, _ = await started(make_proxy, make_engine, *answer(error, 400, "Bad Request"))
    assert await ask(proxy, api, streams=streams) == 400
    assert charged(proxy) == everywhere(0)


@by_way
async def test_a_request_that_is_tried_twice_is_paid_once(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api, streams: bool
) -> None:
    tries: list[Received] = []
    whole = api.answered(told=True)
    good = stream(*api.begin, *api.told, *api.end) if streams else whole

    def dies_first(request: Received) -> list[Step]:
        tries.append(request)
        return good if len(tries) > 1 else ["close"]

    first, second = await make_engine(dies_first, "e1"), await make_engine(dies_first, "e2")
    routes = (replica(first, "m-1"), replica(second, "m-2"))
    proxy = await make_proxy(table(*routes, keys=(key(),)), retry_share=1.0)
    freeze_bucket(proxy)
    assert await ask(proxy, api, streams=streams) == 200
    assert len(tries) == 2
    assert charged(proxy) == everywhere(TOLD_PROMPT + (TOLD_OUTPUT if api.generates else 0))


@pytest.mark.parametrize(
    "rates", [KeyRates(token_budget=60), KeyRates(tokens_per_minute=60)], ids=["budget", "rate"]
)
async def test_what_runs_is_reserved_by_estimate(
    make_proxy: MakeProxy, make_engine: MakeEngine, rates: KeyRates
) -> None:
    """30 tokens of prompt and 20 of output fit into 60 once, and not twice at once."""
    engine = await make_engine(lambda _: ["hold"])
    proxy = await make_proxy(table(replica(engine), keys=(key(rates=rates), key("k2"))))
    freeze_bucket(proxy)
    async with asking(proxy, COMPLETIONS, streams=False):
        await engine.until(lambda: len(engine.received) == 1)
        assert proxy.state.accounts._meters["k1"].usage.tokens == ESTIMATE + LIMIT
        assert proxy.state.models["m"].slots.queue._keys._accounts["k1"].tag == ESTIMATE + LIMIT
        assert await ask(proxy, COMPLETIONS, streams=False) == 429
        assert len(engine.received) == 1


async def test_counting_tokens_is_free_and_not_untold(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 5}
    counted = answer({"tokens": [1], "count": 1, "usage": usage})
    proxy, _ = await started(make_proxy, make_engine, *counted)
    assert await ask(proxy, Api("/tokenize", {"prompt": "hi"}, {}, {}), streams=False) == 200
    assert charged(proxy) == everywhere(0)
    metrics = proxy.state.metrics.model("m")
    assert (metrics.untold, metrics.prompt_tokens, metrics.output_tokens) == (0, 0, 0)


async def test_a_long_answer_around_its_usage_hides_nothing(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    usage = {"prompt_tokens": 9000, "completion_tokens": 500}
    choices = [{"index": 0, "message": {"content": "x"}, "token_ids": list(range(500))}]
    body = {"id": "c", "choices": choices, "usage": usage, "prompt_token_ids": list(range(9000))}
    proxy, _ = await started(make_proxy, make_engine, *answer(body))
    assert await ask(proxy, CHATS, streams=False) == 200
    assert charged(proxy) == everywhere(9500)


async def test_usage_in_what_a_client_wrote_is_not_usage(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    usage = {"input_tokens": 5000, "output_tokens": 30}
    body = {"id": "r", "usage": usage, **response(user="u" * 3000), "metadata": FORGED}
    proxy, _ = await started(make_proxy, make_engine, *answer(packed(body).encode()))
    assert await ask(proxy, RESPONSES, streams=False) == 200
    assert charged(proxy) == everywhere(5030)


async def test_a_cached_prompt_costs_what_any_other_costs(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    usage = {
        "input_tokens": 1, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 10,
        "output_tokens": 7,
    }  # fmt: skip
    proxy, _ = await started(make_proxy, make_engine, *answer({**MESSAGES.whole, "usage": usage}))
    assert await ask(proxy, MESSAGES, streams=False) == 200
    assert report(proxy) == (41, 7)

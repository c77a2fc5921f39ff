"""Keys are charged over HTTP by route and by the request's end, in all token counts."""

import asyncio
import contextlib
import dataclasses
import hashlib
import math
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest

from partitiond.core.dispatch.routing import KeyRates, KeyRoute
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
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, post, replica, table
from tests.proxy.scripted import (
    DONE,
    STREAM_HEAD,
    Received,
    ScriptedEngine,
    Step,
    answer,
    chunk,
    plays,
    stream,
    text_event,
)
from tests.proxy.virtual import RawClient

PLENTY: Final = 1_000_000
RATES: Final = KeyRates(tokens_per_minute=PLENTY, token_budget=PLENTY)
WHOLE: Final = (*GENERATING, BATCH, *POOLING)
STREAMS: Final = [api for api in GENERATING if api.begin]
WAYS: Final = [(api, True) for api in STREAMS] + [(api, False) for api in WHOLE]
by_stream = pytest.mark.parametrize("api", STREAMS, ids=[api.path.strip("/") for api in STREAMS])


def key(name: str = "k1", rates: KeyRates = RATES) -> KeyRoute:
    return KeyRoute(name, hashlib.sha256(name.encode()).hexdigest(), rates=rates)


def freeze_bucket(proxy: Proxy, name: str = "k1") -> None:
    """The bucket of tokens a minute fills no more, so that its level tells exact tokens."""
    proxy.state.accounts._meters[name]._tokens.at = math.inf


async def started(
    make_proxy: MakeProxy, make_engine: MakeEngine, *steps: Step, **options: Any
) -> tuple[Proxy, ScriptedEngine]:
    engine = await make_engine(lambda _: list(steps))
    routes = table(replica(engine, max_model_len=0), keys=(key(), key("k2")))
    proxy = await make_proxy(routes, retry_share=1.0, **options)
    freeze_bucket(proxy)
    return proxy, engine


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


@contextlib.asynccontextmanager
async def asking(
    proxy: Proxy, api: Api, *, streams: bool, name: str = "k1"
) -> AsyncIterator[asyncio.StreamReader]:
    """A client that leaves without a word at the end."""
    client = await RawClient.to(proxy.port)
    client.send(post(api.request(stream=streams), api.path, key=name))
    try:
        yield client.reader
    finally:
        client.leave()
    await proxy.until(lambda: all(one.record.key_id != name for one in proxy.exchanges()))


async def ask(proxy: Proxy, api: Api, *, streams: bool, name: str = "k1") -> int:
    """Its status, once all of the answer is there."""
    headers = {"authorization": f"Bearer {name}", "content-type": "application/json"}
    async with proxy.client as client:
        body = api.request(stream=streams)
        return (await client.post(api.path, content=body, headers=headers)).status_code


def begun(api: Api, *more: Step) -> list[Step]:
    """Three events with output, and what follows."""
    return [STREAM_HEAD, *map(chunk, api.begin), *more]


async def until_third(reader: asyncio.StreamReader) -> None:
    await reader.readuntil(b"three")


# One request by each way and with each end


def told(api: Api, *, streams: bool) -> list[Step]:
    if streams:
        return stream(*api.begin, *api.told, *api.end)
    return api.answered(told=True)


def untold(api: Api, *, streams: bool) -> list[Step]:
    end = api.end or (api.told[0].replace(b'"usage":{', b'"not":{'),) if streams else ()
    return stream(*api.begin, *end) if streams else api.answered(told=False)


@dataclasses.dataclass(frozen=True)
class End:
    """How a request ends, and what it costs.

    Attributes:
        steps: of the engine.
        paid: tokens of prompt and output.
        status: of the answer, or 0 if the client leaves before it.
        act: what happens while it runs.
    """

    steps: Callable[..., list[Step]]
    paid: Callable[..., tuple[int, int]]
    status: int = 200
    act: str = ""


def nothing(_: Api, **__: bool) -> tuple[int, int]:
    return 0, 0


def the_prompt(_: Api, **__: bool) -> tuple[int, int]:
    return ESTIMATE, 0


def what_was_seen(api: Api, **__: bool) -> tuple[int, int]:
    """Only events with output count: neither roles nor the begin or end of a block."""
    return api.prompt_of_a_part(), OUTPUT_EVENTS


def always(*steps: Step) -> Callable[..., list[Step]]:
    return lambda _, **__: list(steps)


REFUSAL: Final = {"error": {"message": "no", "type": "BadRequestError", "code": 400}}
ENDS: Final = {
    "its engine tells what it cost": End(
        told, lambda api, **_: (TOLD_PROMPT, TOLD_OUTPUT if api.generates else 0)
    ),
    "no word of usage costs the limit": End(untold, lambda api, **_: (ESTIMATE, api.limit)),
    "the client leaves before the first token": End(always("hold"), the_prompt, 0, "leave"),
    "the engine takes too long": End(always("hold"), the_prompt, 504),
    "the engine closes at once": End(always("close"), nothing, 502),
    "the engine resets at once": End(always("reset"), nothing, 502),
    "the engine refuses": End(always(*answer(REFUSAL, 400, "Bad Request")), nothing, 400),
    "a bug of the proxy's": End(always("hold"), nothing, 500, "bug"),
    "the proxy ends before the answer": End(always("hold"), nothing, 503, "drain"),
}
ENDS_OF_STREAMS: Final = {
    "the client leaves in the middle": End(
        lambda api, **_: begun(api, "hold"), what_was_seen, 200, "leave"
    ),
    "it stands still": End(lambda api, **_: begun(api, "hold"), what_was_seen),
    "the engine closes in the middle": End(lambda api, **_: begun(api, "close"), what_was_seen),
    "an error event": End(lambda api, **_: begun(api, chunk(api.error)), what_was_seen),
    "the proxy ends in the middle": End(
        lambda api, **_: begun(api, "hold"), what_was_seen, 200, "drain"
    ),
}
EVERY_WAY: Final = [
    *[(name, end, WAYS) for name, end in ENDS.items()],
    *[(name, end, WAYS[: len(STREAMS)]) for name, end in ENDS_OF_STREAMS.items()],
]


@pytest.mark.parametrize(("end", "ways"), [row[1:] for row in EVERY_WAY],
                         ids=[row[0] for row in EVERY_WAY])  # fmt: skip
async def test_each_end_has_its_price_in_all_books(
    make_proxy: MakeProxy, make_engine: MakeEngine, end: End, ways: list[tuple[Api, bool]]
) -> None:
    """A whole answer that did not end had reached nobody; of a stream its beginning had."""
    wrong = {}
    for number, (api, streams) in enumerate(ways):
        name = f"k{number}"  # its budget is kept on the disk
        engine = await make_engine(plays(*end.steps(api, streams=streams)), f"e{number}")
        proxy = await make_proxy(
            table(replica(engine, max_model_len=0), keys=(key(name),)),
            retry_share=1.0, first_token_timeout_seconds=20.0,
            between_tokens_timeout_seconds=20.0, total_timeout_seconds=60.0,
        )  # fmt: skip
        freeze_bucket(proxy, name)
        async with asking(proxy, api, streams=streams, name=name) as reader:
            status = await ended(proxy, engine, end, reader, streams=streams)
        paid = end.paid(api, streams=streams)
        books = charged(proxy, name), status, sum(paid) and report(proxy, name)
        if books != (everywhere(sum(paid)), end.status, sum(paid) and paid):
            wrong[api.path, streams] = books
        assert proxy.state.metrics.model("m").untold == (end.steps is untold)
    assert not wrong


async def ended(
    proxy: Proxy, engine: ScriptedEngine, end: End, reader: asyncio.StreamReader, *, streams: bool
) -> int:
    """Let come what ends a request. Returns the status of its answer."""
    await engine.got(1)
    status = 0
    if end.status == 200:
        status = int((await reader.readline()).split()[1])
        if streams:
            await until_third(reader)
    if end.act == "leave":
        return status
    if end.act == "drain":
        await proxy.state.drain(0.0)
    if end.act == "bug":
        (exchange,) = proxy.exchanges()
        try:
            raise RuntimeError("a bug")
        except RuntimeError:
            exchange.crashed()
    status = status or int((await reader.readline()).split()[1])
    await proxy.until(lambda: not proxy.state.flights)
    return status


async def test_an_answer_without_usage_is_told_of(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    proxy, _ = await started(make_proxy, make_engine, *untold(CHATS, streams=True))
    assert await ask(proxy, CHATS, streams=True) == 200
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
    rest: list[Step] = [go_on[0], chunk(second), go_on[1], chunk(third), "hold"]
    proxy, _ = await started(make_proxy, make_engine, STREAM_HEAD, *begin, *rest)
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


async def test_who_gets_no_place_pays_nothing(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    """Neither who leaves the queue nor whose time in it runs out."""
    proxy, engine = await started(make_proxy, make_engine, "hold", total_timeout_seconds=600.0)
    proxy.owner.models["m"].replicas["m-1"].max_sequences = 1
    slots = proxy.owner.models["m"].slots
    slots.service = dataclasses.replace(slots.service, seconds=1e-6)
    async with asking(proxy, COMPLETIONS, streams=False, name="k2"):
        await engine.got(1)
        for api, streams in WAYS:
            async with asking(proxy, api, streams=streams):
                await proxy.queued(1)
            assert charged(proxy) == everywhere(0)
            async with asking(proxy, api, streams=streams) as reader:
                assert b" 429 " in await reader.readline()
            assert charged(proxy) == everywhere(0)
    assert b'reason="queue_timeout"' in proxy.state.metrics.text()


async def test_a_client_that_takes_nothing_pays_what_was_sent_to_it(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    flood = [chunk(text_event("x" * 60_000))] * 400
    proxy, engine = await started(make_proxy, make_engine, STREAM_HEAD, *flood, "hold")
    async with asking(proxy, COMPLETIONS, streams=True):
        await engine.got(1)
        await proxy.until(lambda: not proxy.state.flights)
    books = charged(proxy)
    assert set(books.values()) == {books["report"]}
    assert ESTIMATE < books["report"] < ESTIMATE + 400


@by_stream
async def test_a_request_that_is_tried_twice_is_paid_once(
    make_proxy: MakeProxy, make_engine: MakeEngine, api: Api
) -> None:
    tries: list[Received] = []
    good = told(api, streams=True)

    def dies_first(request: Received) -> list[Step]:
        tries.append(request)
        return good if len(tries) > 1 else ["close"]

    first, second = await make_engine(dies_first, "e1"), await make_engine(dies_first, "e2")
    routes = (replica(first, "m-1"), replica(second, "m-2"))
    proxy = await make_proxy(table(*routes, keys=(key(),)), retry_share=1.0)
    freeze_bucket(proxy)
    assert await ask(proxy, api, streams=True) == 200
    assert len(tries) == 2
    assert charged(proxy) == everywhere(TOLD_PROMPT + TOLD_OUTPUT)


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

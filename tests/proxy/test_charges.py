"""Keys are charged over HTTP by route and by the request's end, in all token counts.

What an end costs `tests/core/keys/test_tokens_charged.py` says; here, that each is seen as it is.
"""

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import pytest

from partitiond.core.dispatch.estimates import FIRST_BYTES
from partitiond.core.dispatch.routing import KeyRates
from partitiond.core.keys.rates_and_budgets import KeyMeter
from partitiond.core.keys.tokens_charged import LONGEST_CONTEXT
from tests.proxy import charged_answers as apis
from tests.proxy.charged_answers import (
    ESTIMATE,
    LIMIT,
    OUTPUT_EVENTS,
    TOLD_OUTPUT,
    TOLD_PROMPT,
    Api,
)
from tests.proxy.conftest import Make, Proxy, key, post, replica, table
from tests.proxy.scripted import (
    DONE,
    STREAM_HEAD,
    Received,
    ScriptedEngine,
    Step,
    answer,
    chat_event,
    chunk,
    completion,
    event,
    plays,
    stream,
    text_event,
)
from tests.proxy.virtual import RawClient

PLENTY: Final = 1_000_000
RATES: Final = KeyRates(tokens_per_minute=PLENTY, token_budget=PLENTY)
STREAMS: Final = tuple((api, True) for api in apis.GENERATING)
WHOLE: Final = tuple((api, False) for api in (*apis.GENERATING, apis.BATCH, *apis.POOLING))
WAYS: Final = (*STREAMS, *WHOLE)


def meter_of(proxy: Proxy, name: str = "k1") -> KeyMeter:
    meter = proxy.state.accounts._accounts[name].meter
    assert meter is not None
    return meter


def freeze_bucket(proxy: Proxy, name: str = "k1") -> None:
    """The bucket of tokens a minute fills no more, so that its level tells exact tokens."""
    meter_of(proxy, name)._tokens.at = math.inf


async def started(make: Make, script: Any, **options: Any) -> tuple[Proxy, ScriptedEngine]:
    keys = key(rates=RATES), key("k2", rates=RATES)
    proxy, engine = await make.both(
        script, at={"max_model_len": 0}, route={"keys": keys}, retry_share=1.0, **options
    )
    freeze_bucket(proxy)
    return proxy, engine


def charged(proxy: Proxy, name: str = "k1") -> dict[str, float]:
    """What each book says that the key used."""
    meter = meter_of(proxy, name)
    share = proxy.state.models["m"].slots.queue._keys._accounts.get(name)
    return {
        "budget": meter.usage.budget_tokens,
        "row": meter.usage.tokens,
        "bucket": meter._sizes()[1] - meter._tokens.level,  # of its share
        "counted": proxy.state.accounts.uses()[name]["tokens"],
        "queue": 0.0 if share is None else max(0.0, share.tag),
        "report": sum(report(proxy, name)),
    }


def everywhere(tokens: float) -> dict[str, float]:
    books = ("budget", "row", "bucket", "counted", "queue", "report")
    return dict.fromkeys(books, tokens)


def report(proxy: Proxy, name: str = "k1") -> tuple[int, int]:
    told = proxy.state.traffic()["usage"].get(name, {}).get("m", {})
    return told.get("prompt_tokens", 0), told.get("output_tokens", 0)


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


async def status_of(proxy: Proxy, api: Api, *, streams: bool) -> int:
    """Once all of the answer is there."""
    headers = {"authorization": "Bearer k1", "content-type": "application/json"}
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
        steps: of the engine; in place of a function the same for all.
        paid: tokens of prompt and output, likewise.
        status: of the answer, or 0 if the client leaves before it.
        act: what happens while it runs.
        ways: APIs that are asked, and whether for streams.
    """

    steps: Callable[..., list[Step]] | list[Step]
    paid: Callable[[Api], tuple[int, int]] | tuple[int, int]
    status: int = 200
    act: str = ""
    ways: Sequence[tuple[Api, bool]] = STREAMS
    untold: bool = False


def told_price(api: Api) -> tuple[int, int]:
    return TOLD_PROMPT, TOLD_OUTPUT if api.generates else 0


def limit_price(api: Api) -> tuple[int, int]:
    return ESTIMATE, api.limit


def seen_price(api: Api) -> tuple[int, int]:
    """Only events with output count: neither roles nor the begin or end of a block."""
    return api.prompt_of_a_part(), OUTPUT_EVENTS


def stands(api: Api, **_: bool) -> list[Step]:
    return begun(api, "hold")


def closes(api: Api, **_: bool) -> list[Step]:
    return begun(api, "close")


def tells_an_error(api: Api, **_: bool) -> list[Step]:
    return begun(api, chunk(api.error))


def boasts(api: Api, *, streams: bool) -> list[Step]:
    lie = {"prompt_tokens": 2**39, "completion_tokens": 2**39}
    more = dataclasses.replace(api, usage=lie, told=(event({"choices": [], "usage": lie}),))
    return told(more, streams=streams)


FREE: Final = (0, 0)
MOST_BYTES: Final = 100_000
REFUSAL: Final = {"error": {"message": "no", "type": "BadRequestError", "code": 400}}
COUNTED: Final = {"tokens": [1], "usage": {"prompt_tokens": 5, "completion_tokens": 5}}
COUNTING: Final = Api("/tokenize", {"prompt": "hi"}, {}, {})
ENDS: Final = {
    "its engine tells what it cost": End(told, told_price, ways=WAYS),
    "no word of usage costs the limit": End(untold, limit_price, ways=WAYS, untold=True),
    "the client leaves before the first token": End(["hold"], (ESTIMATE, 0), 0, "leave", WAYS),
    "the engine takes too long": End(["hold"], (ESTIMATE, 0), 504, "", STREAMS),
    "the engine works too long": End(["hold"], limit_price, 504, "", WHOLE),
    "the engine closes at once": End(["close"], FREE, 502, "", WAYS),
    "the engine resets at once": End(["reset"], FREE, 502, "", WAYS),
    "the engine refuses": End(answer(REFUSAL, 400, "Bad Request"), FREE, 400, "", WAYS),
    "the answer is too large": End(
        answer(completion("x" * MOST_BYTES)), (ESTIMATE, 0), 400, "", WHOLE
    ),
    "a bug of the proxy's": End(["hold"], FREE, 500, "bug", WAYS),
    "the proxy ends before the answer": End(["hold"], FREE, 503, "drain", WAYS),
    "the client leaves in the middle": End(stands, seen_price, 200, "leave"),
    "it stands still": End(stands, seen_price),
    "the engine closes in the middle": End(closes, seen_price),
    "an error event": End(tells_an_error, seen_price),
    "the proxy ends in the middle": End(stands, seen_price, 200, "drain"),
    "no word of usage and more than the limit": End(
        stream(*[text_event("three")] * (LIMIT + 5), DONE), (ESTIMATE, LIMIT + 5), untold=True,
        ways=[(apis.COMPLETIONS, True)],
    ),
    **{f"one event of many tokens, read {how}, costs what it holds": End(
        [STREAM_HEAD, chunk(text_event("one")), gap, chunk(text_event("x" * 42 + "three")), "hold"],
        (ESTIMATE, int(0.3 * 50)), 200, "leave", [(apis.COMPLETIONS, True)],
    ) for how, gap in (("at once", b""), ("the fast way", 0.1))},
    "an echoed prompt is no output": End(
        [STREAM_HEAD, chunk(text_event("x" * 100 + "one")), *map(chunk, apis.COMPLETIONS.begin[1:]),
         "hold"],
        (ESTIMATE, OUTPUT_EVENTS), 200, "leave", [(apis.ECHO, True)],
    ),
    "more than any context holds": End(
        boasts, (LONGEST_CONTEXT, LONGEST_CONTEXT),
        ways=[(apis.COMPLETIONS, False), (apis.COMPLETIONS, True)],
    ),
    "counting tokens is free": End(answer(COUNTED), FREE, ways=[(COUNTING, False)]),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
async def test_each_end_has_its_price_in_all_books(make: Make, name: str) -> None:
    """A whole answer that did not end had reached nobody; of a stream its beginning had."""
    end, wrong = ENDS[name], {}
    for number, (api, streams) in enumerate(end.ways):
        who = f"k{number}"  # its budget is kept on the disk
        steps = end.steps(api, streams=streams) if callable(end.steps) else end.steps
        engine = await make.engine(plays(*steps), f"e{number}")
        proxy = await make.proxy(
            table(replica(engine, max_model_len=0), keys=(key(who, rates=RATES),)),
            retry_share=1.0, first_token_timeout_seconds=20.0,
            between_tokens_timeout_seconds=20.0, total_timeout_seconds=60.0,
            max_response_bytes=MOST_BYTES,
        )  # fmt: skip
        freeze_bucket(proxy, who)
        async with asking(proxy, api, streams=streams, name=who) as reader:
            status = await ended(proxy, engine, end, reader, streams=streams)
        paid = end.paid(api) if callable(end.paid) else end.paid
        books = charged(proxy, who), status, report(proxy, who)
        if books != (everywhere(sum(paid)), end.status, paid):
            wrong[api.path, streams] = books
        assert proxy.state.metrics.model("m").untold == end.untold
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
            exchange.on_bug()
    status = status or int((await reader.readline()).split()[1])
    await proxy.until(lambda: not proxy.state.exchanges)
    return status


@pytest.mark.parametrize("api", apis.GENERATING, ids=[api.path for api in apis.GENERATING])
async def test_what_is_relayed_without_a_look_is_seen_too(make: Make, api: Api) -> None:
    """Plain output that comes by itself goes straight to the client's transport.

    The end of a block, which costs nothing, comes alone as well: nothing else makes the proxy look.
    """
    words = (b"one", b"two", b"three")
    places = [next(n for n, e in enumerate(api.begin) if word in e) for word in words]
    gates = [asyncio.Event() for _ in range(3)]
    steps: list[Step] = [STREAM_HEAD, *map(chunk, api.begin[: places[0] + 1])]
    steps += [gates[0], chunk(api.begin[places[1]]), gates[1], chunk(api.begin[places[2]])]
    last = b"".join(api.begin[places[2] + 1 :])
    steps += [gates[2], *([chunk(last)] if last else []), "hold"]
    proxy, _ = await started(make, plays(*steps))
    async with asking(proxy, api, streams=True) as reader:
        await reader.readuntil(words[0])
        for gate, word in zip(gates, words[1:], strict=False):
            gate.set()
            await reader.readuntil(word)
        (exchange,) = proxy.exchanges()
        attempt = exchange.attempt
        assert attempt is not None
        assert attempt._connection is not None
        assert attempt._connection.fast_pieces == 2
        gates[2].set()
        if last:
            await reader.readuntil(last)
    assert charged(proxy) == everywhere(api.prompt_of_a_part() + OUTPUT_EVENTS)


async def test_output_that_is_held_back_costs_what_its_engine_did(make: Make) -> None:
    steps = STREAM_HEAD, chunk(chat_event({"role": "assistant", "content": ""})), "hold"
    proxy, _ = await started(make, plays(*steps))
    async with asking(proxy, apis.CHATS, streams=True):
        await asyncio.sleep(9.0)
    assert charged(proxy) == everywhere(ESTIMATE + LIMIT)


async def test_who_gets_no_place_pays_nothing(make: Make) -> None:
    """Neither who leaves the queue nor whose time in it runs out."""
    proxy, engine = await started(make, plays("hold"), total_timeout_seconds=600.0)
    proxy.owner.models["m"].replicas["m-1"].pace.limit = 1
    slots = proxy.owner.models["m"].slots
    slots.service = dataclasses.replace(slots.service, value=1e-6)
    async with asking(proxy, apis.COMPLETIONS, streams=False, name="k2"):
        await engine.got(1)
        for api, streams in WAYS:
            async with asking(proxy, api, streams=streams):
                await proxy.queued(1)
            assert charged(proxy) == everywhere(0)
            async with asking(proxy, api, streams=streams) as reader:
                assert b" 429 " in await reader.readline()
            assert charged(proxy) == everywhere(0)
    assert b'reason="queue_timeout"' in proxy.state.metrics.text()


async def test_a_client_that_takes_nothing_pays_what_was_sent_to_it(make: Make) -> None:
    flood = [chunk(text_event("x" * 60_000))] * 400
    proxy, engine = await started(make, plays(STREAM_HEAD, *flood, "hold"))
    async with asking(proxy, apis.COMPLETIONS, streams=True):
        await engine.got(1)
        await proxy.until(lambda: not proxy.state.exchanges)
    books = charged(proxy)
    assert set(books.values()) == {books["report"]}
    assert ESTIMATE < books["report"] < ESTIMATE + 400


async def test_a_request_that_is_tried_twice_is_paid_once(make: Make) -> None:
    tries: list[Received] = []

    def dies_first(request: Received) -> list[Step]:
        tries.append(request)
        return told(apis.CHATS, streams=True) if len(tries) > 1 else ["close"]

    engines = [await make.engine(dies_first, f"e{n}") for n in range(2)]
    routes = [replica(engine, f"m-{n}") for n, engine in enumerate(engines)]
    proxy = await make.proxy(table(*routes, keys=(key(rates=RATES),)), retry_share=1.0)
    freeze_bucket(proxy)
    assert await status_of(proxy, apis.CHATS, streams=True) == 200
    assert len(tries) == 2
    assert charged(proxy) == everywhere(TOLD_PROMPT + TOLD_OUTPUT)


@pytest.mark.parametrize("limit", ["token_budget", "tokens_per_minute"])
async def test_what_runs_is_reserved_by_estimate(make: Make, limit: str) -> None:
    """30 tokens of prompt and 20 of output fit into 60 once, and not twice at once."""
    rates = KeyRates(**{limit: 60})  # type: ignore[arg-type]
    proxy, engine = await make.both(plays("hold"), route={"keys": (key(rates=rates),)})
    freeze_bucket(proxy)
    async with asking(proxy, apis.COMPLETIONS, streams=False):
        await engine.got(1)
        assert meter_of(proxy).usage.tokens == ESTIMATE + LIMIT
        assert proxy.state.models["m"].slots.queue._keys._accounts["k1"].tag == ESTIMATE + LIMIT
        assert await status_of(proxy, apis.COMPLETIONS, streams=False) == 429
        assert len(engine.received) == 1


WORDS: Final = [text_event("word")] * 16
PROBABLE: Final = WORDS[0].replace(b'"logprobs":null', b'"logprobs":{"tokens":["word"]}')


@pytest.mark.parametrize(
    ("asked", "events", "text_bytes"),
    [
        ({}, WORDS, 64),
        ({}, [text_event("word" * 2)] * 8, 0),
        ({"echo": True}, [text_event("x" * 104), *WORDS[1:]], 0),
        ({"echo": True}, WORDS, 0),
        ({}, [PROBABLE] * 16, 64),
    ],
    ids=["a token each", "two each", "behind the prompt", "the prompt itself", "log probabilities"],
)
async def test_a_stream_teaches_what_its_text_has_in_tokens(
    make: Make, asked: dict[str, Any], events: list[bytes], text_bytes: int
) -> None:
    """Not by events that were merged, nor by text that may be the prompt."""
    end = event({"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 16}})
    proxy, _ = await started(make, plays(*stream(*events, end, DONE)))
    api = dataclasses.replace(apis.COMPLETIONS, body={**apis.COMPLETIONS.body, **asked})
    assert await status_of(proxy, api, streams=True) == 200
    found = proxy.state.models["m"].figures.of("k1").text
    assert found.weight == FIRST_BYTES + text_bytes
    assert found.value == pytest.approx((0.3 * FIRST_BYTES + text_bytes / 4) / found.weight)


@pytest.mark.parametrize(("path", "learns"), [("/v1/completions", False), ("/v1/embeddings", True)])
async def test_prompts_teach_the_speed_of_what_only_reads(
    make: Make, path: str, *, learns: bool
) -> None:
    """A generated answer may have no token; a replica that reads 5,000 a second writes none so."""
    usage = {"prompt_tokens": 5000, "completion_tokens": 0, "total_tokens": 5000}
    proxy, _ = await make.both(plays(1.0, *answer({**completion(), "usage": usage})))
    model = proxy.state.models["m"]
    before = model.tokens_per_s("m-1", "")
    async with proxy.client as client:
        assert (
            await client.post(path, json={"model": "m", "prompt": "x", "input": "x"})
        ).is_success
    assert (model.tokens_per_s("m-1", "") > before) is learns

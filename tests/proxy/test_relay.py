"""Faults of engines and clients lead to retries, honest ends, time limits and cancellation."""

import asyncio
import gc
import json
import time
from typing import Any

import pytest

from partitiond.proxy.engine.upstream import FINISH_SECONDS
from tests.proxy.charged_answers import named
from tests.proxy.conftest import Make, error_of, post, replica, table
from tests.proxy.scripted import (
    DONE,
    END,
    STREAM_HEAD,
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
from tests.proxy.virtual import RawClient, running_loop, settled

ENGINE_ERROR = event({"error": {"message": "oom", "type": "X", "param": None, "code": 500}})


def events_of(text: str) -> list[str]:
    """The events of a stream, each checked to be whole."""
    assert text.endswith("\n\n")
    events = text[:-2].split("\n\n")
    for item in events:
        assert item.startswith("data: ")
        if item != "data: [DONE]":
            json.loads(item[6:])
    return [item[6:] for item in events]


def error_event(text: str) -> dict[str, object]:
    """The error at the end of a stream: an error event, then [DONE], nothing after."""
    events = events_of(text)
    assert events[-1] == "[DONE]"
    assert events.count("[DONE]") == 1
    error = json.loads(events[-2])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


BEFORE_CONTENT: dict[str, list[Step]] = {
    "server error": answer({"error": "x"}, 500, "Internal Server Error"),
    "overloaded": answer({"error": "x"}, 503, "Service Unavailable"),
    "redirect to its own address": [
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://engine/v1/completions\r\n"
        b"content-length: 0\r\n\r\n"
    ],
    "unknown model there": answer({"error": "x"}, 404, "Not Found"),
    "role only": [STREAM_HEAD, chunk(chat_event({"role": "assistant", "content": ""})), "reset"],
    "garbage events": stream(b"hello world\n\n"),
    "unreadable event": stream(b"data: {nope\n\n"),
    "error event first": stream(ENGINE_ERROR, DONE),
    "only the end": stream(DONE),
    "json instead of a stream": answer(completion()),
}


@pytest.mark.parametrize("fault", list(BEFORE_CONTENT))
async def test_what_is_no_answer_is_retried_elsewhere_and_else_told(make: Make, fault: str) -> None:
    """Beside the faults of the connection, which `test_faults` walks through every phase."""
    bad, good = await make.engine(plays(*BEFORE_CONTENT[fault]), "bad"), await make.engine()
    first, second = replica(bad, "m-1", max_sequences=100), replica(good, "m-2", max_sequences=1)
    proxy = await make.proxy(table(first, second))
    # Each goes to the good one first with a chance of one in four: two draws, and it has less room.
    while not bad.received:
        assert "hel" in events_of(await proxy.stream_text())[0]
    proxy.state.apply(table(first, version=2))
    status, code = error_of(await proxy.complete(stream=True))
    assert (status, code.startswith("upstream_")) == (502, True)
    assert len(bad.received) == 2
    assert proxy.idle()


@pytest.mark.parametrize("first", [b"", text_event("hel")])
async def test_a_large_event_is_relayed_and_counted_like_a_large_answer(
    make: Make, *, first: bytes
) -> None:
    """Until it was sent on, and the client takes more."""
    go_on, last, large = asyncio.Event(), asyncio.Event(), text_event("x" * 3_000_000)
    rest: list[Step] = [large[2_000_000:], last, DONE] if first else [large[2_000_000:] + DONE]
    steps = stream(first + large[:2_000_000], go_on, *rest)
    proxy, _ = await make.both(plays(*steps), max_response_bytes=len(large), max_bodies_bytes=1)
    running = asyncio.create_task(proxy.stream_text())
    await proxy.until(lambda: proxy.state.answers.held == 2_000_000)
    refused = await proxy.stream_text()
    assert error_event(refused)["code"] == "answers_full" if first else "answers_full" in refused
    go_on.set()
    await settled()
    assert (proxy.state.answers.held >= 2_000_000) is bool(first)
    last.set()
    assert await running == (first + large + DONE).decode()
    assert (proxy.state.answers.held, proxy.idle()) == (0, True)


async def test_at_most_two_attempts_and_never_twice_the_same_replica(make: Make) -> None:
    engines = [await make.engine(plays("reset"), f"e{i}") for i in range(4)]
    proxy = await make.proxy(table(*(replica(e, f"m-{i}") for i, e in enumerate(engines))))
    assert (await proxy.complete()).status_code == 502
    assert sorted(len(e.received) for e in engines) == [0, 0, 1, 1]


BEGUN: list[Step] = [STREAM_HEAD, chunk(text_event("hel"))]
AFTER_CONTENT: dict[str, list[Step]] = {
    "an end without [DONE]": stream(text_event("hel"), text_event("lo", "stop")),
    "an endless event": stream(text_event("hel"), b"data: " + b"x" * 2_000_000),
}


@pytest.mark.parametrize("fault", list(AFTER_CONTENT))
async def test_a_fault_after_the_first_content_ends_with_an_error_event(
    make: Make, fault: str
) -> None:
    bad, good = await make.engine(plays(*AFTER_CONTENT[fault]), "bad"), await make.engine()
    proxy = await make.proxy(table(replica(bad, "m-1"), replica(good, "m-2", draining=True)))
    text = await proxy.stream_text()
    assert json.loads(events_of(text)[0])["choices"][0]["text"] == "hel"
    assert str(error_event(text)["code"]).startswith("upstream_")
    assert (len(bad.received), len(good.received)) == (1, 0)
    await proxy.until(lambda: len(proxy.log_lines) == 1)
    assert proxy.records()[0]["outcome"] == "failed"
    assert proxy.idle()


async def test_an_engines_own_error_event_goes_out_once_and_counts_as_failed(make: Make) -> None:
    proxy, _ = await make.both(plays(*stream(text_event("hel"), ENGINE_ERROR, DONE)))
    assert error_event(await proxy.stream_text())["message"] == "oom"
    assert proxy.records()[0]["outcome"] == "failed"


async def test_a_response_that_breaks_off_ends_as_the_one_that_began_failed(make: Make) -> None:
    begun = {"id": "resp-7", "object": "response", "status": "in_progress", "output": []}
    pieces = (
        named("response.created", {"response": begun}),
        named("response.output_text.delta", {"delta": "hel"}),
    )
    proxy, _ = await make.both(plays(*stream(*pieces)))
    text = (await proxy.complete("/v1/responses", input="hi", stream=True)).text
    *sent, last, after = text.split("\n\n")
    assert (len(sent), after) == (2, "")
    name, _, data = last.partition("\ndata: ")
    told = json.loads(data)
    assert (name, told["type"]) == ("event: response.failed", "response.failed")
    error = told["response"].pop("error")
    assert told["response"] == {**begun, "status": "failed"}
    assert error["code"].startswith("upstream_")


async def test_a_request_error_inside_a_stream_gets_its_status(make: Make) -> None:
    blame = event({"error": {"message": "too long", "type": "X", "param": None, "code": 400}})
    engine = await make.engine(plays(*stream(blame, DONE)))
    proxy = await make.proxy(table(replica(engine), replica(engine, "m-2")))
    response = await proxy.complete(stream=True)
    assert (response.status_code, response.json()["error"]["message"]) == (400, "too long")
    assert len(engine.received) == 1


async def test_usage_is_passed_on_and_learned_from(make: Make) -> None:
    usage = event({"choices": [], "usage": {"prompt_tokens": 400, "completion_tokens": 900}})
    proxy, _ = await make.both(plays(*stream(text_event("x"), usage, DONE)))
    model = proxy.state.models["m"]
    before = model.figures.of("").output.value
    asked = {"stream_options": {"include_usage": True}}
    assert "prompt_tokens" in await proxy.stream_text(prompt="x" * 100, **asked)
    assert "prompt_tokens" not in await proxy.stream_text(prompt="x" * 100)
    assert model.figures.of("").output.value > before
    assert model.figures.of("").prompt.value > 0.3


LIMITS = {"first_token": 10.0, "between_tokens": 20.0, "total": 60.0}


@pytest.mark.parametrize(
    ("steps", "limit", "after"),
    [
        ([STREAM_HEAD, "hold"], "first_token", 10),
        ([*BEGUN, 19.0, chunk(text_event("lo")), "hold"], "between_tokens", 39),
        # Slow but steady.
        ([*BEGUN, *[step for _ in range(9) for step in (19.0, BEGUN[1])]], "total", 60),
        (["hold"], "total", 60),  # of a whole answer
    ],
)
async def test_an_answer_ends_at_its_limits(
    make: Make, steps: list[Step], limit: str, after: float
) -> None:
    options: Any = {f"{name}_timeout_seconds": seconds for name, seconds in LIMITS.items()}
    proxy, engine = await make.both(plays(*steps), **options)
    whole = (steps, limit) == (["hold"], "total")
    began = time.monotonic()
    response = await proxy.complete(stream=not whole)
    assert time.monotonic() - began == pytest.approx(after, abs=1)
    code = f"upstream_{limit}_timeout"
    if whole or limit == "first_token":
        assert error_of(response) == (504, code)
    else:
        assert error_event(response.text)["code"] == code
    await engine.until(lambda: engine.open == 0)


async def test_a_request_leaves_nothing_for_the_garbage_collector(make: Make) -> None:
    """Whose turns would hold up all others."""
    proxy, _ = await make.both()
    client = await RawClient.to(proxy.port)
    for streams in (False, True):
        for turn in range(20):
            if turn == 5:  # what is made once has been made
                gc.collect()
                gc.set_debug(gc.DEBUG_SAVEALL)
            client.send(post({"model": "m", "prompt": "hi", "stream": streams}))
            await client.until(END if streams else b"}}")
        await proxy.until(proxy.idle)
        gc.collect()
        gc.set_debug(0)
        left = {type(one).__qualname__ for one in gc.garbage if _is_ours(one)}
        gc.garbage.clear()
        assert not left


def _is_ours(one: object) -> bool:
    return type(one).__module__.startswith("partitiond.")


async def test_headers_of_the_engines_hop_do_not_come_back(make: Make) -> None:
    (whole,) = answer(completion())
    assert isinstance(whole, bytes)
    hop = ("keep-alive: timeout=5", "trailer: x-sum", "upgrade: h2c", "server: x", "x-of-hop: 1",
           "proxy-authenticate: Basic", "set-cookie: session=secret", "vary: X-Engine",
           "access-control-allow-origin: *")  # fmt: skip
    more = "".join(f"\r\n{line}" for line in hop).encode() + b"\r\ncontent-type"
    proxy, _ = await make.both(plays(whole.replace(b"\r\ncontent-type", more, 1)))
    got = await proxy.complete()
    assert got.status_code == 200
    assert set(got.headers) == {"content-length", "content-type", "date", "x-request-id"}


# Connections


async def test_a_new_engine_behind_the_name_gets_no_old_connection(make: Make) -> None:
    proxy, engine = await make.both()
    await proxy.complete()
    proxy.state.apply(table(replica(engine, generation="2-2"), version=2))
    await engine.until(lambda: engine.open == 0)
    await proxy.complete()
    assert [r.connection for r in engine.received] == [1, 2]


async def test_what_runs_is_left_alone_by_tables_in_which_its_replica_drains_and_is_gone(
    make: Make,
) -> None:
    go_on = asyncio.Event()
    script = plays(*stream(text_event("x"), go_on, DONE))
    old, new = await make.engine(script, "old"), await make.engine()
    proxy = await make.proxy(table(replica(old, "old")), debug_headers="always")
    running = proxy.ask(stream=True)
    await old.got(1)
    proxy.state.apply(table(replica(old, "old", draining=True), replica(new, "new"), version=2))
    for _ in range(5):
        assert (await proxy.complete()).headers["x-partitiond-replica"] == "new"
    assert proxy.state.in_flight() == {"old": 1, "new": 0}
    proxy.state.apply(table(version=3, models=()))
    assert proxy.state.in_flight() == {"old": 1}, "a replica that left the table still counts"
    go_on.set()
    assert events_of((await running).text)[-1] == "[DONE]"
    assert len(old.received) == 1
    assert proxy.idle()
    assert (await proxy.complete()).status_code == 404


async def test_an_engine_that_never_ends_its_answer_on_the_wire_is_left_soon(make: Make) -> None:
    """Its client has the whole stream, so nobody waits; the connection takes no other request."""
    text = chunk(text_event("x", "stop"))
    proxy, engine = await make.both(plays(STREAM_HEAD, text, chunk(DONE), "hold"))
    for count in (1, 2):
        assert (await proxy.stream_text()).endswith(DONE.decode())
        assert (proxy.idle(), engine.open, engine.connections) == (True, count, count)
    began = running_loop().time()
    await engine.until(lambda: engine.open == 0)
    assert running_loop().time() - began == pytest.approx(FINISH_SECONDS)

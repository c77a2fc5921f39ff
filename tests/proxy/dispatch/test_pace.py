"""The proxy measures its engines, and sends them what they can do by that.

What follows from the figures, `tests/core/dispatch/test_pace.py` says.
"""

import asyncio
import itertools
from typing import Any

import pytest

from tests.proxy.conftest import Make, error_of, replica, table
from tests.proxy.scripted import DONE, Received, Step, chat_event, chunk, plays, stream, text_event
from tests.proxy.virtual import settled

TTFT, TPOT = 2.0, 0.1


def reading(seconds: float, *, tokens: int = 2, step: float = 0.01) -> Any:
    """An engine that reads one prompt after the other, for so many seconds each."""
    reader = asyncio.Lock()

    class Read(asyncio.Event):
        async def wait(self) -> bool:  # type: ignore[override]
            async with reader:
                await asyncio.sleep(seconds)
            return True

    def script(_request: Received) -> list[Step]:
        pieces: list[list[Step]] = [[step, chunk(text_event(f"t{n}"))] for n in range(tokens - 1)]
        first, *more = stream(text_event("first"), DONE)
        head, *end = more
        return [first, Read(), head, *itertools.chain(*pieces), *end]

    return script


async def served(make: Make, script: Any, **route: Any) -> Any:
    engine = await make.engine(script)
    bounds = {"ttft_seconds": TTFT, "tpot_seconds": TPOT, **route}
    return engine, await make.proxy(table(replica(engine), **bounds))


async def test_prompts_wait_here_while_the_engine_reads_one(make: Make) -> None:
    engine, proxy = await served(make, reading(0.5))
    for _ in range(8):
        await proxy.complete(stream=True)
    before = len(engine.received)
    asked = [proxy.ask(stream=True) for _ in range(7)]
    await settled()
    assert proxy.state.queues()["m"] > 0
    assert len(engine.received) == before + 1, "although it has a place for eight"
    codes = [error_of(await one) for one in asked]
    # Each takes half a second: some can be there within two, and the others know at once.
    assert 2 <= codes.count((200, "")) <= 4
    assert {code for code in codes if code[0] != 200} <= {
        (429, "wait_too_long"), (429, "queue_timeout"),
    }  # fmt: skip
    for line in proxy.records():
        assert line["status"] != 200 or line["ttft_seconds"] <= TTFT
    assert proxy.idle()


async def test_output_that_is_held_back_is_no_late_first_token(make: Make) -> None:
    empty, text = (chat_event({"content": content}) for content in ("", "x"))
    engine = await make.engine(plays(*stream(0.1, empty, 4.0, empty, 4.0, empty, text, DONE)))
    proxy = await make.proxy(table(replica(engine)), first_token_timeout_seconds=5.0)
    for _ in range(8):
        given = await proxy.complete("/v1/chat/completions", messages=[], stream=True)
        assert error_of(given) == (200, "")
    (known,) = proxy.state.replicas()
    assert known.pace.first_token_seconds(1) == pytest.approx(0.1, rel=0.5)


async def test_whole_answers_have_no_first_token_and_wait_for_none(make: Make) -> None:
    engine, proxy = await served(make, reading(0.5))
    for _ in range(8):
        await proxy.complete(stream=True)
    asked = [proxy.ask() for _ in range(8)]
    await proxy.until(lambda: len(engine.received) == 16)
    await asyncio.gather(*asked)
    assert proxy.idle()


@pytest.mark.parametrize(("step", "limits"), [(0.05, {8}), (0.2, {2, 3}), (3.0, {1})])
async def test_the_batch_shrinks_until_tokens_come_in_time(
    make: Make, step: float, limits: set[int]
) -> None:
    _, proxy = await served(make, reading(0.0, tokens=40, step=step))
    (known,) = proxy.state.replicas()
    asked = [proxy.ask(stream=True) for _ in range(8)]
    await asyncio.gather(*asked)
    assert known.max_sequences in limits
    assert proxy.metric("partitiond_proxy_limit_sequences", model="m", replica="m-1") in limits

"""Each fault of the fault proxy is as declared, over TCP as well, and the same for a seed."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator

import pytest

from tests.chaos.echo_engine import echoing
from tests.chaos.fault_proxy import FaultProxy, PromptPlan, SeededPlan, faulty
from tests.chaos.faults import Fault, Kind, Phase, drawn, faults_of
from tests.chaos.raw_client import COMPLETIONS, Answer, RawClient, completion, request_bytes
from tests.chaos.rig import short_folder, until

pytestmark = pytest.mark.full

_tokens = itertools.count()


@contextlib.asynccontextmanager
async def over_tcp() -> AsyncIterator[tuple[FaultProxy, int]]:
    with short_folder() as folder:
        async with echoing(folder / "e.sock") as engine:
            async with faulty(0, engine.path, PromptPlan()) as proxy:
                assert isinstance(proxy.listen, int)
                yield proxy, proxy.listen


async def fetch(port: int, fault: Fault | None, *, stream: bool) -> Answer:
    prompt = f"token=t{next(_tokens)} count=5" + (f" fault={fault}" if fault else "")
    with RawClient(port) as client:
        async with asyncio.timeout(240):
            return await client.post(COMPLETIONS, completion(prompt, stream=stream))


@pytest.mark.parametrize("stream", [True, False])
async def test_without_a_fault_it_changes_nothing(stream: bool) -> None:
    async with over_tcp() as (_, port):
        answer = await fetch(port, None, stream=stream)
    assert answer.complete
    assert answer.body.count(b"-4 ") == 1


@pytest.mark.parametrize("kind", [Kind.CLOSE, Kind.RESET, Kind.HALF_CLOSE])
@pytest.mark.parametrize("stream", [True, False])
async def test_what_ends_a_connection_cuts_the_answer(kind: Kind, stream: bool) -> None:
    async with over_tcp() as (_, port):
        for fault in faults_of(kind, stream=stream):
            answer = await fetch(port, fault, stream=stream)
            assert answer.complete == (fault.phase is Phase.AFTER_ANSWER), fault


async def test_a_reset_over_tcp_is_one() -> None:
    async with over_tcp() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        fault = Fault(Kind.RESET, Phase.BEFORE_HEAD)
        body = f'{{"prompt":"token=t fault={fault}"}}'.encode()
        writer.write(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.transport.abort()


@pytest.mark.parametrize("kind", [Kind.DELAY, Kind.TRICKLE])
async def test_a_request_that_comes_early_is_not_lost(kind: Kind) -> None:
    """While the one before it is still answered."""
    async with over_tcp() as (_, port):
        with RawClient(port) as client:
            await client.connect()
            for fault in (f" fault={Fault(kind, Phase.BEFORE_HEAD)}", "", ""):
                prompt = f"token=t{next(_tokens)} count=5{fault}"
                await client.send(request_bytes(COMPLETIONS, completion(prompt)))
            async with asyncio.timeout(240):
                answers = [await client.answer() for _ in range(3)]
    assert all(answer.complete for answer in answers)


async def test_who_sends_early_and_leaves_a_stalled_answer_is_noticed() -> None:
    async with over_tcp() as (proxy, port):
        with RawClient(port) as client:
            await client.connect()
            fault = Fault(Kind.STALL, Phase.BEFORE_HEAD)
            for word in (f" fault={fault}", ""):
                prompt = f"token=t{next(_tokens)}{word}"
                await client.send(request_bytes(COMPLETIONS, completion(prompt)))
            await until(lambda: proxy.open == 1, "it was not taken")
        await until(lambda: proxy.open == 0, "it holds the connection")


def test_the_same_seed_draws_the_same_faults() -> None:
    def faults(seed: int) -> list[Fault | None]:
        plan = SeededPlan(seed, 0.8)
        bodies = (f"token=t{number} shape=stream".encode() for number in range(100))
        return [plan.fault(body, 0) for body in bodies]

    assert faults(1) == faults(1)
    assert faults(1) != faults(2)
    rng = random.Random(0)
    assert {drawn(rng, stream=True).kind for _ in range(2000)} == set(Kind) - {Kind.NO_LENGTH}


def test_a_fault_can_be_written_down() -> None:
    for kind in Kind:
        for fault in faults_of(kind, stream=True):
            assert Fault.parse(str(fault)) == fault

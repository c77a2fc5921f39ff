"""Only permitted requests fail while engines are killed, restarted and drained.

The engines are processes. Their streams are held until the engine has died, so that it is known
which of them ran on it.
"""

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.chaos.rig import EngineProcess, ProxyUnderTest, proxy_under_test, running
from tests.machine import until
from tests.proxy.answers import Answer, Client, Verdict, judge
from tests.proxy.conftest import replica

pytestmark = pytest.mark.full

REPLICAS = 3
HELD = 12
SUSPECTS = {"request_quarantined", "upstream_reset", "upstream_truncated"}


class Fleet:
    """A proxy, its engines, and the daemon's part: routing tables."""

    def __init__(self, proxy: ProxyUnderTest, made: list[EngineProcess]) -> None:
        self.proxy = proxy
        self.engines = made
        self.draining: set[int] = set()
        self.absent: set[int] = set()

    async def publish(self) -> None:
        await self.proxy.serve(
            replica(engine.path, f"m-{number}", generation=str(engine.generation),
                    max_sequences=64, draining=number in self.draining)
            for number, engine in enumerate(self.engines)
            if number not in self.absent
        )  # fmt: skip

    async def in_flight(self, number: int | None = None) -> int:
        """At one replica, or at all."""
        counts = await self.proxy.in_flight()
        assert counts is not None
        if number is not None:
            return int(counts.get(f"m-{number}", 0))
        return sum(counts.get(f"m-{n}", 0) for n in range(len(self.engines)))

    async def restart(self, number: int) -> None:
        """As the daemon does: out of the table, started anew, in the table again."""
        self.absent.add(number)
        await self.publish()
        await asyncio.to_thread(self.engines[number].start)
        self.absent.discard(number)
        self.draining.discard(number)
        await self.publish()

    async def ask(self, token: str, words: str = "", *, stream: bool = True) -> Answer:
        """One request of a client of its own."""
        assert self.proxy.identity is not None
        with Client(self.proxy.identity.port) as client:
            return await client.ask(f"token={token} count=5 {words}", stream=stream)

    async def served_by(self, number: int) -> None:
        """Ask until a replica has served a request."""

        async def serves() -> bool:
            answer = await self.ask("b")
            verdict = judge(answer, "b", 5, is_chat=False)
            return verdict is Verdict.COMPLETE and replica_of(answer) == f"m-{number}"

        await until(serves, f"m-{number} to serve again")


def replica_of(answer: Answer) -> str:
    return answer.headers.get("x-partitiond-replica", "")


@contextlib.asynccontextmanager
async def fleet_of(count: int) -> AsyncIterator[Fleet]:
    with tempfile.TemporaryDirectory(prefix="pd-") as name:
        paths = [Path(name) / f"e{number}.sock" for number in range(count)]
        made = [EngineProcess(path, "-m", "tests.proxy.echo", str(path)) for path in paths]
        with running(*made):
            async with proxy_under_test(Path(name), debug_headers="always") as proxy:
                fleet = Fleet(proxy, made)
                await fleet.publish()
                yield fleet
                await proxy.settle()


@contextlib.asynccontextmanager
async def held(fleet: Fleet, hold: str) -> AsyncIterator[list[asyncio.Task[Answer]]]:
    """Streams that stand still, after their first content or before; their clients leave."""
    before = await fleet.in_flight()
    tasks = [asyncio.create_task(fleet.ask(f"h{n}", f"hold={hold}")) for n in range(HELD)]

    async def all_run() -> bool:
        return await fleet.in_flight() == before + HELD

    await until(all_run)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ended(tasks: list[asyncio.Task[Answer]], count: int) -> list[Answer]:
    """Wait until so many have ended; the answers, and no further one may have ended."""

    await until(lambda: sum(task.done() for task in tasks) >= count)
    done = [task.result() for task in tasks if task.done()]
    assert len(done) == count, "another replica's streams have ended, too"
    return done


def verdicts(answers: list[Answer]) -> Iterator[Verdict]:
    for answer in answers:
        token = next((f"h{n}" for n in range(HELD) if f"h{n}-".encode() in answer.body), "h0")
        yield judge(answer, token, 5, is_chat=False)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told to end"])
async def test_of_a_dead_engine_only_what_had_begun_there_fails(how: signal.Signals) -> None:
    """Streams past their first content are broken off; the rest is served elsewhere.

    But for requests that had just begun on it: any of them may have killed it, so it is not sent
    to a second engine.
    """
    async with fleet_of(REPLICAS) as fleet, held(fleet, "body") as streams:
        broken = await fleet.in_flight(0)
        async with held(fleet, "head") as begun:
            suspected = await fleet.in_flight(0) - broken
            assert broken, "it has no stream: the test shows nothing"
            assert suspected
            fleet.engines[0].send_signal(how)
            answers = await ended(streams, broken)
            assert set(verdicts(answers)) == {Verdict.BROKEN_OFF}
            assert {replica_of(answer) for answer in answers} == {"m-0"}
            assert {a.code for a in await ended(begun, suspected)} <= SUSPECTS
            for number in range(HELD):  # while the table still names the dead one
                answer = await fleet.ask("n", stream=bool(number % 2))
                assert judge(answer, "n", 5, is_chat=False) is Verdict.COMPLETE, answer
        fleet.engines[0].end()
        await fleet.restart(0)
        await fleet.served_by(0)


async def test_draining_and_restarting_all_in_turn_fails_nothing() -> None:
    async with fleet_of(REPLICAS) as fleet:
        over = asyncio.Event()

        async def client(number: int) -> int:
            served = 0
            while not over.is_set() or not served:
                answer = await fleet.ask(f"d{number}", "pause=0.01", stream=bool(number % 3))
                assert judge(answer, f"d{number}", 5, is_chat=False) is Verdict.COMPLETE, answer
                served += 1
            return served

        clients = [asyncio.create_task(client(number)) for number in range(HELD)]
        try:
            for number, engine in enumerate(fleet.engines):
                fleet.draining.add(number)
                await fleet.publish()

                async def drained(number: int = number) -> bool:
                    return await fleet.in_flight(number) == 0

                await until(drained)
                await asyncio.to_thread(engine.end, signal.SIGTERM)
                await fleet.restart(number)
                await fleet.served_by(number)
        finally:
            over.set()
            await asyncio.gather(*clients)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_poison_request_takes_no_second_replica_down(stream: bool) -> None:
    """It kills whatever engine takes it. Its client gets an error, however often it asks."""
    async with fleet_of(4) as fleet, held(fleet, "body") as innocents:
        at = [await fleet.in_flight(number) for number in range(4)]
        for _ in range(5):
            answer = await fleet.ask("p", "poison=1", stream=stream)
            assert judge(answer, "p", 5, is_chat=False) is Verdict.REFUSED
        dead = [number for number, engine in enumerate(fleet.engines) if not engine.is_alive]
        assert len(dead) == 1
        await ended(innocents, at[dead[0]])
